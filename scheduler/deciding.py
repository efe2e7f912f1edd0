"""Decide one window: predictions, prices and money in, a tier with its reason for each job out.

Pure. All batches of a window are decided together: each budget says at what price it buys and how much at
most, each tier how much room it has, and a job takes what all of its budgets and the room allow. It knows no
clock and no SQL, and it permits nothing: the ledger may still refuse what is proposed here, and send jobs to
the edge beyond its room, for money's guard comes first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from types import MappingProxyType

import numpy as np

from routet2i.contracts import (
    Account,
    Assignment,
    Prediction,
    Scope,
    Waiting,
    WindowWork,
    Yardstick,
)
from routet2i.tiers import Tiers
from scheduler.allocation.accounts import NONE
from scheduler.allocation.capacity import solve_with_capacity
from scheduler.allocation.hulls import Increments, floors, increments
from scheduler.allocation.market import Market, Offer
from scheduler.allocation.options import DEFERRED, Bound, Choice, Floats, Mask, Money, Options, Rows
from scheduler.demand import NONE as NOTHING
from scheduler.demand import Demand
from scheduler.gains import options_of
from scheduler.lateness import in_time_first, late_tiers
from scheduler.reasons import deferral, reason, thresholds
from scheduler.rooms import loads, rooms


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What is proposed for the jobs of a window; every job is in exactly one of the two."""

    assignments: tuple[Assignment, ...]  # in the order of the jobs
    deferred: tuple[tuple[str, str], ...]  # (job id, reason code)
    available: int | None  # micro-dollars that its batches may spend in it; None = one has no limit
    markets: Mapping[str, Market]  # budget id -> what it remembers now, of the budgets with a limit


def decide_window(
    work: WindowWork,
    predictions: Sequence[Prediction],
    *,
    tiers: Tiers,
    yardstick: Yardstick | None,
    markets: Mapping[str, Market],
    demands: Mapping[Account, Demand] = MappingProxyType({}),
) -> Decision:
    """Choose a tier for each job of a window, within all budgets, or defer it.

    Floor prices come first, in the order of the jobs, for this window's jobs, for all that wait behind them
    and for those that are expected; a job whose floor does not fit is deferred. What is left buys steps up
    where they gain most per micro-dollar, at each budget's bid price, so that later windows find money too.
    Tiers with a limit take the jobs that gain most there; who finds no room goes where there is some and it
    gains, or waits. A tier in time comes before one that is predicted better but late.

    Args:
        predictions: one per job.
        yardstick: of the predictor, or None.
        markets: budget id -> what was remembered of earlier windows; a budget may be missing.
        demands: account -> jobs that nobody has submitted yet; an account that is missing expects none.
    """
    ids = [job.job_id for job in work.jobs]
    rank = np.argsort(np.argsort(np.array(ids)))
    options = options_of(work.jobs, predictions, tiers=tiers, yardstick=yardstick, rank=rank.tolist())
    limited = [account for account, funds in work.accounts.items() if funds.limit is not None]
    accounts = _levels(work, limited)
    solved = _solve(work, options, options, accounts, limited, markets=markets, demands=demands, tiers=tiers)
    choice = solved.choice
    late = late_tiers(work, choice.tier, tiers=tiers)
    if late.any():
        in_time = in_time_first(options, work.jobs, late)
        solved = _solve(
            work, options, in_time, accounts, limited, markets=markets, demands=demands, tiers=tiers
        )
        choice = _hurried(solved.choice, choice, late)
    return Decision(
        assignments=tuple(_assignments(work, predictions, choice, options, accounts, limited, tiers=tiers)),
        deferred=tuple(
            (job.job_id, deferral(choice, row, job=job, tiers=tiers, short=_scope(choice, row, limited)))
            for row, job in enumerate(work.jobs)
            if choice.tier[row] == DEFERRED
        ),
        available=_available(work, limited, solved.allowance),
        markets=solved.markets,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Solved:
    """A choice, and what each account offered for it."""

    choice: Choice
    allowance: Money  # (A,) micro-dollars
    markets: Mapping[str, Market]


def _solve(
    work: WindowWork,
    options: Options,
    wanted: Options,
    accounts: Rows,
    limited: Sequence[Account],
    *,
    markets: Mapping[str, Market],
    demands: Mapping[Account, Demand],
    tiers: Tiers,
) -> _Solved:
    """Return the choice under all budgets and in the room that there is.

    Args:
        options: as predicted; what budgets remember of the window.
        wanted: the same with the gains to choose by.
        accounts: (n, L) numbers of the accounts with a limit.
    """
    floor = floors(options)[1]
    remembered: dict[str, Market] = {}
    allowance, price = np.zeros(len(limited), dtype=np.int64), np.zeros(len(limited))
    for number, account in enumerate(limited):
        payers = (accounts == number).any(axis=1)
        offer, remembered[account.budget_id] = _offer(
            work,
            account,
            options=_only(options, payers),
            steps=increments(_only(wanted, payers)),
            floor=int(floor[payers].sum()),
            market=markets.get(account.budget_id, Market.new()),
            demand=demands.get(account, NOTHING),
            tiers=tiers,
        )
        allowance[number] = offer.most
        price[number] = offer.price
    choice = solve_with_capacity(
        wanted,
        accounts=accounts,
        allowance=allowance,
        price=price,
        load=loads(tiers, work.jobs),
        capacity=rooms(tiers, work.pools, resting=work.resting),
    )
    return _Solved(choice=choice, allowance=allowance, markets=remembered)


def _hurried(choice: Choice, unhurried: Choice, late: Mask) -> Choice:
    """Return the choice with deadlines named where they decided.

    A job that a tier in time draws was bound by its deadline if it would have got another tier without one,
    and by the same as then if not. Whom a full tier leaves late waits: room may come in time, and if it does
    not, no tier is in time any more. Whom money leaves late is told so.

    Args:
        choice: made with tiers in time first.
        unhurried: made as if there were no deadlines.
        late: (n, T) which tiers are late for a job that another one draws in time.
    """
    assert choice.account is not None
    assert unhurried.account is not None
    assigned = choice.tier != DEFERRED
    tardy = assigned & late[np.arange(len(late)), choice.tier]
    in_time = assigned & ~tardy & late.any(axis=1)
    alike = in_time & (choice.tier == unhurried.tier)
    waits = tardy & (choice.bound == Bound.CAPACITY)
    bound = np.where(alike, unhurried.bound, np.where(in_time, Bound.DEADLINE, choice.bound))
    return replace(
        choice,
        tier=np.where(waits, DEFERRED, choice.tier).astype(np.int8),
        bound=np.where(waits, Bound.DEFERRED_CAPACITY, bound).astype(np.int8),
        account=np.where(alike, unhurried.account, choice.account),
    )


def _levels(work: WindowWork, limited: Sequence[Account]) -> Rows:
    """Return (n, L) numbers of the accounts with a limit that pay for each job, innermost first.

    An account has one level: as far out as in any chain that names it.
    """
    number = {account: place for place, account in enumerate(limited)}
    level: dict[Account, int] = {}
    for chain in work.chains.values():
        for place, account in enumerate(one for one in chain if one in number):
            level[account] = max(level.get(account, 0), place)
    levels = np.full((len(work.jobs), 1 + max(level.values(), default=0)), NONE, dtype=np.int32)
    for row, job in enumerate(work.jobs):
        for account in work.chains[job.batch_id]:
            if account in number:
                levels[row, level[account]] = number[account]
    return levels


def _offer(
    work: WindowWork,
    account: Account,
    *,
    options: Options,
    steps: Increments,
    floor: int,
    market: Market,
    demand: Demand,
    tiers: Tiers,
) -> tuple[Offer, Market]:
    """Return what an account may spend in this window, floors included, at which price, and its new market.

    Expected jobs are priced as those that wait are: per picture, on average.

    Args:
        options: of the window's jobs that draw on it, as predicted.
        steps: of the same jobs, by the gains to choose by.
        floor: floor price of those jobs.
        demand: jobs that nobody has submitted yet.
    """
    funds = work.accounts[account]
    assert funds.limit is not None
    free = max(0, funds.limit - funds.reserved - funds.spent)
    members = [batch for batch, chain in work.chains.items() if account in chain]
    waiting = [group for batch in members for group in work.waiting[batch]]
    waiting += work.elsewhere.get(account, ())
    later_jobs = max(0, sum(group.jobs for group in waiting) - len(options)) + demand.jobs
    all_floors = max(floor, sum(_floor(group, tiers) for group in waiting))
    pictures = sum(group.pictures for group in waiting)
    later_floor = all_floors - floor + ceil(demand.pictures * all_floors / max(pictures, 1))
    market = market.with_jobs(options, period=account.period).judged(jobs_left=later_jobs)
    money = free - floor - later_floor
    if money < 0:  # the floors of all do not fit: those of this window come first
        return Offer(price=0.0, most=min(free, floor)), market
    if not later_jobs:
        return Offer(price=0.0, most=free), market
    offer = market.offer(steps, money=money, jobs_left=later_jobs)
    return Offer(price=offer.price, most=floor + offer.most), market


def _floor(group: Waiting, tiers: Tiers) -> int:
    """Return what jobs that wait cost at least."""
    able = [group.tier] if group.tier in tiers.routed else tiers.routed
    return min(tiers[tier].price(group.pictures, width=group.width, height=group.height) for tier in able)


def _only(options: Options, rows: Mask) -> Options:
    return Options(
        micro_usd=options.micro_usd[rows],
        gain=options.gain[rows],
        rank=options.rank[rows],
        allowed=None if options.allowed is None else options.allowed[rows],
    )


def _assignments(
    work: WindowWork,
    predictions: Sequence[Prediction],
    choice: Choice,
    options: Options,
    accounts: Rows,
    limited: Sequence[Account],
    *,
    tiers: Tiers,
) -> list[Assignment]:
    below = thresholds(
        work.jobs,
        predictions,
        choice=choice,
        options=options,
        price=_prices(choice, accounts),
        tiers=tiers,
    )
    found = []
    for row, (job, prediction) in enumerate(zip(work.jobs, predictions, strict=True)):
        column = int(choice.tier[row])
        if column == DEFERRED:
            continue
        found.append(
            Assignment(
                job_id=job.job_id,
                tier=tiers.routed[column],
                reason=reason(choice, row, job=job, tiers=tiers, short=_scope(choice, row, limited)),
                prs=prediction.prs,
                threshold=float(below[row]),
                micro_usd=int(options.micro_usd[row, column]),
                scores=prediction.scores,
            )
        )
    return found


def _prices(choice: Choice, accounts: Rows) -> Floats:
    """Return (n,) the highest price among each job's accounts; 0 where none has a limit."""
    prices = np.zeros(0) if choice.prices is None else choice.prices
    result: Floats = np.append(prices, 0.0)[accounts].max(axis=1)  # the last one: no account
    return result


def _scope(choice: Choice, row: int, limited: Sequence[Account]) -> Scope:
    """Return whose money was short for a job."""
    account = NONE if choice.account is None else int(choice.account[row])
    return Scope.BATCH if account == NONE else limited[account].scope


def _available(work: WindowWork, limited: Sequence[Account], allowance: Money) -> int | None:
    """Return what the window's batches may spend of their own; None = one has no limit."""
    own = {chain[0] for chain in work.chains.values()}
    if any(work.accounts[account].limit is None for account in own):
        return None
    return sum(int(one) for account, one in zip(limited, allowance, strict=True) if account in own)
