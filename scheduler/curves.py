"""What a ranking of jobs is worth at every share of the cloud, for many resamples at once.

Pure numpy. A curve knows jobs as numbers only: a place in the ranking, a value gained on the cloud, and how
often the job was drawn in each of B resamples. It knows neither metrics nor routers nor prompts.
Jobs of equal rank form one block, and a budget that ends inside a block takes each of its jobs equally often:
the exact mean over all orders of the block, which is a straight line. So the order of rows changes nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.prs import Floats

Rows = NDArray[np.int64]

TOLERANCE = 1e-12  # relative: sums of the same numbers in another order count as equal


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """n jobs in the order of a ranking, K blocks of equal rank, in B resamples."""

    ranks: Floats  # (K,) rising; low = cloud first
    index: Rows  # (n,) block of each job
    order: Rows  # (n,) jobs, block by block
    ends: Rows  # (K,) number of jobs up to the end of each block
    counts: Floats  # (B, n) how often each job was drawn, in that order
    draws: Floats  # (B, K + 1) how many draws lie before each block; last of all, their total

    def running(self, values: Floats) -> Floats:
        """Return (B, K + 1): sums of values (n,) or (B, n) over the draws before each block; last: of all."""
        return _running(self.counts * values.take(self.order, axis=-1), self.ends)

    def middle_ranks(self) -> Floats:
        """Return (B, K): how many draws lie below each block, plus half of its own."""
        result: Floats = (self.draws[:, 1:] + self.draws[:, :-1]) / 2
        return result


def blocks(ranking: Floats, *, counts: Floats) -> Blocks:
    """Return the blocks of a ranking (n,) for resamples in which each job was drawn counts (B, n) times."""
    ranks, index, sizes = np.unique(ranking, return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    ends = np.cumsum(sizes)
    drawn = counts.take(order, axis=1)
    return Blocks(ranks=ranks, index=index, order=order, ends=ends, counts=drawn, draws=_running(drawn, ends))


def _running(columns: Floats, ends: Rows) -> Floats:
    """Return (B, K + 1): 0, then the sums of the first ends (K,) of the columns (B, n)."""
    sums = np.zeros((len(columns), columns.shape[1] + 1))
    np.cumsum(columns, axis=1, out=sums[:, 1:])
    if len(ends) == columns.shape[1]:  # no ties
        return sums
    return sums.take(np.concatenate([[0], ends]), axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Mean gain per job over all-edge against the permitted share of the cloud; straight between knots."""

    shares: Floats  # (B, K) from 0 to 1, never falling
    gains: Floats  # (B, K) sum of the values of the routed jobs / number of all jobs
    limit: Floats  # (B,) the realised share never exceeds it; 1 without a cap


def cloud_curve(ranked: Blocks, values: Floats, *, cap: float | None = None) -> Curve:
    """Return what is gained when the jobs of lowest rank go to the cloud first.

    Args:
        values: (n,) or (B, n) what each job gains on the cloud.
        cap: only jobs of rank < cap may go; the curve stays flat behind them. None: every job may.
    Source: routing.md section 6, curves by ranking, uncapped and capped.
    """
    below = len(ranked.ranks) if cap is None else int(np.searchsorted(ranked.ranks, cap, side="left"))
    total = ranked.draws[:, -1:]
    shares = ranked.draws[:, : below + 1] / total
    gains = ranked.running(values)[:, : below + 1] / total
    limit = shares[:, -1]
    if cap is not None:
        shares = np.concatenate([shares, np.ones_like(total)], axis=1)
        gains = np.concatenate([gains, gains[:, -1:]], axis=1)
    return Curve(shares=shares, gains=gains, limit=limit)


def gains_at(curve: Curve, shares: Floats) -> Floats:
    """Return (B, S) gains at shares (S,) or (B, S) in [0, 1]; between jobs, the next counts in part."""
    wanted = np.broadcast_to(shares, (len(curve.shares), shares.shape[-1]))
    rows = zip(wanted, curve.shares, curve.gains, strict=True)
    return np.stack([np.interp(at, x, y) for at, x, y in rows])


def first_share(curve: Curve, targets: Floats) -> Floats:
    """Return (B,) the first share whose gain reaches targets (B,); inf where none does.

    The curve need not rise: only the segment before the first knot that reaches the target is looked at.
    """
    slack = TOLERANCE * np.maximum(1.0, np.abs(targets))
    reached = curve.gains >= (targets - slack)[:, None]
    right = np.argmax(reached, axis=1)
    rows = np.arange(len(targets))
    left = np.maximum(right - 1, 0)
    low, high = curve.gains[rows, left], curve.gains[rows, right]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(high > low, (targets - low) / (high - low), 0.0)
    start, end = curve.shares[rows, left], curve.shares[rows, right]
    shares = start + np.clip(part, 0.0, 1.0) * (end - start)
    result: Floats = np.where(reached.any(axis=1), shares, np.inf)
    return result


def area(curve: Curve) -> Floats:
    """Return (B,) the trapezoid area under the gains over the whole of [0, 1]."""
    x, y = curve.shares, curve.gains
    result: Floats = ((y[:, 1:] + y[:, :-1]) / 2 * np.diff(x, axis=1)).sum(axis=1)
    return result


def cloud_probability(ranking: Floats, *, share: float, cap: float | None = None) -> Floats:
    """Return (n,) each job's probability of the cloud at a permitted share: 1, 0, or a part inside a tie."""
    _, block, sizes = np.unique(ranking, return_inverse=True, return_counts=True)
    before = np.cumsum(sizes) - sizes
    parts: Floats = np.clip((share * len(ranking) - before) / sizes, 0.0, 1.0)[block]
    return parts if cap is None else np.where(ranking < cap, parts, 0.0)


def upper_hull(costs: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return the corners of the upper concave hull of points (m,), cheapest first; equal costs: the best."""
    order = np.lexsort((-values, costs))
    _, first = np.unique(costs[order], return_index=True)
    points = order[first]
    _, x, y = _hulls(np.zeros(len(points), dtype=np.int64), costs[points], values[points])
    return x, y


def envelope_area(costs: Floats, values: Floats) -> Floats:
    """Return (B,) the area under each row's upper hull, continued flat behind its maximum.

    Args:
        costs: (B, K) never falling along a row; where it stands still, so does the value.
        values: (B, K).
    """
    rows, columns = costs.shape
    moved = np.concatenate([np.ones((rows, 1), dtype=bool), np.diff(costs, axis=1) > 0], axis=1)
    row, x, y = _hulls(np.repeat(np.arange(rows), columns)[moved.ravel()], costs[moved], values[moved])
    peak = values.max(axis=1)[row[1:]]
    height = np.where(y[1:] > y[:-1], (y[1:] + y[:-1]) / 2, peak)
    inside = row[1:] == row[:-1]
    pieces = (height * np.diff(x))[inside]
    return np.bincount(row[1:][inside], weights=pieces, minlength=rows).astype(np.float64)


def _hulls(row: Rows, x: Floats, y: Floats) -> tuple[Rows, Floats, Floats]:
    """Return the points (m,) that are corners of their row's upper hull; x rises strictly inside a row.

    The test of Andrew's monotone chain (Information Processing Letters 9, 1979), on all points at once, until
    no point lies on or below the line between its neighbours. Such a point is never a corner, so all of them
    may go together; about half do in each round.
    """
    while len(x) > 2:
        rise, reach = (y[1:-1] - y[:-2]) * (x[2:] - x[1:-1]), (y[2:] - y[1:-1]) * (x[1:-1] - x[:-2])
        keep = np.ones(len(x), dtype=bool)
        keep[1:-1] = (rise > reach) | (row[2:] != row[:-2])
        if keep.all():
            break
        row, x, y = row[keep], x[keep], y[keep]
    return row, x, y
