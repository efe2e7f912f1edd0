"""What may decide a window of the simulation: the protocol, and every policy that ours is held against.

All are told the same: the window's predictions, the money above the floors, how many jobs are expected until
the period ends, and what is remembered of the time before. None sees a measured gain or a job to come. What
money allows is enforced by `replay`, for all alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scheduler.allocation.hulls import Increments, floors, increments
from scheduler.allocation.knapsack import solve
from scheduler.allocation.mirror import descend, step_size
from scheduler.allocation.options import Floats, Options, Tiers
from scheduler.simulation.traffic import Earlier

LEARNT = 0.025  # share of the jobs that PORT decides by chance, as published
FEW = 200  # jobs below which no distribution is read off


@dataclass(frozen=True, kw_only=True, slots=True)
class SimWindow:
    """What a policy may know when it decides."""

    at: float  # seconds since the trace began
    options: Options  # of the window's jobs, as predicted
    money: int  # micro-dollars left above the floors of these jobs and of all expected until the period ends
    jobs_left: float  # expected after this window until the period ends
    arrived: int  # jobs of this period so far, with this window's
    period: int  # number of the money's period, from 0


class Policy(Protocol):
    """Decides windows one after the other; one object per replay."""

    def decide(self, window: SimWindow) -> Tiers:
        """Return a tier for each job, (n,); a job that money does not reach gets its floor tier instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What every policy is told before the first job."""

    earlier: Earlier
    tiers: int
    seed: int  # for those that draw by chance


MakePolicy = Callable[[Known], Policy]


class AllEdge:
    """Control: the cheapest tier for every job."""

    def __init__(self, _: Known) -> None: ...

    def decide(self, window: SimWindow) -> Tiers:
        """Return the floors."""
        return floors(window.options)[0]


class AllCloud:
    """Control: the dearest tier for every job, while money lasts."""

    def __init__(self, _: Known) -> None: ...

    def decide(self, window: SimWindow) -> Tiers:
        """Return the dearest tier."""
        dearest: Tiers = window.options.micro_usd.argmax(axis=1).astype(np.int8)
        return dearest


class GreedyFirstCome:
    """The best tier for every job in order of arrival, while money lasts."""

    def __init__(self, _: Known) -> None: ...

    def decide(self, window: SimWindow) -> Tiers:
        """Return what would be chosen if money were no matter."""
        return at_price(window.options, 0.0)


class Random:
    """Control: dearest or cheapest tier by chance, as often as the money allows until the period ends."""

    def __init__(self, known: Known) -> None:
        self._rng = np.random.default_rng([known.seed, 1])

    def decide(self, window: SimWindow) -> Tiers:
        """Return a draw whose expected price is this window's share of the money."""
        floor, cheapest = floors(window.options)
        dearest = window.options.micro_usd.argmax(axis=1).astype(np.int8)
        extra = float((window.options.micro_usd.max(axis=1) - cheapest).sum())
        chance = share(window) / extra if extra else 1.0
        return np.where(self._rng.random(len(floor)) < chance, dearest, floor)


class ProRata:
    """The knapsack of each window alone, within the window's share of the money by number of jobs."""

    def __init__(self, _: Known) -> None: ...

    def decide(self, window: SimWindow) -> Tiers:
        """Return the best that the share buys."""
        floor = int(floors(window.options)[1].sum())
        return solve(window.options, budget=floor + int(share(window))).tier


class StaticThreshold:
    """One price per period, at which the jobs of the time before would have spent the period's money.

    Without a time before, the jobs seen so far stand for it until there are `FEW`.
    """

    def __init__(self, known: Known) -> None:
        self._sample = [known.earlier.options] if len(known.earlier.options) else []
        self._fixed = bool(self._sample)
        self._priced: dict[int, float] = {}

    def decide(self, window: SimWindow) -> Tiers:
        """Return the tiers that are worth their price."""
        return at_price(window.options, self.price(window))

    def price(self, window: SimWindow) -> float:
        """Return the price of this window's period; found once."""
        if not self._fixed:
            self._sample.append(window.options)
            self._fixed = sum(map(len, self._sample)) >= FEW
            self._priced.clear()
        if window.period not in self._priced:
            expected = len(window.options) + window.jobs_left
            self._priced[window.period] = price_that_spends(
                window.money, [(increments(one), expected / _size(self._sample)) for one in self._sample]
            )
        return self._priced[window.period]


class DualMirror:
    """A price that rises after windows that spent too much and falls after those that spent too little.

    Begins with the price of `StaticThreshold`; needs the number of jobs to come, not their mix.
    """

    def __init__(self, known: Known) -> None:
        self._static = StaticThreshold(known)
        self._price: float | None = None

    def decide(self, window: SimWindow) -> Tiers:
        """Return the best at the price, and move the price."""
        if self._price is None:
            self._price = self._static.price(window)
        floor = floors(window.options)[1]
        total = int(floor.sum())
        choice = solve(window.options, budget=total + window.money, price=self._price)
        steps = increments(window.options)
        if len(steps):
            step = step_size(
                efficiency=float(np.median(steps.efficiency)),
                extra=float(np.median(steps.extra)),
                jobs=window.arrived + window.jobs_left,
            )
            spent = choice.micro_usd - total
            self._price = descend(self._price, spent=spent, planned=share(window), step=step)
        return choice.tier


class PortDual:
    """PORT: the first jobs by chance, then the dual price of those jobs' linear program, solved once.

    Published for a known number of queries and one budget per model; here the number is the forecast, the
    budget is one, and the draws of the first part stay within its share of the money: left alone, they spend
    half a small budget. Solved again in each period, as each has its own money. Features are not estimated
    from neighbours: every policy here has the same predictions.
    Source: arXiv 2509.02718, equations of the dual and algorithm 1; epsilon as in its experiments.
    """

    def __init__(self, known: Known) -> None:
        self._rng = np.random.default_rng([known.seed, 2])
        self._period = -1
        self._first: list[Options] = []
        self._price: float | None = None

    def decide(self, window: SimWindow) -> Tiers:
        """Return draws at first, the tiers that are worth their price later."""
        if window.period != self._period:
            self._period, self._first, self._price = window.period, [], None
        if self._price is not None:
            return at_price(window.options, self._price)
        self._first.append(window.options)
        expected = window.arrived + window.jobs_left
        if window.arrived >= LEARNT * expected:
            stands = (len(window.options) + window.jobs_left) / _size(self._first)
            self._price = price_that_spends(window.money, [(increments(one), stands) for one in self._first])
        return self._drawn(window)

    def _drawn(self, window: SimWindow) -> Tiers:
        floor, cheapest = floors(window.options)
        tier = self._rng.integers(0, window.options.tiers, len(floor)).astype(np.int8)
        extra = window.options.micro_usd[np.arange(len(floor)), tier] - cheapest
        return np.where(np.cumsum(extra) <= share(window), tier, floor)


def price_that_spends(money: float, parts: Sequence[tuple[Increments, float]]) -> float:
    """Return the lowest price at which the steps above it cost at most `money`; 0 if all can be paid.

    Args:
        money: micro-dollars.
        parts: steps, and how many jobs each of their jobs stands for.
    """
    efficiency = np.concatenate([steps.efficiency for steps, _ in parts])
    extra = np.concatenate([steps.extra * weight for steps, weight in parts])
    order = np.argsort(-efficiency)
    paid = int(np.searchsorted(np.cumsum(extra[order]), money, side="right"))
    return float(efficiency[order[paid]]) if paid < len(order) else 0.0


def share(window: SimWindow) -> float:
    """Return this window's share of the money, by number of jobs."""
    return window.money * len(window.options) / max(len(window.options) + window.jobs_left, 1.0)


def at_price(options: Options, price: float) -> Tiers:
    """Return for each job the tier with the highest gain less price times cost; the cheapest of equals."""
    worth: Floats = options.gain - price * options.micro_usd
    order = np.argsort(options.micro_usd, axis=1, kind="stable")
    best = np.take_along_axis(worth, order, axis=1).argmax(axis=1)
    tier: Tiers = order[np.arange(len(options)), best].astype(np.int8)
    return tier


def _size(sample: list[Options]) -> int:
    return max(sum(map(len, sample)), 1)
