"""Small traffic for the tests of the simulation: every draw seeded, a few thousand jobs."""

import numpy as np

from scheduler.allocation.options import Options
from scheduler.simulation.qualities import law_qualities
from scheduler.simulation.replay import Plan, money_for_share
from scheduler.simulation.report import above_floor
from scheduler.simulation.traces import DAY, draw_trace
from scheduler.simulation.traffic import Earlier, Traffic, make_traffic


def traffic(trace="poisson", *, rate=0.05, seconds=DAY, seed=0, tiers=2, floors=False):
    """Return 4,320 jobs of a day by the law, floors free of charge unless asked for."""
    qualities = law_qualities(tiers=tiers, seed=seed)
    return make_traffic(
        draw_trace(trace, rate=rate, seconds=seconds, seed=seed),
        qualities if floors else above_floor(qualities),
        seed=seed,
    )


def plan(jobs, *, share=0.2, periods=1, window_seconds=900.0):
    """Return money that pays the dearest tier for a share of the jobs, split over equal periods."""
    return Plan(
        money=money_for_share(jobs, share) // periods,
        period_seconds=jobs.seconds / periods,
        window_seconds=window_seconds,
    )


def by_hand(*, at, gain, micro_usd, seconds):
    """Return traffic of given arrivals on two tiers, with gains on the dear one; nothing is known before."""
    count = len(at)
    options = Options(
        micro_usd=np.stack([np.full(count, micro_usd[0]), np.full(count, micro_usd[1])], axis=1),
        gain=np.stack([np.zeros(count), np.array(gain)], axis=1),
        rank=np.arange(count),
    )
    nothing = Options(
        micro_usd=np.zeros((0, 2), dtype=np.int64), gain=np.zeros((0, 2)), rank=np.zeros(0, dtype=np.int64)
    )
    return Traffic(
        name="by hand",
        tiers=("edge", "cloud"),
        seconds=seconds,
        at=np.array(at, dtype=np.float64),
        pictures=np.ones(count, dtype=np.int64),
        options=options,
        measured=options.gain,
        earlier=Earlier(counts=np.zeros(0, dtype=np.int64), options=nothing),
    )
