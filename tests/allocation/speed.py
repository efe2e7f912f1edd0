"""Seconds and bytes of one decision about a million jobs, beside one sort of as many numbers.

One core; the best of a few rounds, because the machine may be shared. It knows the allocator and a clock.
"""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from routet2i.figures import Figure
from scheduler.allocation.knapsack import solve
from scheduler.allocation.options import Options

JOBS = 1_000_000
ROUNDS = 5
PRICES = (9_000, 30_000, 65_000, 120_000)  # micro-dollars of a picture, cheapest tier first
BUDGET_SHARE = 0.2  # of the way from all jobs on the cheapest tier to all on the dearest
BYTES = 200  # most per job
FLAT = 1.5  # most growth of the bytes per job


def speed_figures(*, jobs: int = JOBS, command: str) -> Iterator[Figure]:
    """Yield the seconds for two and four tiers, and the memory for four."""
    numbers = np.random.default_rng(1).random(jobs)
    for tiers, most in ((2, 0.5), (4, 2.0)):
        options = draw_options(jobs, tiers=tiers, seed=0)
        budget = budget_of(options)
        sort = best_seconds(partial(np.argsort, numbers))
        seconds = best_seconds(partial(solve, options, budget=budget))
        yield Figure(
            figure=f"decision time, {jobs:,} jobs, {tiers} tiers, one core",
            value=seconds,
            unit=f"s ({seconds / sort:.1f} sorts)",
            baseline=f"np.argsort of {jobs:,} float64: {sort:.3g} s",
            target=f"under {most:g}",
            holds=seconds < most,
            command=command,
        )
    few, many = (bytes_per_job(count, tiers=4) for count in (jobs // 10, jobs))
    yield Figure(
        figure=f"memory per job, {jobs:,} jobs, 4 tiers, input and result included",
        value=many,
        unit="bytes",
        baseline=f"{jobs // 10:,} jobs: {few:.0f} bytes each",
        target=f"linear, under {BYTES}",
        holds=many < BYTES and many < FLAT * few,
        command=command,
    )


def draw_options(jobs: int, *, tiers: int, seed: int) -> Options:
    """Return jobs of one to four pictures whose gain grows with the tier, some of them negative."""
    draw = np.random.default_rng(seed)
    pictures = draw.integers(1, 5, size=(jobs, 1))
    steps = draw.normal(0.05, 0.1, size=(jobs, tiers))
    steps[:, 0] = 0.0
    gain = np.cumsum(steps, axis=1)
    gain *= pictures
    return Options(
        micro_usd=pictures * np.array(PRICES[:tiers], dtype=np.int64),
        gain=gain,
        rank=draw.permutation(jobs).astype(np.int64),
    )


def budget_of(options: Options) -> int:
    """Return the money for the cheapest tier for all, and a share of what the dearest would cost more."""
    cheapest = int(options.micro_usd[:, 0].sum())
    return cheapest + int(BUDGET_SHARE * (int(options.micro_usd[:, -1].sum()) - cheapest))


def best_seconds(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few rounds."""
    found = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def bytes_per_job(jobs: int, *, tiers: int) -> float:
    """Return the bytes of the options and of the most that deciding held at once, per job."""
    options = draw_options(jobs, tiers=tiers, seed=0)
    given = options.micro_usd.nbytes + options.gain.nbytes + options.rank.nbytes
    budget = budget_of(options)
    tracemalloc.start()
    try:
        solve(options, budget=budget)
        return (given + tracemalloc.get_traced_memory()[1]) / jobs
    finally:
        tracemalloc.stop()
