"""A price that needs no forecast: it rises after a window that spent too much and falls after one too little.

Pure functions of numbers; they know neither jobs nor clocks. A policy of the simulator that `market` is held
against: re-solving on the newest jobs did better where the mix drifts (DECISIONS 34).
"""

import math


def step_size(*, efficiency: float, extra: float, jobs: float) -> float:
    """Return by how much the price moves per micro-dollar that was spent beside the plan.

    After about sqrt(jobs) steps bought beside the plan the price has moved by a typical efficiency.

    Args:
        efficiency: typical gain per micro-dollar of a step, > 0, such as the median.
        extra: typical micro-dollars of a step, > 0.
        jobs: expected in the whole period, at least 1 counts.
    Source: rate of order 1/sqrt(T), Balseiro, Lu, Mirrokni, arXiv 2011.10124, theorem 1.
    """
    return efficiency / (extra * math.sqrt(max(1.0, jobs)))


def descend(price: float, *, spent: int, planned: float, step: float) -> float:
    """Return the price for the next window: one step of dual gradient descent, at least 0.

    Args:
        price: of the window that was decided, gain per micro-dollar, >= 0.
        spent: micro-dollars above the floors in it.
        planned: what it should have spent, in micro-dollars: the period's money times the window's share of
            the period's jobs.
        step: of `step_size`.
    Source: algorithm 1 of arXiv 2011.10124 with the Euclidean reference function.
    """
    return max(0.0, price + step * (spent - planned))
