"""The bid price of one budget from window to window: what is remembered, and what it makes of the money left.

Which jobs are still to come depends on how this period compares with the time before. Alike: the newest jobs
go on. Sorted, so that one kind comes first: what the period was to bring, less what has come; a price fitted
to the kind that comes now would spend on it what better ones need. Refuted, more of a kind than the whole
period was to bring: the newest jobs alone, from then on. Pure values; the scheduler and the simulator use the
same.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.allocation.bid_price import SAMPLE_JOBS, Reservoir, bid_price, guard
from scheduler.allocation.hulls import Increments, increments
from scheduler.allocation.mix import Mix, newest_of, worth
from scheduler.allocation.options import Floats, Options

STEADY = 0.1  # share of a period's jobs that a mix is read off while it does not drift
STEADY_JOBS = (1_000, SAMPLE_JOBS)  # fewest and most of them
DRIFTING = 0.03  # and while it does
DRIFTING_JOBS = (300, 1_500)
GROUPS = 32  # of a bin's steps that keep a price of their own


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What a window may buy with one budget."""

    price: float  # gain per micro-dollar that a step must exceed
    most: int  # micro-dollars above the floors, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Market:
    """What one budget's bid price remembers."""

    recent: Reservoir  # the newest jobs
    expected: "Expected | None"  # what the time before says of a period; None: nothing is known of it
    mix: Mix | None  # of this period, beside the expected one
    period: str = ""
    refuted: bool = False  # whether the expectation was given up

    @classmethod
    def after(cls, earlier: Options) -> "Market":
        """Return the market after the jobs of an earlier period, which may be none."""
        expected = Expected.of(earlier) if len(earlier) else None
        return cls(
            recent=Reservoir.empty().with_jobs(earlier),
            expected=expected,
            mix=None if expected is None else Mix.of(worth(earlier)),
        )

    @classmethod
    def new(cls) -> "Market":
        """Return the market before the first job."""
        return cls(recent=Reservoir.empty(), expected=None, mix=None)

    def with_jobs(self, options: Options, *, period: str) -> "Market":
        """Return the market with a window's jobs seen.

        Args:
            options: the window's jobs, as predicted.
            period: of the money; a new name begins a period.
        """
        mix = self.mix
        if mix is not None:
            mix = mix if period == self.period else mix.afresh()
            mix = mix.with_jobs(worth(options))
        return replace(self, recent=self.recent.with_jobs(options), mix=mix, period=period)

    def judged(self, *, jobs_left: float) -> "Market":
        """Return the market with its expectation given up, if the period has brought more than it was to."""
        if self.refuted or self.mix is None:
            return self
        return replace(self, refuted=self.mix.is_refuted(total=_total(self.mix, jobs_left)))

    def offer(self, steps: Increments, *, money: int, jobs_left: float) -> Offer:
        """Return what a window may buy; its jobs were seen before (`with_jobs`, `judged`).

        Args:
            steps: of the window's jobs.
            money: micro-dollars left above the floors of this window and of all jobs to come.
            jobs_left: jobs expected after this window until the period ends, >= 0.
        """
        sample, stand_for = self._to_come(jobs_left)
        price = bid_price(steps, sample, money=money, jobs_left=stand_for)
        return Offer(price=price, most=guard(steps, sample, price=price, money=money, jobs_left=stand_for))

    def _to_come(self, jobs_left: float) -> tuple[Reservoir, float]:
        """Return a sample of the jobs to come, and how many jobs its own stand for."""
        if self.expected is None or self.mix is None:
            return self.recent, jobs_left
        total = _total(self.mix, jobs_left)
        if self.refuted:
            return _newest(self.recent, total, share=DRIFTING, bounds=DRIFTING_JOBS), jobs_left
        if self.mix.is_sorted(total=total):
            return self.expected.left(self.mix, total=total), 1.0
        return _newest(self.recent, total, share=STEADY, bounds=STEADY_JOBS), jobs_left


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The steps that a period was to bring, in g groups of nearly equal efficiency."""

    bin: NDArray[np.int64]  # (g,) of the mix
    efficiency: Floats  # (g,) gain per micro-dollar
    extra: Floats  # (g,) micro-dollars per job of the bin

    @classmethod
    def of(cls, earlier: Options) -> "Expected":
        """Return what jobs seen before say; needs at least one job."""
        values = worth(earlier)
        mix = Mix.of(values)
        steps = increments(earlier)
        bins = mix.bins(values)[steps.job]
        order = np.lexsort((steps.efficiency, bins))
        bins = bins[order]
        sizes = np.bincount(bins, minlength=len(mix.share))
        place = np.arange(len(bins)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        part = place * GROUPS // np.maximum(np.repeat(sizes, sizes), 1)
        groups, group = np.unique(bins * GROUPS + part, return_inverse=True)
        extra = np.bincount(group, weights=steps.extra[order])
        weighted = np.bincount(group, weights=(steps.efficiency * steps.extra)[order])
        of_bin = groups // GROUPS
        return cls(
            bin=of_bin,
            efficiency=weighted / extra,
            extra=extra / np.maximum(mix.share * mix.known, 1.0)[of_bin],
        )

    def left(self, mix: Mix, *, total: float) -> Reservoir:
        """Return what is still to come as a sample of one job that stands for one."""
        extra = self.extra * mix.left(total=total)[self.bin]
        return Reservoir(
            job=np.zeros(len(extra), dtype=np.int32),
            extra=np.rint(extra).astype(np.int64),
            efficiency=self.efficiency,
            jobs=1,
        )


def _total(mix: Mix, jobs_left: float) -> float:
    return float(mix.seen.sum()) + jobs_left


def _newest(reservoir: Reservoir, total: float, *, share: float, bounds: tuple[int, int]) -> Reservoir:
    first = max(0, reservoir.jobs - newest_of(total, share=share, least=bounds[0], most=bounds[1]))
    kept = reservoir.job >= first
    return Reservoir(
        job=reservoir.job[kept] - np.int32(first),
        extra=reservoir.extra[kept],
        efficiency=reservoir.efficiency[kept],
        jobs=reservoir.jobs - first,
    )
