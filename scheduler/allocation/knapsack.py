"""One budget, any number of tiers: the multiple-choice knapsack by its linear relaxation.

Pure numpy; it knows neither batches nor capacities. Every job gets its floor tier first; what is left buys
the steps of the hulls in falling efficiency, each that still fits. The gain is less than one step below the
optimum of the linear relaxation, and so of any choice.
"""

import numpy as np

from scheduler.allocation.bounds import bounds
from scheduler.allocation.greedy import fill, price_of, take
from scheduler.allocation.hulls import floors, increments
from scheduler.allocation.options import DEFERRED, Bound, Choice, Options, chosen


def solve(options: Options, *, budget: int | None, price: float = 0.0) -> Choice:
    """Choose a tier for each job within the budget, so that the predicted gain is as high as it can be.

    If the floors do not all fit, jobs get theirs in the order of the rows, each that still fits; the others
    are deferred, and nothing dearer is bought. Otherwise the order of the rows does not matter, and more
    money never brings less gain.

    Args:
        options: most urgent job first.
        budget: micro-dollars; below 0 counts as 0; None = no limit.
        price: gain per micro-dollar, >= 0; a step at or below it is not bought. 0: a step must gain.
    Returns:
        A choice whose micro_usd is at most the budget.
    """
    tier, floor = floors(options)
    money = None if budget is None else max(0, budget)
    spare = None if money is None else money - int(floor.sum())
    poor = None
    if money is not None and spare is not None and spare < 0:
        poor = np.flatnonzero(~fill(floor, money) & (tier != DEFERRED))
        tier[poor] = DEFERRED
    del floor
    steps = increments(options)
    if poor is None:
        taken = steps.efficiency > price
        worthy = steps.only(taken)
        taken[taken] = take(worthy.extra, worthy.efficiency, options.rank, spare, job=worthy.job)
        tier[steps.job[taken]] = steps.tier[taken]  # a job's steps come in order: its last one counts
    else:
        taken = np.zeros(len(steps), dtype=np.bool_)
    bound = bounds(options, steps, taken, tier)
    if poor is not None:
        bound[poor] = Bound.DEFERRED_MONEY
    return chosen(options, tier, bound, price=max(price, price_of(steps.efficiency, taken)))
