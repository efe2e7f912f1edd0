"""Predicted PRS beside the PRS that was measured on pairs of pictures: per window, overall, with an alarm.

Pure numpy on values; it knows neither SQL nor who predicted nor what a picture shows. A measured PRS is what
`scheduler.prs` makes of two pictures' scores with the constants that the predictor was fitted with, or, where
there are none, with constants fitted on the very pairs. Pairs count alike: whether a job gets one depends on
nothing about it (`scheduler.shadows`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from routet2i.contracts import Yardstick
from scheduler.intervals import Figure, figure, group_counts
from scheduler.outcomes import BINS, places
from scheduler.prs import Floats, Scale, fit_scale, prs, superiority

LEAST_PAIRS = 50  # below, the error of a well calibrated predictor can look large by chance (see the tests)
ERROR_LIMIT = 0.10  # of the calibration error: beyond it, the middle tenths of PRS are exchanged
RESAMPLES = 1000
SEED = 0

RULE = (
    f"the alarm is on if there are at least {LEAST_PAIRS} pairs and even the lower end of the 95 % interval "
    f"of their calibration error is above {ERROR_LIMIT:.2f}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One prompt with what was predicted and what both tiers' pictures scored."""

    prompt: str
    window_id: str
    committed_at: datetime  # of the window
    prs: float  # predicted, [0, 1]
    edge: Mapping[str, float]  # metric -> measured [0, 1]
    cloud: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowDrift:
    """The pairs of one decision window."""

    window_id: str
    committed_at: datetime
    pairs: int
    predicted: float  # mean PRS
    measured: float
    difference: float  # predicted less measured: > 0, the edge tier was thought better than it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """All pairs of one predictor version, oldest window first."""

    windows: tuple[WindowDrift, ...]
    points: tuple[tuple[float, float], ...]  # predicted and measured PRS of each pair, in the given order
    predicted: float  # mean PRS
    measured: float
    difference: Figure  # predicted less measured, with its 95 % interval over prompts
    calibration_error: Figure  # expected |predicted - measured| over tenths of predicted PRS (routing.md 6.7)
    spearman: float | None  # rank correlation; None where one side has no spread
    own_constants: bool  # False: measured with constants fitted on these pairs
    alarm: bool  # see RULE

    @property
    def pairs(self) -> int:
        """Return how many pairs there are."""
        return len(self.points)


def measure(pairs: Sequence[Pair], *, yardstick: Yardstick | None, weights: Mapping[str, float]) -> Floats:
    """Return the measured PRS (n,) of n pairs.

    Args:
        pairs: at least one; each has every metric that has a weight.
        yardstick: the predictor's own constants; None = they are fitted on the pairs.
        weights: metric -> weight, for constants fitted on the pairs.
    """
    chosen = weights if yardstick is None else yardstick.weights
    metrics = [metric for metric, weight in chosen.items() if weight > 0]
    edge = np.array([[pair.edge[metric] for metric in metrics] for pair in pairs])  # (n, N)
    cloud = np.array([[pair.cloud[metric] for metric in metrics] for pair in pairs])
    if yardstick is None:
        scale = fit_scale(edge, cloud)
    else:
        spans = np.array([yardstick.spans[metric] for metric in metrics])
        scale = Scale(gamma=1.0, gaps=spans, floored=())
    return prs(superiority(edge, cloud, scale=scale), weights=[chosen[metric] for metric in metrics])


def drift_of(pairs: Sequence[Pair], *, yardstick: Yardstick | None, weights: Mapping[str, float]) -> Drift:
    """Compare predicted with measured PRS over the pairs of one predictor version.

    Args:
        pairs: at least one, oldest first.
        yardstick, weights: as in `measure`.
    """
    measured = measure(pairs, yardstick=yardstick, weights=weights)
    predicted = np.array([pair.prs for pair in pairs])
    prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(pair.prompt for pair in pairs))}
    groups = np.array([prompts[pair.prompt] for pair in pairs])  # one prompt drawn twice is no new evidence
    counts = group_counts(groups, resamples=RESAMPLES, seed=SEED).astype(np.float64)
    error = figure(
        float(_calibration_error(predicted, measured, counts=np.ones((1, len(pairs))))[0]),
        _calibration_error(predicted, measured, counts=counts),
    )
    gaps = predicted - measured
    return Drift(
        windows=_by_window(pairs, predicted=predicted, measured=measured),
        points=tuple(zip(predicted.tolist(), measured.tolist(), strict=True)),
        predicted=float(predicted.mean()),
        measured=float(measured.mean()),
        difference=figure(float(gaps.mean()), counts @ gaps / counts.sum(axis=1)),
        calibration_error=error,
        spearman=spearman(predicted, measured),
        own_constants=yardstick is not None,
        alarm=len(pairs) >= LEAST_PAIRS and error.low is not None and error.low > ERROR_LIMIT,
    )


def _calibration_error(predicted: Floats, measured: Floats, *, counts: Floats) -> Floats:
    """Return (B,): per resample, |mean predicted - mean measured| of each tenth, weighted by its pairs."""
    tenth = np.eye(BINS)[places(predicted)]  # (n, BINS)
    sums = counts @ (tenth * (predicted - measured)[:, None])  # (B, BINS)
    result: Floats = np.abs(sums).sum(axis=1) / counts.sum(axis=1)
    return result


def _by_window(pairs: Sequence[Pair], *, predicted: Floats, measured: Floats) -> tuple[WindowDrift, ...]:
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows.setdefault(pair.window_id, []).append(row)
    windows = [
        WindowDrift(
            window_id=window_id,
            committed_at=pairs[own[0]].committed_at,
            pairs=len(own),
            predicted=float(predicted[own].mean()),
            measured=float(measured[own].mean()),
            difference=float((predicted[own] - measured[own]).mean()),
        )
        for window_id, own in rows.items()
    ]
    return tuple(sorted(windows, key=lambda window: (window.committed_at, window.window_id)))


def spearman(first: Floats, second: Floats) -> float | None:
    """Return the rank correlation of two (n,) arrays, ties at their mean rank; None without spread."""
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float(a @ b) / spread if spread > 0 else None


def _ranks(values: Floats) -> Floats:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    result: Floats = (last - (counts - 1) / 2)[index]
    return result
