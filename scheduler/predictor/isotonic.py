"""Turn a ranking into predicted PRS: the same order, on a scale on which 0.5 means equal.

A never-falling curve from a ranking's values to true PRS, fitted on values that the ranking gave to prompts
it had not seen. It knows no ranking in particular, neither prompts nor money.
Source: routing.md section 5; isotonic regression by pool adjacent violators (`scheduler.prs`).
"""

import numpy as np

from scheduler.predictor.examples import Features, Floats, Labels, Rows
from scheduler.predictor.routers import Ranking, RoutePrediction, fit_pair, truth_of
from scheduler.prs import isotonic_decreasing

ORDER = 1e-6  # share of the old value in the new one: keeps the order where the curve is flat


class Isotonic:
    """A ranking with its calibration; the order of any two prompts is the ranking's own."""

    calibrated = True

    def __init__(self, ranking: Ranking) -> None:
        self.name = f"{ranking.name}+isotonic"
        self._ranking = ranking

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Fit the ranking, then the curve on what it says of prompts it did not see."""
        self._ranking.fit(features, labels, groups=groups, seed=seed)
        truth = truth_of(labels, scale=fit_pair(labels))
        self._from, self._to = isotonic_curve(self._ranking.held_out(), truth.prs)

    def predict(self, features: Features) -> RoutePrediction:
        """Return the curve's value at each prompt's rank."""
        ranked = self._ranking.predict(features).prs_hat
        curve = np.interp(ranked, self._from, self._to)
        return RoutePrediction(prs_hat=(1 - ORDER) * curve + ORDER * ranked)


def isotonic_curve(values: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Return the knots (m,), (m,) of the closest never-falling curve, to be joined by straight lines.

    A knot stands at the mean value of each pool, at the pool's mean truth.

    Args:
        values: (n,) in any order; equal values are one point.
        truth: (n,) what they should mean.
    """
    points, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    weights = counts.astype(np.float64)
    means = np.bincount(index, weights=truth) / weights
    levels = isotonic_decreasing(means[::-1], weights=weights[::-1])[::-1]
    starts = np.flatnonzero(np.diff(levels, prepend=-np.inf) > 0)  # first point of each pool
    centres = np.add.reduceat(points * weights, starts) / np.add.reduceat(weights, starts)
    return centres, levels[starts]
