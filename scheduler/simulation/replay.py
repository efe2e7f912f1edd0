"""Run a day's traffic against a policy: who got which tier, what it gained, cost, and how long it took.

Arrivals come in rounds; a policy proposes tiers, and no period's money is ever overspent, whatever it
proposes. Deciding takes no time here. It knows no law of arrival and no table of qualities.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from scheduler.allocation.greedy import fill
from scheduler.allocation.hulls import floors, increments
from scheduler.allocation.knapsack import solve
from scheduler.allocation.options import DEFERRED, Floats, Money, Options, Tiers
from scheduler.simulation.arrivals import Arrivals
from scheduler.simulation.policies import Known, MakePolicy, SimWindow
from scheduler.simulation.pools import Pool, Served, serve
from scheduler.simulation.traces import DAY, Counts
from scheduler.simulation.traffic import Traffic

ROUNDS = 2_000  # decisions of one run: a price is solved anew no more often, so that a day takes seconds
RECENT = 1_000  # jobs whose mean floor price is that of the jobs to come


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The money and the pace of a simulation."""

    money: int  # micro-dollars per period; what a period leaves over lapses
    period_seconds: float  # > 0
    window_seconds: float  # a job is ready for its worker when its window closes


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What a policy did with n jobs."""

    tier: Tiers  # (n,) -1 = its money never came
    ready: Floats  # (n,) when a worker may begin; infinite if never
    micro_usd: int
    gain: float  # as predicted
    measured: float  # gain of the pictures in fact


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """One policy's day in figures."""

    policy: str
    jobs: int
    unserved: int  # jobs whose floor price no period could pay
    shares: Mapping[str, float]  # tier -> share of the served jobs
    gain: float  # sum of predicted gains
    of_hindsight: float | None  # its share of the linear program that sees the whole trace; None if that is 0
    measured: float  # sum of the gains in fact
    micro_usd: int
    micro_usd_per_day: int
    device_seconds: Mapping[str, float]  # tier -> time its workers drew
    latency_p50: float | None  # seconds from arrival to the last picture; None if nothing was served
    latency_p95: float | None
    utilisation: Mapping[str, float]  # tier -> share of its workers' time
    longest_queue: Mapping[str, int]  # tier -> most microbatches that waited at once


def decide(traffic: Traffic, make: MakePolicy, *, plan: Plan, seed: int) -> Decided:
    """Return what a policy decides, round by round.

    In each round the floor of every job comes first, in order of arrival; what does not fit waits for the
    next period. Then the floors of all jobs expected until the period ends are set aside, for every policy
    alike. Of the rest the proposed tiers are paid in order of arrival; a job that does not fit gets its
    floor.
    """
    policy = make(Known(earlier=traffic.earlier, tiers=traffic.options.tiers, seed=seed))
    arrivals = Arrivals(counts=traffic.earlier.counts)
    floor_tier, floor = floors(traffic.options)
    floor_sums = np.concatenate([[0], np.cumsum(floor)])
    tier = np.full(len(traffic), DEFERRED, dtype=np.int8)
    ready = np.full(len(traffic), np.inf)
    waiting = np.zeros(0, dtype=np.int64)
    left, period, began = plan.money, 0, 0
    for round_ in _rounds(traffic, plan):
        if round_.period != period:
            left, period, began = plan.money, round_.period, round_.first
        arrivals = arrivals.with_jobs(traffic.at[round_.first : round_.end], now=round_.close)
        rows = np.concatenate([waiting, np.arange(round_.first, round_.end)])
        affordable = fill(floor[rows], left)
        rows, waiting = rows[affordable], rows[~affordable]
        if not len(rows):
            continue
        until = min((period + 1) * plan.period_seconds, traffic.seconds)
        expected = arrivals.expected(round_.close, until=until)
        recent = max(0, round_.end - RECENT)
        price = float(floor_sums[round_.end] - floor_sums[recent]) / (round_.end - recent)
        left -= int(floor[rows].sum())
        options = _only(traffic.options, rows)
        money = max(0, left - int((expected.jobs + expected.error) * price)) if not len(waiting) else 0
        window = SimWindow(
            at=round_.close,
            options=options,
            money=money,
            jobs_left=expected.jobs,
            arrived=round_.end - began,
            period=period,
        )
        chosen, spent = _paid(options, policy.decide(window), floor_tier[rows], money)
        left -= spent
        tier[rows] = chosen
        since = np.maximum(traffic.at[rows], round_.open)  # later than it came, if it waited for money
        ready[rows] = _ticks(since, plan.window_seconds)
    return _decided(traffic, tier, ready)


def decide_in_hindsight(traffic: Traffic, *, plan: Plan) -> Decided:
    """Return the choice of one who sees each period whole: the best that its money buys."""
    tier = np.full(len(traffic), DEFERRED, dtype=np.int8)
    for rows in _periods(traffic, plan):
        tier[rows] = solve(_only(traffic.options, rows), budget=plan.money).tier
    ready = np.where(tier == DEFERRED, np.inf, _ticks(traffic.at, plan.window_seconds))
    return _decided(traffic, tier, ready)


def money_for_share(traffic: Traffic, share: float) -> int:
    """Return what pays every job's floor, and of all dearest tiers' extra price a share, in micro-dollars."""
    floor = int(floors(traffic.options)[1].sum())
    return floor + int(share * (int(traffic.options.micro_usd.max(axis=1).sum()) - floor))


def hindsight(traffic: Traffic, *, plan: Plan) -> float:
    """Return the gain of the linear program that sees each period whole and serves every job.

    Whoever leaves jobs unserved saves their floors, and may gain a little more.
    """
    total = 0.0
    for rows in _periods(traffic, plan):
        options = _only(traffic.options, rows)
        spare = plan.money - int(floors(options)[1].sum())
        steps = increments(options)
        order = np.argsort(-steps.efficiency)
        paid = np.clip(spare - (np.cumsum(steps.extra[order]) - steps.extra[order]), 0, steps.extra[order])
        total += float((steps.efficiency[order] * paid).sum())
    return total


def summed_up(
    name: str, decided: Decided, traffic: Traffic, *, pools: Mapping[str, Pool], best: float
) -> Replay:
    """Return the figures of what was decided.

    Args:
        name: of the policy.
        decided: of this traffic.
        pools: of every tier.
        best: `hindsight` of the same traffic and plan.
    """
    served = decided.tier != DEFERRED
    done = np.full(len(traffic), np.nan)
    by_tier: dict[str, Served] = {}
    drawn: dict[str, float] = {}
    for column, tier in enumerate(traffic.tiers):
        rows = np.flatnonzero(decided.tier == column)
        rows = rows[np.argsort(decided.ready[rows], kind="stable")]
        by_tier[tier] = serve(pools[tier], ready=decided.ready[rows], pictures=traffic.pictures[rows])
        drawn[tier] = float(traffic.pictures[rows].sum()) * pools[tier].seconds
        done[rows] = by_tier[tier].done
    waits = (done - traffic.at)[served]
    return Replay(
        policy=name,
        jobs=len(traffic),
        unserved=int((~served).sum()),
        shares={
            tier: float((decided.tier == column).sum()) / max(int(served.sum()), 1)
            for column, tier in enumerate(traffic.tiers)
        },
        gain=decided.gain,
        of_hindsight=decided.gain / best if best > 0 else None,
        measured=decided.measured,
        micro_usd=decided.micro_usd,
        micro_usd_per_day=round(decided.micro_usd * DAY / traffic.seconds),
        device_seconds=drawn,
        latency_p50=float(np.percentile(waits, 50)) if len(waits) else None,
        latency_p95=float(np.percentile(waits, 95)) if len(waits) else None,
        utilisation={tier: one.utilisation for tier, one in by_tier.items()},
        longest_queue={tier: one.longest_queue for tier, one in by_tier.items()},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Round:
    """Jobs `first` to `end` of the traffic, decided together."""

    first: int
    end: int
    open: float  # seconds
    close: float
    period: int


def _rounds(traffic: Traffic, plan: Plan) -> Iterator[_Round]:
    """Yield the rounds in which something arrived; none reaches over the end of a period."""
    age = max(plan.window_seconds, traffic.seconds / ROUNDS)
    periods = int(np.ceil(traffic.seconds / plan.period_seconds))
    for period in range(periods):
        start = period * plan.period_seconds
        end = min(start + plan.period_seconds, traffic.seconds)
        edges = np.append(np.arange(start, end, age), end)
        rows = np.searchsorted(traffic.at, edges)
        for k in np.flatnonzero(np.diff(rows)):
            yield _Round(
                first=int(rows[k]),
                end=int(rows[k + 1]),
                open=float(edges[k]),
                close=float(edges[k + 1]),
                period=period,
            )


def _periods(traffic: Traffic, plan: Plan) -> Iterator[slice]:
    edges = np.searchsorted(
        traffic.at, np.arange(0, traffic.seconds + plan.period_seconds, plan.period_seconds)
    )
    for first, end in pairwise(edges):
        if end > first:
            yield slice(int(first), int(end))


def _only(options: Options, rows: slice | Counts) -> Options:
    allowed = None if options.allowed is None else options.allowed[rows]
    return replace(
        options,
        micro_usd=options.micro_usd[rows],
        gain=options.gain[rows],
        rank=options.rank[rows],
        allowed=allowed,
    )


def _ticks(at: Floats, seconds: float) -> Floats:
    """Return when the window of each arrival closes."""
    closes: Floats = (np.floor(at / seconds) + 1) * seconds
    return closes


def _paid(options: Options, wanted: Tiers, floor: Tiers, money: int) -> tuple[Tiers, int]:
    """Return the tiers that `money` pays above the floors, in the order of the rows, and what they cost."""
    rows = np.arange(len(options))
    extra: Money = options.micro_usd[rows, wanted] - options.micro_usd[rows, floor]
    paid = fill(extra, money)
    return np.where(paid, wanted, floor).astype(np.int8), int(extra[paid].sum())


def _decided(traffic: Traffic, tier: Tiers, ready: Floats) -> Decided:
    rows = np.flatnonzero(tier != DEFERRED)
    columns = tier[rows]
    return Decided(
        tier=tier,
        ready=ready,
        micro_usd=int(traffic.options.micro_usd[rows, columns].sum()),
        gain=float(traffic.options.gain[rows, columns].sum()),
        measured=float(traffic.measured[rows, columns].sum()),
    )
