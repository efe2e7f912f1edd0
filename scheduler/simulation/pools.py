"""Workers of each tier: when every microbatch begins and ends, and how many workers a latency needs.

First come, first served per tier. It knows seconds and pictures; it knows no money, no gain and no policy.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from scheduler.predictor.examples import Floats
from scheduler.simulation.traces import Counts

MOST_WORKERS = 1 << 14  # of one tier: beyond it, the answer is another model or another latency


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """The workers of one tier."""

    workers: int  # >= 1
    seconds: float  # per picture, on one worker, > 0
    microbatch: int  # most pictures of one message, >= 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What a pool did with m jobs."""

    done: Floats  # (m,) when each job's last picture is there; in the order of the jobs
    utilisation: float  # share of the workers' time that was work, from the first job to the last end
    longest_queue: int  # most microbatches that waited at once


def serve(pool: Pool, *, ready: Floats, pictures: Counts) -> Served:
    """Return when jobs are done.

    Args:
        ready: (m,) when each job may begin, rising: jobs of one window have one time, and share microbatches.
        pictures: (m,) of each job, >= 1.
    """
    if not len(ready):
        return Served(done=np.zeros(0), utilisation=0.0, longest_queue=0)
    batch = _packed(ready, pictures, most=pool.microbatch)  # (m,) number of each job's microbatch, rising
    count = int(batch[-1]) + 1
    work: Floats = np.bincount(batch, weights=pictures, minlength=count).astype(np.float64) * pool.seconds
    start = ready[np.searchsorted(batch, np.arange(count))]
    began, ended = _first_come(start, work, workers=pool.workers)
    waiting = np.arange(1, count + 1) - np.searchsorted(np.sort(began), start, side="right")
    span = float(ended.max() - start[0])
    return Served(
        done=ended[batch],
        utilisation=float(work.sum()) / (span * pool.workers),
        longest_queue=max(int(waiting.max()), 0),
    )


def workers_needed(
    pool: Pool, *, ready: Floats, pictures: Counts, arrived: Floats, latency: float
) -> int | None:
    """Return the fewest workers at which 95 % of the jobs are done within `latency` seconds of their arrival.

    More workers never finish a job later, so halving finds them.

    Args:
        pool: its number of workers is not read.
        arrived: (m,) arrival of each job, before it was ready.
        latency: seconds, > 0.
    Returns:
        At least 1; None if no number of workers is enough, as waiting for the window and drawing take longer.
    """
    if not len(ready):
        return 1

    def enough(workers: int) -> bool:
        tried = Pool(workers=workers, seconds=pool.seconds, microbatch=pool.microbatch)
        done = serve(tried, ready=ready, pictures=pictures).done
        return bool(np.percentile(done - arrived, 95) <= latency)

    low, high = 0, 1
    while not enough(high):
        if high >= MOST_WORKERS:
            return None
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _packed(ready: Floats, pictures: Counts, *, most: int) -> Counts:
    """Return each job's microbatch: jobs of one window in order, at most `most` pictures or one job."""
    if int(pictures.max()) == 1:
        first = np.flatnonzero(np.diff(ready, prepend=-np.inf))  # of each window
        sizes = np.diff(first, append=len(ready))
        place = np.arange(len(ready)) - np.repeat(first, sizes)
        starts: Counts = np.cumsum(place % most == 0) - 1
        return starts
    batch = np.empty(len(ready), dtype=np.int64)
    number, filled, window = -1, 0, -np.inf
    for k, (when, wanted) in enumerate(zip(ready.tolist(), pictures.tolist(), strict=True)):
        if when != window or filled + wanted > most:
            number, filled, window = number + 1, 0, when
        filled += wanted
        batch[k] = number
    return batch


def _first_come(start: Floats, work: Floats, *, workers: int) -> tuple[Floats, Floats]:
    """Return when each microbatch begins and ends on the worker that is free first."""
    free = [0.0] * workers
    began = []
    for when, seconds in zip(start.tolist(), work.tolist(), strict=True):
        begin = max(when, free[0])
        heapq.heapreplace(free, begin + seconds)
        began.append(begin)
    begins = np.array(began)
    return begins, begins + work
