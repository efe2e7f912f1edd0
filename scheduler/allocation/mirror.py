"""A price that needs no forecast: it rises after a window that spent too much and falls after one too little.

Pure functions of numbers; they know neither jobs nor clocks. Used in place of `bid_price` while the mix of
jobs drifts, or while nothing is known of the jobs to come.
"""

import math

import numpy as np

from scheduler.allocation.options import Floats

FALSE_ALARM = 1e-4  # per look: windows look often, and two samples of one mix must rarely seem to differ


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


def drifted(recent: Floats, known: Floats) -> bool:
    """Return whether recent jobs come from another mix than the known ones.

    The two-sample Kolmogorov-Smirnov test with its asymptotic limit; on ties it errs towards False.

    Args:
        recent: (m,) efficiency of the first step of recent jobs, 0 where there is none.
        known: (k,) the same of the jobs before them (`Reservoir.first_efficiencies`).
    Source: Smirnov (1948); limit sqrt(-ln(alpha / 2) / 2) * sqrt((m + k) / (m k)).
    """
    m, k = len(recent), len(known)
    if not m or not k:
        return False
    values = np.concatenate([recent, known])
    below_recent = np.searchsorted(np.sort(recent), values, side="right") / m
    below_known = np.searchsorted(np.sort(known), values, side="right") / k
    distance = float(np.abs(below_recent - below_known).max())
    return distance > math.sqrt(-math.log(FALSE_ALARM / 2) / 2 * (m + k) / (m * k))
