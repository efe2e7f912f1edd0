"""The steps worth paying for: per job the upper concave hull of gain over price, from its floor tier up.

Pure numpy, over jobs at once. It knows no budget: which steps are bought is decided by `greedy` and the
modules above it.
"""

from dataclasses import dataclass

import numpy as np

from scheduler.allocation.options import BLOCK, DEFERRED, Floats, Mask, Money, Options, Rows, Tiers


@dataclass(frozen=True, kw_only=True, slots=True)
class Increments:
    """Steps up, job by job in the order of the rows, the steps of a job cheapest first.

    A job's efficiencies do not rise from step to step, so whoever buys in falling efficiency never buys a
    step before the one below it.
    """

    job: Rows  # (m,) row of the options
    tier: Tiers  # (m,) the tier that the step leads to
    extra: Money  # (m,) micro-dollars above the tier below, > 0
    efficiency: Floats  # (m,) gain per micro-dollar, > 0
    jobs: int  # n, with those that have no step

    def __len__(self) -> int:
        return len(self.job)

    @property
    def gain(self) -> Floats:
        """Return (m,) the gain above the tier below, up to the last bit."""
        return self.efficiency * self.extra

    def only(self, mask: Mask) -> "Increments":
        """Return the steps at which the mask is True; whoever masks keeps a job's steps from the first on."""
        if mask.all():
            return self
        return Increments(
            job=self.job[mask],
            tier=self.tier[mask],
            extra=self.extra[mask],
            efficiency=self.efficiency[mask],
            jobs=self.jobs,
        )


def floors(options: Options) -> tuple[Tiers, Money]:
    """Return (n,) each job's floor tier and (n,) its price; tier -1 and price 0 where no tier is allowed."""
    n = len(options)
    tier, micro_usd = np.empty(n, dtype=np.int8), np.empty(n, dtype=np.int64)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        tier[rows], micro_usd[rows], _ = _floor(options, rows)
    return tier, micro_usd


def increments(options: Options) -> Increments:
    """Return the steps of every job's hull, in falling efficiency within a job.

    A step leads to the tier with the highest gain per micro-dollar above the tier reached; of equal ones to
    the cheapest, as small steps fill a budget best. Tiers below the hull, and those that gain nothing, are
    not in it.

    Source: dominance in the multiple-choice knapsack, Kellerer, Pferschy, Pisinger, Knapsack Problems
    (2004), 11.2; gift wrapping from the floor, as T is small.
    """
    n, most = len(options), len(options) * (options.tiers - 1)
    job, tier = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.int8)
    extra, efficiency = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.float64)
    count = 0
    for start in range(0, n, BLOCK):
        step = _steps(options, slice(start, start + BLOCK))
        end = count + len(step.job)
        job[count:end] = step.job
        job[count:end] += start
        tier[count:end] = step.tier
        extra[count:end] = step.extra
        efficiency[count:end] = step.efficiency
        count = end
    return Increments(
        job=job[:count], tier=tier[:count], extra=extra[:count], efficiency=efficiency[:count], jobs=n
    )


def _floor(options: Options, rows: slice) -> tuple[Tiers, Money, Floats]:
    """Return the floor tier, its price and its gain for the jobs of a block; price 0 where there is none."""
    prices, gains = options.micro_usd[rows], options.gain[rows]
    tier = np.full(len(prices), DEFERRED, dtype=np.int8)
    price = np.full(len(prices), np.iinfo(np.int64).max)
    gain = np.full(len(prices), -np.inf)
    for column in range(options.tiers):
        better = (prices[:, column] < price) | ((prices[:, column] == price) & (gains[:, column] > gain))
        if options.allowed is not None:
            better &= options.allowed[rows, column]
        np.copyto(tier, column, where=better, casting="unsafe")
        np.copyto(price, prices[:, column], where=better)
        np.copyto(gain, gains[:, column], where=better)
    price[tier == DEFERRED] = 0
    return tier, price, gain


def _steps(options: Options, rows: slice) -> Increments:
    """Return the steps of a block's jobs, which are counted from its start."""
    prices = np.ascontiguousarray(options.micro_usd[rows].T)  # (n, T) -> (T, n): each tier in one piece
    gains = np.ascontiguousarray(options.gain[rows].T)
    _, price, gain = _floor(options, rows)
    n = len(price)
    tiers = np.zeros((n, options.tiers - 1), dtype=np.int8)
    extras = np.zeros((n, options.tiers - 1), dtype=np.int64)
    slopes = np.zeros((n, options.tiers - 1))
    for step in range(options.tiers - 1):
        best, tier = np.zeros(n), np.zeros(n, dtype=np.int8)
        next_price, next_gain = price.copy(), gain.copy()
        for column in range(options.tiers):
            dearer = prices[column] - price
            slope = (gains[column] - gain) / np.maximum(dearer, 1)
            better = (slope > best) | ((slope == best) & (prices[column] < next_price))
            better &= dearer > 0
            if options.allowed is not None:
                better &= options.allowed[rows, column]
            np.copyto(best, slope, where=better)
            np.copyto(tier, column, where=better, casting="unsafe")
            np.copyto(next_price, prices[column], where=better)
            np.copyto(next_gain, gains[column], where=better)
        if not best.any():
            break
        # Rounding may make a later slope look steeper than the one before it, by a bit.
        slopes[:, step] = np.minimum(best, slopes[:, step - 1]) if step else best
        tiers[:, step], extras[:, step] = tier, next_price - price
        price, gain = next_price, next_gain
    kept = slopes > 0  # (n, T - 1), row by row: a job's steps stay together
    return Increments(
        job=np.repeat(np.arange(n, dtype=np.int32), kept.sum(axis=1)),
        tier=tiers[kept],
        extra=extras[kept],
        efficiency=slopes[kept],
        jobs=n,
    )
