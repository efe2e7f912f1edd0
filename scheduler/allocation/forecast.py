"""How many jobs are still to come, from how many came in the slots before.

Pure numpy on counts; it knows no clock: the caller says how long a slot is in slots of a day, and how many
slots lie ahead.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scheduler.allocation.options import Floats

HALF_LIFE = 12  # slots after which a count weighs half: quick enough for an hour of five-minute slots
SEASON_DAYS = 2  # known before the time of day is believed: one day cannot tell a season from a trend
SEASON_SHRINK = 5.0  # arrivals per slot that the flat profile counts for: few counts make no season


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Expected arrivals, and how far off they may be."""

    jobs: float  # expected in the slots ahead, >= 0
    error: float  # one standard deviation of it
    seasonal: bool  # whether the time of day was known


def expected_jobs(counts: ArrayLike, *, ahead: float, slots_per_day: int) -> Forecast:
    """Return how many jobs are expected in the slots ahead.

    The rate is an exponentially weighted mean of the counts; from two days on each count is first divided by
    its time of day's share, and each slot ahead multiplied by its own. The error adds the scatter of the
    slots ahead to the uncertainty of the rate.

    Args:
        counts: (k,) jobs that came per slot, oldest first, without a gap, the last one complete.
        ahead: slots until the period's end, >= 0; a part of a slot counts as that part.
        slots_per_day: how many slots a day has, >= 1.
    Raises:
        ValueError: a count or `ahead` is negative, or slots_per_day is below 1.
    Source: simple exponential smoothing with a multiplicative season, Hyndman and Athanasopoulos,
    Forecasting: Principles and Practice (2021), ch. 8.
    """
    known: Floats = np.asarray(counts, dtype=np.float64)
    if ahead < 0 or slots_per_day < 1 or (known < 0).any():
        raise ValueError("counts and slots ahead are at least 0, a day has at least one slot")
    if not len(known):
        return Forecast(jobs=0.0, error=math.inf if ahead else 0.0, seasonal=False)
    seasonal = slots_per_day > 1 and len(known) >= SEASON_DAYS * slots_per_day
    profile = _profile(known, slots_per_day=slots_per_day) if seasonal else np.ones(1)
    share = profile[np.arange(len(known)) % len(profile)]
    weights = 0.5 ** (np.arange(len(known))[::-1] / HALF_LIFE)
    rate = float((weights * known).sum() / (weights * share).sum())
    slots = np.arange(math.ceil(ahead))
    parts = np.minimum(1.0, ahead - slots) * profile[(len(known) + slots) % len(profile)]
    # Scatter around the fit, but at least Poisson's: few slots may lie on the line by chance.
    scatter = max(float((weights * (known - rate * share) ** 2).sum() / weights.sum()), rate)
    rate_variance = scatter * float((weights**2).sum()) / float((weights * share).sum()) ** 2
    total = float(parts.sum())
    error = math.sqrt(scatter * total + rate_variance * total**2)
    return Forecast(jobs=rate * total, error=error, seasonal=seasonal)


def _profile(counts: Floats, *, slots_per_day: int) -> Floats:
    """Return (slots_per_day,) each slot's mean over the whole days, relative to all slots' mean.

    The first entry belongs to the slot of day of the first count.
    """
    days = len(counts) // slots_per_day
    newest = counts[len(counts) - days * slots_per_day :].reshape(days, slots_per_day).mean(axis=0)
    means: Floats = np.roll(newest, len(counts) % slots_per_day) + SEASON_SHRINK / days
    profile: Floats = means / means.mean()
    return profile
