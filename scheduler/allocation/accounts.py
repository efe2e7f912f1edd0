"""Budgets inside budgets: a job is paid by its batch, its client and the deployment, by all or by none.

Pure numpy on account numbers; it knows no names, no periods and no SQL, and it permits nothing: the ledger
may still refuse. No account is ever overspent, nested or not.
"""

import math

import numpy as np
from numpy.typing import NDArray

from scheduler.allocation.bounds import bounds
from scheduler.allocation.greedy import spread, take
from scheduler.allocation.hulls import Increments, floors, increments
from scheduler.allocation.options import DEFERRED, Bound, Choice, Floats, Mask, Money, Options, Rows, chosen

NONE = -1  # no account at this level, or none that refused
TAKEN = -2  # in place of the account that refused a step


def solve_nested(
    options: Options, *, accounts: Rows, allowance: Money, price: Floats | None = None
) -> Choice:
    """Choose a tier for each job so that every account pays for its jobs, with as much gain as can be.

    First the floors: a job whose floor does not fit into all its accounts is deferred, in the order of the
    rows, and an account that cannot pay all floors buys nothing dearer. Then level by level, innermost first:
    each account keeps, in falling efficiency, what it can pay of what the level below has kept. With nested
    accounts the gain is at most one step per account below the linear optimum; more money in the outermost
    account never brings less gain.

    Args:
        options: most urgent job first.
        accounts: (n, L), L >= 1, the accounts that pay for each job, innermost first; -1 = none at this
            level. An account stands at one level only.
        allowance: (A,) micro-dollars that each account may spend in this window; below 0 counts as 0.
        price: (A,) gain per micro-dollar, >= 0: a step must exceed the highest of its accounts. None: 0.
    Returns:
        A choice with `account` and `prices`; its `price` is the highest of them. `account` is the account
        that refused a job its next step, or its floor.
    """
    given = np.zeros(len(allowance)) if price is None else price
    _check(accounts, given, allowance, jobs=len(options))
    tier, floor = floors(options)
    left = np.maximum(allowance, 0)
    unable = short(accounts, floor, left)
    poor = _pay_floors(accounts, floor, left, short=unable)
    steps = increments(options)
    refused_by = _refused_at_once(steps, accounts, short=unable, price=given)
    for level in accounts.T:
        _keep_what_fits(steps, level, left, rank=options.rank, refused_by=refused_by)
    taken = refused_by == TAKEN
    tier[steps.job[taken]] = steps.tier[taken]  # a job's steps come in order: its last one counts
    bound = bounds(options, steps, taken, tier)
    bound[poor] = Bound.DEFERRED_MONEY
    tier[poor] = DEFERRED
    account = np.full(len(options), NONE, dtype=np.int32)
    refused = np.flatnonzero(~taken)[::-1]
    account[steps.job[refused]] = refused_by[refused]  # backwards: its first refused step counts
    account[poor] = _first(accounts[poor], unable)
    prices = given.copy()
    np.maximum.at(prices, refused_by[refused], steps.efficiency[refused])
    return chosen(options, tier, bound, price=float(prices.max(initial=0)), account=account, prices=prices)


def _check(accounts: Rows, price: Floats, allowance: Money, *, jobs: int) -> None:
    if accounts.ndim != 2 or not accounts.shape[1] or len(accounts) != jobs or price.shape != allowance.shape:
        raise ValueError(f"arrays do not match: accounts {accounts.shape}, {jobs} jobs, prices {price.shape}")
    if accounts.size and not NONE <= int(accounts.min()) <= int(accounts.max()) < len(allowance):
        raise ValueError(f"accounts must be -1 or below {len(allowance)}")
    seen = [np.unique(level[level != NONE]) for level in accounts.T]
    everyone = np.concatenate([*seen, np.empty(0, dtype=np.int32)])
    if len(np.unique(everyone)) < len(everyone):
        raise ValueError("an account stands at two levels")


def short(accounts: Rows, floor: Money, left: Money) -> Mask:
    """Return (A,) which accounts cannot pay the floors of all their jobs."""
    need = np.zeros(len(left), dtype=np.int64)
    for level in accounts.T:
        paid = level != NONE
        np.add.at(need, level[paid], floor[paid])
    return need > left


def _first(accounts: Rows, mask: Mask) -> Rows:
    """Return (n,) each job's innermost account at which the mask is True, -1 where there is none."""
    hits = np.append(mask, False)[accounts]  # (n, L); the account -1 reads the last entry
    found = np.take_along_axis(accounts, hits.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(hits.any(axis=1), found, NONE).astype(np.int32)


def _pay_floors(accounts: Rows, floor: Money, left: Money, *, short: Mask) -> Mask:
    """Take the floors out of `left`, in place; return (n,) the jobs whose floor did not fit."""
    hit = _first(accounts, short) != NONE
    for level in accounts.T:
        paid = ~hit & (level != NONE)
        np.subtract.at(left, level[paid], floor[paid])
    poor = np.zeros(len(floor), dtype=np.bool_)
    rows = np.flatnonzero(hit)
    purse = [*left.tolist(), math.inf]  # the account -1 is the last entry, and never empty
    for row, payers, price in zip(rows.tolist(), accounts[rows].tolist(), floor[rows].tolist(), strict=True):
        if min(purse[account] for account in payers) < price:
            poor[row] = True
            continue
        for account in payers:
            purse[account] -= price
    left[:] = purse[:-1]
    return poor


def _refused_at_once(steps: Increments, accounts: Rows, *, short: Mask, price: Floats) -> Rows:
    """Return (m,) the account that refuses each step by its price or because floors come first, or TAKEN."""
    job_price = np.append(price, 0.0)[accounts]  # (n, L)
    dearest = np.take_along_axis(accounts, job_price.argmax(axis=1)[:, None], axis=1)[:, 0]
    dear = steps.efficiency <= job_price.max(axis=1)[steps.job]
    refused_by = np.where(dear, dearest[steps.job], TAKEN).astype(np.int32)
    hurt = _first(accounts, short)[steps.job]
    return np.where(hurt != NONE, hurt, refused_by).astype(np.int32)


def _keep_what_fits(steps: Increments, level: Rows, left: Money, *, rank: Money, refused_by: Rows) -> None:
    """Mark, in place, what the accounts of one level refuse of what is still taken."""
    wanted, payer = _of_tight_accounts(steps, level, left, refused_by)
    never = spread(steps.extra[wanted] > left[payer], steps.job[wanted])  # so that few accounts need a loop
    refused_by[wanted[never]] = payer[never]
    wanted, payer = _of_tight_accounts(steps, level, left, refused_by)
    order = np.argsort(payer, kind="stable")
    wanted, payer = wanted[order], payer[order]
    starts = np.flatnonzero(np.diff(payer, prepend=NONE))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(wanted)], strict=False):
        members, account = wanted[start:end], int(payer[start])
        kept = take(
            steps.extra[members],
            steps.efficiency[members],
            rank,
            int(left[account]),
            job=steps.job[members],
        )
        refused_by[members[~kept]] = account


def _of_tight_accounts(
    steps: Increments, level: Rows, left: Money, refused_by: Rows
) -> tuple[NDArray[np.int64], Rows]:
    """Return the taken steps of the accounts that cannot pay all of theirs, and those accounts."""
    wanted = np.flatnonzero(refused_by == TAKEN)
    payer = level[steps.job[wanted]]
    paid = payer != NONE
    total = np.zeros(len(left), dtype=np.int64)
    np.add.at(total, payer[paid], steps.extra[wanted[paid]])
    tight = np.append(total > left, False)[payer]
    return wanted[tight], payer[tight]
