"""Take the items that bring most per micro-dollar, within a budget.

Pure numpy on items with a price and an efficiency; it knows neither tiers nor accounts. Never over the
budget, whatever the order of the rows.

Raising the budget never lowers the total gain: up to the first item i that the larger budget takes and the
smaller one skips, both took the same. The smaller budget then has less than i's price left, and everything
after i is at most as efficient as i, so all it can still take gains less than i alone. For the same reason
the total is less than one item below the optimum of the linear relaxation, and exact if all items cost the
same.
"""

import numpy as np
from numpy.typing import NDArray

from scheduler.allocation.options import Floats, Mask, Money, Rows

ROUNDS = 32  # passes over what may still fit; after them one item at a time, so that no input takes for ever
CUTS = 8  # rounds in which what may still fit is cut rather than sorted: sorting a million takes a second
SORTED = 1 << 16  # items that are sorted at once
PART = 1 << 16  # items handed to Python's loop at once

Indexes = NDArray[np.int64]


def take(
    extra: Money, efficiency: Floats, rank: Money, budget: int | None, *, job: Rows | None = None
) -> Mask:
    """Return which items to take: in falling efficiency, lower rank first, each that still fits.

    Args:
        extra: (m,) micro-dollars, >= 0.
        efficiency: (m,) gain per micro-dollar, > 0.
        rank: (m,) breaks ties; unique. With `job`: (n,), of each job.
        budget: micro-dollars; below 0 counts as 0; None = no limit.
        job: (m,) whose item it is: a job's items are next to each other, in the order in which they must be
            taken, and their efficiencies do not rise. After one that does not fit, its later ones are not
            taken. None: every item stands alone.
    """
    if budget is None:
        return np.ones(len(extra), dtype=np.bool_)
    return _take(extra, efficiency, rank, max(0, budget), job=job, cuts=CUTS)


def price_of(efficiency: Floats, taken: Mask) -> float:
    """Return the efficiency of the best item that was not taken; 0 if all were."""
    return float(efficiency.max(initial=0.0, where=~taken))


def fill(extra: Money, budget: int, *, job: Rows | None = None) -> Mask:
    """Return which items to take in the given order, each that still fits into the budget.

    Args:
        extra: (m,) micro-dollars, >= 0.
        budget: micro-dollars, >= 0.
        job: (m,) after a job's first item that does not fit, its later ones are not taken; None: every item
            stands alone.
    """
    mask = np.zeros(len(extra), dtype=np.bool_)
    rest: Indexes = np.arange(len(extra))
    for _ in range(ROUNDS):
        sums = np.cumsum(extra[rest])
        fitting = int(np.searchsorted(sums, budget, side="right"))
        mask[rest[:fitting]] = True
        if fitting == len(rest):
            return mask
        budget -= int(sums[fitting - 1]) if fitting else 0
        rest = rest[fitting:]
        barred = extra[rest] > budget
        if job is not None:
            by_job = np.argsort(job[rest], kind="stable")
            barred[by_job] = spread(barred[by_job], job[rest][by_job])
        rest = rest[~barred]
    skipped: set[int] = set()
    for start in range(0, len(rest), PART):
        part = rest[start : start + PART]
        owners = part if job is None else job[part]
        for i, price, owner in zip(part.tolist(), extra[part].tolist(), owners.tolist(), strict=True):
            if price > budget:
                skipped.add(owner)
            elif owner not in skipped:
                mask[i] = True
                budget -= price
    return mask


def spread(barred: Mask, job: Rows) -> Mask:
    """Return the mask with every item barred that comes after a barred one of its job.

    Args:
        barred: (m,)
        job: (m,) a job's items are next to each other.
    """
    same = job[1:] == job[:-1]
    barred = barred.copy()
    while True:
        more = same & barred[:-1] & ~barred[1:]
        if not more.any():
            return barred
        barred[1:] |= more


def _take(extra: Money, efficiency: Floats, rank: Money, budget: int, *, job: Rows | None, cuts: int) -> Mask:
    """Do what `take` says: cut, fill what is tied at the cut, then go on with what still fits."""
    if int(extra.sum()) <= budget:
        return np.ones(len(extra), dtype=np.bool_)
    if len(extra) <= SORTED or not cuts:
        order = np.lexsort((np.arange(len(extra)), rank if job is None else rank[job], -efficiency))
        mask = np.zeros(len(extra), dtype=np.bool_)
        mask[order[fill(extra[order], budget, job=None if job is None else job[order])]] = True
        return mask
    cut, left = _cut(extra, efficiency, budget)
    mask = efficiency > cut
    tied = np.flatnonzero(efficiency == cut)
    tied = tied[np.lexsort((tied, rank[tied if job is None else job[tied]]))]
    taken = tied[fill(extra[tied], left, job=None if job is None else job[tied])]
    mask[taken] = True
    left -= int(extra[taken].sum())
    barred = ~mask & ((efficiency == cut) | (extra > left))
    if job is not None:
        barred = spread(barred, job)
    rest = np.flatnonzero(~mask & ~barred)
    mask[rest] = _take(
        extra[rest],
        efficiency[rest],
        rank[rest] if job is None else rank,
        left,
        job=None if job is None else job[rest],
        cuts=cuts - 1,
    )
    return mask


def _cut(extra: Money, efficiency: Floats, budget: int) -> tuple[float, int]:
    """Return the highest efficiency that cannot be paid for all its items, and what is left for those.

    Needs items that cost more than the budget together. Halves the items around their median, so it takes
    time in proportion to them.
    """
    while True:
        median = float(np.partition(efficiency, len(efficiency) // 2)[len(efficiency) // 2])
        above = efficiency > median
        price = int(extra.sum(where=above))
        if price > budget:
            extra, efficiency = extra[above], efficiency[above]
            continue
        tied = int(extra.sum(where=efficiency == median))
        if price + tied > budget:
            return median, budget - price
        budget -= price + tied
        below = efficiency < median
        extra, efficiency = extra[below], efficiency[below]
