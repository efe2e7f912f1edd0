"""One question of the report: whose pictures of which prompts, split how, valued by whom.

Arrays only. It knows no router, no file and no encoder's weights; it fits and measures nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scheduler.folds import grouped_folds
from scheduler.outcomes import Outcomes, judged, pooled
from scheduler.predictor.examples import Features, Floats, Labels, Rows
from scheduler.prs import fit_scale


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Row numbers of training prompts and of test prompts; no group stands on both sides."""

    train: Rows
    test: Rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """Who values the pictures that a router's decisions lead to."""

    name: str
    metrics: tuple[str, ...]  # N
    weights: Floats  # (N,) sum 1
    scores: Floats  # (n, R, 2, N) of R pictures per prompt and tier, edge first; training looks at the first
    unit: str = ""  # of a plot's axis: empty: delta-P; else the mean score of the only metric, in this unit
    stretch: tuple[float, float] = (0.0, 1.0)  # what scores 0 and 1 are in that unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """What all routers are asked alike."""

    part: str  # of the report: pocket, rated or drawn
    name: str  # names the data, and the profile or the metric
    pair: str  # "edge -> cloud"
    features: Mapping[str, Features]  # encoder id -> features of all n prompts
    labels: Labels  # (n, 2, N) what routers of a pair learn from
    groups: Rows  # (n,) near-duplicates
    splits: tuple[tuple[Split, ...], ...]  # per training seed, its folds
    judges: tuple[Judge, ...]  # the first one is what the routers learn to please
    every_tier: Labels | None = (
        None  # (n, T, N) edge first, cloud last: for routers that learn from all tiers
    )
    ratings: Floats | None = None  # (n, 2, R) of single raters, where there are any
    leading: bool = True  # whether the page shows all tables of it; otherwise the headline only
    ablations: bool = False  # whether variants of the method compete, too

    @property
    def key(self) -> str:
        """Return the name of its rows in the table of results."""
        return f"{self.name}, {self.pair}"


def cross_validation(groups: Rows, *, folds: int, seeds: int) -> tuple[tuple[Split, ...], ...]:
    """Return grouped folds, others for each seed."""
    splits = []
    for seed in range(seeds):
        fold = grouped_folds(groups, folds=folds, seed=seed)
        splits.append(
            tuple(
                Split(train=np.flatnonzero(fold != k), test=np.flatnonzero(fold == k)) for k in range(folds)
            )
        )
    return tuple(splits)


def outcomes_of(experiment: Experiment, judge: Judge) -> tuple[Outcomes, Rows]:
    """Return what was delivered for every test prompt, a row per picture, and the prompt (rows,) of each.

    Each row has the scale of the training prompts that the first seed's folds left it, so no row took part in
    its own; all pictures of one prompt form one group with its near-duplicates.
    """
    parts, prompts = [], []
    pictures = judge.scores.shape[1]
    for split in experiment.splits[0]:
        first = judge.scores[split.train, 0]  # (m, 2, N)
        own = np.repeat(split.test, pictures)
        values = judge.scores[split.test].reshape(-1, 2, len(judge.metrics))  # (m * R, 2, N)
        parts.append(
            judged(
                values[:, 0],
                values[:, 1],
                metrics=judge.metrics,
                weights=[float(weight) for weight in judge.weights],
                scale=fit_scale(first[:, 0], first[:, 1]),
                groups=experiment.groups[own],
            )
        )
        prompts.append(own)
    return pooled(parts), np.concatenate(prompts)
