"""Jobs that nobody has submitted yet: how many an account should expect until its period ends, told humbly.

Pure: counts of arrivals and the time in, a number of jobs and pictures out. It knows no money: what is kept
for such jobs is `scheduler.deciding`'s affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from routet2i.contracts import SLOT_MS, Arrivals
from scheduler.allocation.forecast import expected_jobs

SLOTS_PER_DAY = 86_400_000 // SLOT_MS


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Jobs that may still come until a period ends."""

    jobs: float = 0.0
    pictures: float = 0.0  # wanted by them


NONE = Demand()


def demand(arrivals: Arrivals, *, now_ms: int, ends_ms: int) -> Demand:
    """Return the jobs to count on from now to the end of a period.

    Money that is kept for jobs which never come is lost to those that are there, so it is the expected number
    less its standard deviation; no more than came before in as long a time, less its own; and no further
    ahead than arrivals were seen back.

    Args:
        arrivals: up to the slot that `now_ms` lies in.
        now_ms: milliseconds since 1970.
        ends_ms: first moment after the period.
    """
    begun = now_ms // SLOT_MS * SLOT_MS
    until = min(ends_ms, begun + len(arrivals.jobs) * SLOT_MS)
    seen = sum(arrivals.jobs)
    if until <= now_ms or not seen:
        return NONE
    ahead = (until - begun) / SLOT_MS
    forecast = expected_jobs(arrivals.jobs, ahead=ahead, slots_per_day=SLOTS_PER_DAY)
    least = min(forecast.jobs - forecast.error, _as_before(arrivals.jobs, ahead=ahead))
    rest = (until - now_ms) / (until - begun)  # the slot that has begun is part of what lies ahead
    jobs = max(0.0, least) * rest
    return Demand(jobs=jobs, pictures=jobs * arrivals.pictures / seen)


def _as_before(jobs: Sequence[int], *, ahead: float) -> float:
    """Return what came in as many slots before, less the deviation of the difference of two such stretches.

    They are those of the same time of day, once a day is known, else the newest. Jobs that come in a few
    files scatter more than they are, however many there are in each.
    """
    slots = ceil(ahead)
    days = ceil(slots / SLOTS_PER_DAY) * SLOTS_PER_DAY
    first = len(jobs) - (days if days <= len(jobs) else slots)
    before = np.array(jobs[first : first + slots], dtype=np.float64)
    return float(before.sum() - sqrt(2 * slots * before.var())) * ahead / slots
