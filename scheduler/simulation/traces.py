"""When prompts arrive and how hard they are: laws of arrival, each drawn with a seed.

A trace knows times, hardness and size as numbers. It knows no prompt, no tier, no price and no policy.
Hardness is the place of a job in the mix of all jobs, 0 = the least to gain from a dearer tier.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routet2i.errors import UsageError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

DAY = 86_400.0
SLOT_SECONDS = 900.0  # in which earlier arrivals are counted: 96 a day show the time of day
EARLIER_DAYS = 2  # that the scheduler remembers: the least that shows a time of day twice
EARLIER_JOBS = 200_000  # most jobs of those days whose predictions it remembers
STEP = 60.0  # seconds between the points of a diurnal rate
SWING = 0.8  # of the diurnal rate around its mean: nine times as many by day as by night
CALM, BURST = 1_200.0, 300.0  # mean seconds in either state
BURST_RATE = 8.0  # times the calm one
GROWTH = 0.5  # of a job's size over a drifting trace
BLOCKS = 12  # of easy and hard jobs in turn

Law = Callable[[np.random.Generator, float], tuple[Floats, Floats]]  # seconds -> times, expected arrivals


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """n arrivals, and what a scheduler that ran before would remember."""

    name: str
    seconds: float  # its length; it begins at midnight
    at: Floats  # (n,) seconds since the beginning, rising, in [0, seconds)
    hardness: Floats  # (n,) in [0, 1); uniform over the whole mix unless the mix drifts
    size: Floats  # (n,) price of the job's pictures, in those of an ordinary one
    earlier_counts: Counts  # (slots,) arrivals per SLOT_SECONDS of the days before
    earlier_hardness: Floats  # (k,) of jobs of those days, at most EARLIER_JOBS

    def __len__(self) -> int:
        return len(self.at)


def draw_trace(name: str, *, rate: float, seconds: float, seed: int) -> Trace:
    """Return a trace of one of the laws in `KINDS`.

    Args:
        name: which law.
        rate: mean arrivals per second, > 0.
        seconds: length, > 0.
        seed: the same one gives the same trace.
    Raises:
        UsageError: there is no such law, or nothing would arrive.
    """
    if name not in KINDS:
        raise UsageError(f"no trace {name!r}; there are {', '.join(KINDS)}, or name a CSV file")
    if not (0 < rate * seconds <= 1e8 and rate > 0):
        raise UsageError(f"{rate:g} jobs/s over {seconds:g} s is no trace; ask for 1 to 1e8 jobs")
    law, mix = KINDS[name]
    rng = np.random.default_rng([seed, list(KINDS).index(name)])
    points, expected = law(rng, seconds)
    total = int(rng.poisson(rate * expected[-1]))
    at = np.interp(np.sort(rng.random(total)) * expected[-1], expected, points)
    at = np.minimum(at, np.nextafter(seconds, 0.0))
    slots = np.arange(0, int(EARLIER_DAYS * DAY / SLOT_SECONDS) + 1) * SLOT_SECONDS
    remembered = np.interp(slots, *law(rng, EARLIER_DAYS * DAY))
    counts = rng.poisson(rate * np.diff(remembered)).astype(np.int64)
    hardness, size, before = mix(rng, at / seconds, min(int(counts.sum()), EARLIER_JOBS))
    return Trace(
        name=name,
        seconds=seconds,
        at=at,
        hardness=hardness,
        size=size,
        earlier_counts=counts,
        earlier_hardness=before,
    )


def _steady(_: np.random.Generator, seconds: float) -> tuple[Floats, Floats]:
    points = np.array([0.0, seconds])
    return points, points


def _bursty(rng: np.random.Generator, seconds: float) -> tuple[Floats, Floats]:
    """Return the two-state Markov-modulated law, calm at first, of mean rate 1."""
    turns = 2 * int(seconds / (CALM + BURST) * 2 + 20)  # far more than fit
    lasting = rng.exponential(np.tile([CALM, BURST], turns))
    calm = (CALM + BURST) / (CALM + BURST_RATE * BURST)
    points = np.concatenate([[0.0], np.cumsum(lasting)])
    rates = np.tile([calm, BURST_RATE * calm], turns)
    return _cut(points, np.concatenate([[0.0], np.cumsum(lasting * rates)]), seconds)


def _diurnal(_: np.random.Generator, seconds: float) -> tuple[Floats, Floats]:
    points = np.append(np.arange(0.0, seconds, STEP), seconds)
    turn = 2 * np.pi / DAY
    return points, points - SWING * np.sin(turn * points) / turn  # lowest at midnight


def _cut(points: Floats, expected: Floats, seconds: float) -> tuple[Floats, Floats]:
    inside = points < seconds
    last = np.interp(seconds, points, expected)
    return np.append(points[inside], seconds), np.append(expected[inside], last)


Mix = Callable[  # place of each job in the trace, [0, 1), and how many came before -> hardness, size, before
    [np.random.Generator, Floats, int], tuple[Floats, Floats, Floats]
]


def _whole(rng: np.random.Generator, place: Floats, before: int) -> tuple[Floats, Floats, Floats]:
    return rng.random(len(place)), np.ones(len(place)), rng.random(before)


def _harder(rng: np.random.Generator, place: Floats, before: int) -> tuple[Floats, Floats, Floats]:
    """Return a mix that begins easy, density 2(1 - h), and ends hard, density 2h, while jobs grow."""
    easy, hard = (1 - np.sqrt(1 - rng.random(len(place)))), np.sqrt(rng.random(len(place)))
    hardness = np.where(rng.random(len(place)) < place, np.minimum(hard, np.nextafter(1.0, 0.0)), easy)
    return hardness, 1 + GROWTH * place, 1 - np.sqrt(1 - rng.random(before))


def _easier(rng: np.random.Generator, place: Floats, before: int) -> tuple[Floats, Floats, Floats]:
    """Return the same backwards: the mix begins hard and ends easy, while jobs shrink."""
    hardness, _, earlier = _harder(rng, place, before)
    top = np.nextafter(1.0, 0.0)
    size = (1 + GROWTH * (1 - place)) / (1 + GROWTH)
    return np.minimum(1 - hardness, top), size, np.minimum(1 - earlier, top)


def _ordered(key: Callable[[Floats], Floats]) -> Mix:
    def mix(rng: np.random.Generator, place: Floats, before: int) -> tuple[Floats, Floats, Floats]:
        whole = np.arange(len(place)) / max(len(place), 1)
        return whole[np.argsort(key(whole), kind="stable")], np.ones(len(place)), rng.random(before)

    return mix


def _blocks(hardness: Floats) -> Floats:
    """Return a key that deals the easy half and the hard half out in blocks, turn by turn."""
    place = np.arange(len(hardness))
    half = (len(hardness) + 1) // 2
    within = np.where(place < half, place, place - half)
    shuffled = within * 0.6180339887498949 % 1.0  # spreads each half evenly over its blocks
    return np.floor(shuffled * (BLOCKS // 2)) * 2 + (place >= half)


KINDS: Mapping[str, tuple[Law, Mix]] = {
    "poisson": (_steady, _whole),
    "bursty": (_bursty, _whole),
    "diurnal": (_diurnal, _whole),
    "drifting": (_steady, _harder),
    "easing": (_steady, _easier),
    "adversarial": (_steady, _ordered(lambda hardness: hardness)),  # the best jobs come last
    "best-first": (_steady, _ordered(lambda hardness: -hardness)),
    "blocks": (_steady, _ordered(_blocks)),
}
