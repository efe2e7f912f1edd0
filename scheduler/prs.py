"""Pareto relative superiority: how much better the edge tier's picture is than the cloud tier's.

Pure numpy on arrays of scores. It knows neither prompts nor tiers nor money, and never sees a picture:
`q_edge` and `q_cloud` are (n, N) arrays of n jobs by N metrics in [0, 1], higher is better.
Orientation everywhere: 1 = edge better, 0 = cloud better, 0.5 = equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GAP_FLOOR_SHARE = 0.1  # of the median gap: a metric on which the tiers agree must not drown the others
GAP_FLOOR = 1e-6  # keeps the division finite where the tiers are equal in every metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The frozen constants of one tier pair, taken from its training split."""

    gamma: float  # > 0; the median |argument| of the sigmoid is 1 on the training split
    gaps: Floats  # (N,) floored |mean edge - mean cloud| per metric, > 0
    floored: tuple[int, ...]  # indexes of the metrics whose gap was raised to the floor


def fit_scale(q_edge: Floats, q_cloud: Floats) -> Scale:
    """Return the constants that make differences of unlike metrics comparable.

    Args:
        q_edge: (n, N) scores of the edge tier's pictures of the training split, [0, 1].
        q_cloud: (n, N) scores of the cloud tier's pictures of the same prompts.
    Raises:
        ValueError: the arrays are empty, of different shapes, or not finite.
    Source: routing.md section 2; the rule for gamma and the floor are ours.
    """
    _check(q_edge, q_cloud)
    means = np.abs(q_edge.mean(axis=0) - q_cloud.mean(axis=0))  # (N,)
    floor = max(GAP_FLOOR_SHARE * float(np.median(means)), GAP_FLOOR)
    gaps = np.maximum(means, floor)
    gamma = float(np.median(np.abs(q_edge - q_cloud) / gaps))
    floored = tuple(int(i) for i in np.flatnonzero(means < floor))
    return Scale(gamma=max(gamma, GAP_FLOOR), gaps=gaps, floored=floored)


def superiority(q_edge: Floats, q_cloud: Floats, *, scale: Scale) -> Floats:
    """Return D (n, N): per job and metric, in [0, 1], how far the edge picture is ahead.

    Source: D_i = sigmoid((q_i(edge) - q_i(cloud)) / (gamma g_i)), routing.md section 2.
    """
    _check(q_edge, q_cloud)
    return _sigmoid((q_edge - q_cloud) / (scale.gamma * scale.gaps))


def normalised(weights: Sequence[float]) -> Floats:
    """Return the weights divided by their sum; raises ValueError if one is negative or all are zero."""
    array = np.asarray(weights, dtype=np.float64)
    if (
        array.ndim != 1
        or not array.size
        or not np.isfinite(array).all()
        or (array < 0).any()
        or not array.any()
    ):
        raise ValueError(f"weights must be finite, >= 0 and not all zero, not {weights!r}")
    result: Floats = array / array.sum()
    return result


def prs(d: Floats, *, weights: Sequence[float]) -> Floats:
    """Return PRS (n,) = sum_i w_i D_i in [0, 1]; the weights are normalised first."""
    result: Floats = np.clip(d @ normalised(weights), 0.0, 1.0)
    return result


def isotonic_decreasing(values: Floats, *, weights: Floats) -> Floats:
    """Return the closest never-increasing sequence, in weighted least squares.

    Args:
        values: (m,) in the order in which the result must not increase.
        weights: (m,) > 0, for example how many jobs stand behind a value.
    Source: pool adjacent violators, Barlow et al., Statistical Inference under Order Restrictions (1972).
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        mean, total, length = float(value), float(weight), 1
        while blocks and blocks[-1][0] < mean:
            before, share, count = blocks.pop()
            mean = (before * share + mean * total) / (share + total)
            total, length = share + total, length + count
        blocks.append((mean, total, length))
    return np.concatenate([np.full(length, mean) for mean, _, length in blocks])


def _sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)) without overflow, and exactly symmetric: s(x) + s(-x) = 1."""
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


def _check(q_edge: Floats, q_cloud: Floats) -> None:
    if q_edge.ndim != 2 or q_edge.shape != q_cloud.shape or not q_edge.size:
        raise ValueError(f"scores must be two equal (n, N) arrays, not {q_edge.shape} and {q_cloud.shape}")
    if not (np.isfinite(q_edge).all() and np.isfinite(q_cloud).all()):
        raise ValueError("scores must be finite")
