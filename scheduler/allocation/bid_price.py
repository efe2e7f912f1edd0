"""What a micro-dollar must bring now, so that the money lasts for the jobs that are still to come.

Pure numpy: a window, a sample of recent jobs and an expected number of jobs come in, a price goes out. It
knows no clock and no ledger. Asked anew for every window with the money and the jobs that then remain, it
corrects itself: a window that spent less leaves a lower price to the next.
"""

from dataclasses import dataclass

import numpy as np

from scheduler.allocation.hulls import Increments, increments
from scheduler.allocation.options import Floats, Money, Options, Rows

SAMPLE_JOBS = 5000  # known shares of efficiencies are then within 1 % (binomial), for 0.2 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservoir:
    """The steps of the newest jobs: the mix that the jobs to come are expected to have."""

    job: Rows  # (m,) number of the job within the sample, oldest first
    extra: Money  # (m,) micro-dollars of the step
    efficiency: Floats  # (m,) gain per micro-dollar of the step
    jobs: int  # in the sample, with those that have no step

    @classmethod
    def empty(cls) -> "Reservoir":
        """Return the sample before the first job."""
        return cls(
            job=np.empty(0, dtype=np.int32),
            extra=np.empty(0, dtype=np.int64),
            efficiency=np.empty(0),
            jobs=0,
        )

    def with_jobs(self, options: Options) -> "Reservoir":
        """Return the sample with a window's jobs added and the oldest dropped, at most `SAMPLE_JOBS`.

        Of a larger window it takes every k-th job in the order of `rank`, so that the order of its rows does
        not matter.
        """
        rows = np.argsort(options.rank)
        if len(rows) > SAMPLE_JOBS:
            rows = np.sort(rows[np.arange(SAMPLE_JOBS) * len(rows) // SAMPLE_JOBS])
        else:
            rows = np.sort(rows)
        new = increments(
            Options(
                micro_usd=options.micro_usd[rows],
                gain=options.gain[rows],
                rank=options.rank[rows],
                allowed=None if options.allowed is None else options.allowed[rows],
            )
        )
        jobs = self.jobs + len(rows)
        dropped = max(0, jobs - SAMPLE_JOBS)
        kept = self.job >= dropped
        return Reservoir(
            job=np.concatenate([self.job[kept] - dropped, new.job + (self.jobs - dropped)]).astype(np.int32),
            extra=np.concatenate([self.extra[kept], new.extra]),
            efficiency=np.concatenate([self.efficiency[kept], new.efficiency]),
            jobs=jobs - dropped,
        )


def bid_price(window: Increments, reservoir: Reservoir, *, money: int, jobs_left: float) -> float:
    """Return the gain per micro-dollar at which this window and the jobs to come spend the money.

    The jobs to come are the reservoir, scaled to their number; while it is empty, the window itself. If the
    money ends among steps of equal efficiency, the price is a hair below theirs, so that they may be bought:
    `guard` says how many of them.

    Args:
        window: the steps of the jobs to decide now.
        reservoir: of jobs seen before, this window's among them or not.
        money: micro-dollars left above the floors of this window and of all jobs to come; below 0 counts
            as 0.
        jobs_left: jobs expected after this window until the money's period ends, >= 0.
    Returns:
        0 if everything that gains can be paid.
    Source: routing.md section 10; re-solving, arXiv 2412.09594.
    """
    efficiency, extra = _expected(window, reservoir, jobs_left=jobs_left)
    order = np.argsort(-efficiency)
    spent = np.cumsum(extra[order])
    end = int(np.searchsorted(spent, max(0, money), side="right"))
    if end == len(order):
        return 0.0
    marginal = efficiency[order[end]]
    return float(marginal if money <= 0 else np.nextafter(marginal, 0.0))


def guard(window: Increments, reservoir: Reservoir, *, price: float, money: int, jobs_left: float) -> int:
    """Return the most that this window may spend above its floors, in micro-dollars.

    What the price lets through in this window, but of the steps at the margin only the share that the money
    pays, to the nearest step: a window of one job buys if at least half of such steps can be paid. Never more
    than the money.

    Args:
        window: as in `bid_price`.
        reservoir: as in `bid_price`.
        price: what `bid_price` has said.
        money: as in `bid_price`.
        jobs_left: as in `bid_price`.
    """
    if money <= 0:
        return 0
    if price == 0.0:
        return min(money, int(window.extra.sum()))
    marginal = np.nextafter(price, np.inf)
    efficiency, extra = _expected(window, reservoir, jobs_left=jobs_left)
    better = float(extra[efficiency > marginal].sum())
    tied = float(extra[efficiency == marginal].sum())
    share = min(1.0, max(0.0, (money - better) / tied)) if tied else 0.0
    at_margin = window.extra[window.efficiency == marginal]
    above = int(window.extra[window.efficiency > marginal].sum())
    half = int(at_margin.max(initial=0)) / 2
    return min(money, above + int(share * int(at_margin.sum()) + half))


def _expected(window: Increments, reservoir: Reservoir, *, jobs_left: float) -> tuple[Floats, Floats]:
    """Return the efficiency and the expected extra of every step of the window and of the jobs to come."""
    extra = window.extra.astype(np.float64)
    if not reservoir.jobs:
        return window.efficiency, extra * (1 + jobs_left / max(1, window.jobs))
    return (
        np.concatenate([window.efficiency, reservoir.efficiency]),
        np.concatenate([extra, reservoir.extra * (jobs_left / reservoir.jobs)]),
    )
