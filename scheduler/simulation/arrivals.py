"""How many jobs will still come in a simulation: its clock and its counts, put to `allocation.forecast`.

It knows no job and no money.
"""

from dataclasses import dataclass, replace

import numpy as np

from scheduler.allocation.forecast import expected_jobs
from scheduler.allocation.options import Floats
from scheduler.simulation.traces import DAY, SLOT_SECONDS, Counts

A_DAY = int(DAY / SLOT_SECONDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """A forecast."""

    jobs: float
    error: float  # standard deviation of the true number


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrivals:
    """What has come until now, which is 0 at the first midnight of the trace."""

    counts: Counts  # (slots,) complete ones, per SLOT_SECONDS, from days before the trace on
    begun: int = 0  # in the slot that is not complete yet
    slot: int = 0  # number of that slot, from 0
    seen: int = 0  # since 0

    def with_jobs(self, at: Floats, *, now: float) -> "Arrivals":
        """Return what is known when `at`, (n,) rising, have come since the last call and no others."""
        slot = int(now // SLOT_SECONDS)
        counts = np.bincount(
            (at // SLOT_SECONDS).astype(np.int64) - self.slot, minlength=slot - self.slot + 1
        )
        counts[0] += self.begun
        return replace(
            self,
            counts=np.concatenate([self.counts, counts[:-1]]) if slot > self.slot else self.counts,
            begun=int(counts[-1]),
            slot=slot,
            seen=self.seen + len(at),
        )

    def expected(self, now: float, *, until: float) -> Expected:
        """Return how many jobs will come from `now` to `until`, in seconds.

        Before the first slot is complete, jobs go on coming as they came.
        """
        if until <= now:
            return Expected(jobs=0.0, error=0.0)
        if not len(self.counts):
            jobs = self.seen * (until - now) / max(now, 1.0)
            return Expected(jobs=jobs, error=float(np.sqrt(jobs)))
        ahead = until / SLOT_SECONDS - self.slot
        forecast = expected_jobs(self.counts, ahead=ahead, slots_per_day=A_DAY)
        rest = (until - now) / (
            until - self.slot * SLOT_SECONDS
        )  # the slot that has begun is part of `ahead`
        return Expected(jobs=forecast.jobs * rest, error=forecast.error * rest)
