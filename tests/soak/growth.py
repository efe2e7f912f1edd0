"""Whether a number that was sampled over time grows without end: arithmetic, and tolerances set beforehand.

It knows times and values, not what was measured. A step is no growth, nor is what has come to rest: only what
rises over all of the time, and still in its second half, is called a leak.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

SPAN_SECONDS = 600.0  # growth is told per ten minutes
LEAST_SAMPLES = 16  # of a series that can be judged
BLOCKS = 16  # whose lowest values are what a count never gives back
MB = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How much a series may grow in ten minutes."""

    share: float = 0.0  # of its median
    absolute: float = 0.0
    floors: bool = False  # look at the lowest values only: what comes and goes does not matter


MEMORY = Tolerance(share=0.02, absolute=2 * MB)
COUNT = Tolerance(floors=True)
TOLERANCES: Mapping[str, Tolerance] = {
    "rss": MEMORY,
    "private": MEMORY,  # USS: what would be free if the process ended
    "used_memory": MEMORY,
    "wal_bytes": MEMORY,
    "open_files": COUNT,
    "threads": COUNT,
    "processes": COUNT,
    "database_files": COUNT,
    "connections": COUNT,
    "clients": COUNT,
    "keys": COUNT,
    "files": COUNT,
    "temporary": COUNT,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What became of one series."""

    series: str
    first: float  # median of the first quarter
    last: float
    growth: float  # per ten minutes; 0 where the signs disagree
    allowed: float
    judged: bool = True  # False: too few samples

    @property
    def leaks(self) -> bool:
        """Whether it grows by more than is allowed."""
        return self.judged and self.growth > self.allowed + 1e-9


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the median of the slopes between all pairs of points (Theil and Sen), per second."""
    at: NDArray[np.float64] = np.asarray(times, dtype=np.float64)
    value: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(len(at), k=1)
    return float(np.median((value[second] - value[first]) / (at[second] - at[first])))


def growth(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the growth per ten minutes that three views agree on: the one nearest to 0, 0 if signs differ.

    The views are the robust slope of all points, that of the second half, and the rise from the median of the
    first quarter to that of the last.

    Args:
        times: seconds, rising; at least four.
    """
    quarter, half = max(1, len(times) // 4), len(times) // 2
    rise = median(values[-quarter:]) - median(values[:quarter])
    span = median(times[-quarter:]) - median(times[:quarter])
    views = [slope(times, values), slope(times[half:], values[half:]), rise / span]
    if min(views) <= 0 <= max(views):
        return 0.0
    return SPAN_SECONDS * min(views, key=abs)


def floors(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the middle and the lowest value of so many blocks of equal numbers of points."""
    blocks = [block for block in np.array_split(np.arange(len(times)), min(BLOCKS, len(times))) if len(block)]
    return (
        [median(times[i] for i in block) for block in blocks],
        [min(values[i] for i in block) for block in blocks],
    )


def judge(series: str, times: Sequence[float], values: Sequence[float], tolerance: Tolerance) -> Judgement:
    """Hold one series against what it may do."""
    if len(times) < LEAST_SAMPLES:
        return Judgement(series=series, first=0, last=0, growth=0, allowed=0, judged=False)
    quarter = len(times) // 4
    seen = floors(times, values) if tolerance.floors else (times, values)
    return Judgement(
        series=series,
        first=median(values[:quarter]),
        last=median(values[-quarter:]),
        growth=growth(*seen),
        allowed=tolerance.absolute + tolerance.share * median(values),
    )


def per_job(jobs: Sequence[float], totals: Sequence[float]) -> tuple[float, float]:
    """Return what one job adds to a total, and the second half's addition as a multiple of the first half's.

    1 = it grows in step with the jobs. Raises ValueError if no job was done in one of the halves.
    """
    middle = len(jobs) // 2
    parts = [(0, -1), (0, middle), (middle, -1)]
    done = [jobs[end] - jobs[begin] for begin, end in parts]
    if min(done) <= 0:
        raise ValueError("no job was done in one half of the time")
    whole, early, late = (
        (totals[end] - totals[begin]) / n for (begin, end), n in zip(parts, done, strict=True)
    )
    return whole, late / early if early else (1.0 if late == early else float("inf"))
