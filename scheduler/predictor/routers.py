"""What a router of the evaluation is: fitted on measured prompts, asked about unseen ones.

The protocol and the truth it is fitted on, as arrays. It knows no router, no encoder and no threshold.
Orientation everywhere: 1 = edge better, 0 = cloud better.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scheduler.predictor.examples import Features, Floats, Labels, Rows
from scheduler.prs import Scale, fit_scale, prs, superiority


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutePrediction:
    """What a router says about n prompts."""

    prs_hat: Floats  # (n,) in [0, 1]; a job goes to the cloud iff below alpha
    d_hat: Floats | None = None  # (n, N) predicted D per metric, where the router knows metrics

    def __post_init__(self) -> None:
        if not ((self.prs_hat >= 0) & (self.prs_hat <= 1)).all():  # NaN fails too
            raise ValueError("prs_hat must be finite and lie in [0, 1]")


class Router(Protocol):
    """Ranks prompts by how well the edge tier serves them; never runs a generator."""

    @property
    def name(self) -> str:
        """Return the name its row has in every table."""

    @property
    def calibrated(self) -> bool:
        """Return whether 0.5 really means "equal"; otherwise only the order of prs_hat means something."""

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Learn from n training prompts.

        Args:
            features: of the n prompts.
            labels: what was measured on them; the pair is the first tier and the last.
            groups: (n,) near-duplicate group of each; inner validation keeps a group together.
            seed: of everything random; the same seed gives the same router.
        """

    def predict(self, features: Features) -> RoutePrediction:
        """Return one prediction per prompt, in order."""


class Ranking(Router, Protocol):
    """A router whose output is only an order; it can be calibrated by what it said of unseen prompts."""

    def held_out(self) -> Floats:
        """Return (n,) prs_hat of the training prompts, each from a fit that did not see its group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What was measured on n prompts for the pair of the first tier and the last."""

    arguments: Floats  # (n, N) what stands in the sigmoid of D
    d: Floats  # (n, N)
    prs: Floats  # (n,)
    utility: Floats  # (n, T) u = sum_i w_i q_i / (gamma g_i) of every tier


def fit_pair(labels: Labels) -> Scale:
    """Return the frozen constants of the pair of the first tier and the last, from its training rows."""
    return fit_scale(labels.scores[:, 0], labels.scores[:, -1])


def truth_of(labels: Labels, *, scale: Scale) -> Truth:
    """Return D, PRS and scalar quality of every prompt, by constants frozen on training rows.

    Source: routing.md sections 2 and 7.
    """
    edge, cloud = labels.scores[:, 0], labels.scores[:, -1]
    units = scale.gamma * scale.gaps  # (N,)
    d = superiority(edge, cloud, scale=scale)
    return Truth(
        arguments=(edge - cloud) / units,
        d=d,
        prs=prs(d, weights=[float(weight) for weight in labels.weights]),
        utility=(labels.scores / units) @ labels.weights,
    )


def unit_means(features: Features) -> Floats:
    """Return e(x) (n, d): each prompt's mean token state, scaled to length 1; a zero state stays zero."""
    means = features.means().astype(np.float64)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    unit: Floats = means / np.where(lengths > 0, lengths, 1.0)
    return unit
