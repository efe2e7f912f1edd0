"""Money moves: a ledger row is a transfer between two sides of an account, so no entry can fail to balance.

It knows accounts and events, neither tiers nor jobs' states nor why a limit is what it is (`db.budgets`).
Amounts are integer micro-USD. The guard is deliberately dumb: accounts are locked in one order, each update
refuses what exceeds the limit, and a CHECK constraint stands behind it. An event id is a function of what
happened (`reserve:<microbatch>`), so a replay collides instead of posting twice.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection

from db.dialects import pack_pairs, run, run_rows
from routet2i.contracts import Account
from routet2i.errors import RouteT2IError
from routet2i.periods import TOTAL

__all__ = ["Account", "Movement", "Side", "Verdict", "Wish"]


class Side(StrEnum):
    """Where money stands; a transfer takes it from one side of an account to another."""

    OWNER = "owner"  # outside: whoever set the limit
    AVAILABLE = "available"  # may be reserved
    RESERVED = "reserved"  # held for assigned jobs
    SPENT = "spent"  # charged
    UNKNOWN = "unknown"  # bought perhaps: counts as spent until somebody knows
    OVERRUN = "overrun"  # charged beyond what was reserved, and beyond the limit
    CARRIED = "carried"  # on its way into the next period


MOVES: Mapping[str, tuple[tuple[Side, Side], ...]] = {  # kind -> its transfers; a CHECK says the same
    "grant": ((Side.OWNER, Side.AVAILABLE), (Side.AVAILABLE, Side.OWNER)),
    "reserve": ((Side.AVAILABLE, Side.RESERVED),),
    "settle": ((Side.RESERVED, Side.SPENT), (Side.RESERVED, Side.UNKNOWN)),
    "release": ((Side.RESERVED, Side.AVAILABLE),),
    "adjust": ((Side.UNKNOWN, Side.SPENT), (Side.UNKNOWN, Side.AVAILABLE)),
    "carry": (
        (Side.AVAILABLE, Side.CARRIED),
        (Side.CARRIED, Side.AVAILABLE),
        (Side.OWNER, Side.AVAILABLE),  # the limits of periods in which nothing happened
    ),
    "overrun": ((Side.OWNER, Side.OVERRUN),),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Movement:
    """One event's transfer, to be posted once to each account it concerns."""

    event_id: str
    kind: str  # a key of MOVES
    source: Side
    target: Side
    micro_usd: int  # >= 0

    def change(self, *sides: Side) -> int:
        """Return by how much the money on these sides together grows."""
        return self.micro_usd * ((self.target in sides) - (self.source in sides))


def batch_account(batch_id: str) -> Account:
    """Return the budget that a batch was submitted with."""
    return Account(budget_id=f"batch:{batch_id}", period=TOTAL)


def settled(job_id: str, *, micro_usd: int) -> Movement:
    """Return the event that turns a part of a job's reservation into spending."""
    return _movement("settle", job_id, Side.RESERVED, Side.SPENT, micro_usd)


def released(what: str, *, micro_usd: int) -> Movement:
    """Return the event that gives back what a job or a microbatch (its id) did not use."""
    return _movement("release", what, Side.RESERVED, Side.AVAILABLE, micro_usd)


def unknown(call: str, *, micro_usd: int) -> Movement:
    """Return the event of a purchase whose answer was lost: all that it may cost counts as spent."""
    return Movement(
        event_id=f"unknown:{call}",
        kind="settle",
        source=Side.RESERVED,
        target=Side.UNKNOWN,
        micro_usd=micro_usd,
    )


def charged(call: str, *, micro_usd: int) -> Movement:
    """Return the event that finds out what an unknown purchase has cost."""
    return _movement("adjust", call, Side.UNKNOWN, Side.SPENT, micro_usd)


def voided(call: str, *, micro_usd: int) -> Movement:
    """Return the event that finds out what an unknown purchase has not cost."""
    return Movement(
        event_id=f"void:{call}",
        kind="adjust",
        source=Side.UNKNOWN,
        target=Side.AVAILABLE,
        micro_usd=micro_usd,
    )


def overrun(call: str, *, micro_usd: int) -> Movement:
    """Return the event of a bill above its reservation: no limit gives way, the excess stands by itself."""
    return _movement("overrun", call, Side.OWNER, Side.OVERRUN, micro_usd)


def _movement(kind: str, what: str, source: Side, target: Side, micro_usd: int) -> Movement:
    return Movement(event_id=f"{kind}:{what}", kind=kind, source=source, target=target, micro_usd=micro_usd)


def open_account(
    connection: Connection,
    account: Account,
    *,
    limit: int | None,
    kept: int = 0,
    grown: int = 0,
    policy_id: int | None = None,
) -> bool:
    """Create an account and grant its limit; False if it exists, whatever its limit.

    Args:
        limit: micro-USD of its own; None = unlimited.
        kept: carried over from the period before, on top of the limit.
        grown: the same, from periods that were never opened.
        policy_id: that says so.
    """
    created = run(
        connection,
        """INSERT INTO budget(id, period, lim, carried, reserved, spent, overrun)
            VALUES(:budget_id, :period, :lim, :carried, 0, 0, 0) ON CONFLICT(id, period) DO NOTHING""",
        {
            "budget_id": account.budget_id,
            "period": account.period,
            "lim": None if limit is None else limit + kept + grown,
            "carried": kept + grown,
        },
    )
    if created.rowcount != 1:
        return False
    period = f"{account.budget_id}/{account.period}"
    grants = [
        _movement("grant", period, Side.OWNER, Side.AVAILABLE, limit or 0),
        _movement("carry", period, Side.CARRIED, Side.AVAILABLE, kept),
        Movement(
            event_id=f"idle:{period}",
            kind="carry",
            source=Side.OWNER,
            target=Side.AVAILABLE,
            micro_usd=grown,
        ),
    ]
    append(connection, [account], [one for one in grants if one.micro_usd], policy_id=policy_id)
    return True


def carried_out(connection: Connection, account: Account, *, into: str, micro_usd: int) -> None:
    """Take money out of a locked account for the period `into` of the same budget."""
    run(
        connection,
        "UPDATE budget SET lim = lim - :c WHERE id = :budget_id AND period = :period",
        {"c": micro_usd, "budget_id": account.budget_id, "period": account.period},
    )
    what = f"{account.budget_id}/{into}"
    append(connection, [account], [_movement("carry", what, Side.AVAILABLE, Side.CARRIED, micro_usd)])


def lock(connection: Connection, accounts: Iterable[Account]) -> dict[Account, int | None]:
    """Take the rows of several accounts, in the one order that cannot deadlock.

    Returns:
        What is free in each, micro-USD; None = unlimited. An account that does not exist is left out.
    """
    rows = run(
        connection,
        """SELECT id, period, lim - reserved - spent AS free FROM budget WHERE (id, period) IN {PAIRS}
            ORDER BY id {BYTES}, period {BYTES} {LOCK}""",
        {"pairs": pack_pairs((one.budget_id, one.period) for one in set(accounts))},
    ).all()
    return {Account(budget_id=row.id, period=row.period): row.free for row in rows}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """Money wanted for one microbatch, from all of its accounts."""

    microbatch_id: str
    accounts: tuple[Account, ...]
    prices: tuple[int, ...]  # micro-USD, the first that all accounts can pay is granted


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the ledger says to a wish."""

    granted: int | None  # position among the wish's prices; None = all were refused
    refused_by: Account | None  # the account that could not pay the last refused price


def reserve(
    connection: Connection, wishes: Sequence[Wish], *, free: Mapping[Account, int | None]
) -> list[Verdict]:
    """Hold money for microbatches, each in all of its accounts or in none; the first come first.

    Args:
        free: of `lock`, in this transaction, for all accounts of the wishes.
    Returns:
        One verdict per wish.
    """
    free = dict(free)
    verdicts: list[Verdict] = []
    taken: dict[Account, int] = defaultdict(int)
    lines: list[dict[str, object]] = []
    for wish in wishes:
        verdict = _verdict(wish, free)
        verdicts.append(verdict)
        if verdict.granted is None:
            continue
        price = wish.prices[verdict.granted]
        held = _movement("reserve", wish.microbatch_id, Side.AVAILABLE, Side.RESERVED, price)
        for account in wish.accounts:
            left = free[account]
            free[account] = None if left is None else left - price
            taken[account] += price
            lines.append(_line(held, account))
    if lines:
        _hold(connection, taken)
        _insert(connection, lines)
    return verdicts


def _verdict(wish: Wish, free: Mapping[Account, int | None]) -> Verdict:
    refused_by: Account | None = None
    for position, price in enumerate(wish.prices):
        short = [one for one in wish.accounts if (left := free[one]) is not None and left < price]
        if not short:
            return Verdict(granted=position, refused_by=refused_by)
        refused_by = short[0]
    return Verdict(granted=None, refused_by=refused_by)


def _hold(connection: Connection, taken: Mapping[Account, int]) -> None:
    """Reserve in locked accounts; the guard of each update is the law, the arithmetic before it a plan."""
    held = run(
        connection,
        """UPDATE budget SET reserved = reserved + :c WHERE id = :budget_id AND period = :period
            AND (lim IS NULL OR reserved + spent + :c <= lim)""",
        [
            {"c": micro_usd, "budget_id": account.budget_id, "period": account.period}
            for account, micro_usd in sorted(taken.items())
        ],
    )
    if held.rowcount != len(taken):
        raise RouteT2IError("the ledger refuses what it has just locked: its limits were changed by hand")


def post(connection: Connection, movements: Iterable[Movement], *, accounts: Iterable[Account]) -> None:
    """Apply settlements and releases to each account: one update per account, one ledger row per event."""
    movements = [movement for movement in movements if movement.micro_usd]
    accounts = sorted(accounts)
    if not movements or not accounts:
        return
    changes = {
        "d_reserved": sum(one.change(Side.RESERVED) for one in movements),
        "d_spent": sum(one.change(Side.SPENT, Side.UNKNOWN) for one in movements),
        "d_overrun": sum(one.change(Side.OVERRUN) for one in movements),
    }
    run(
        connection,
        """UPDATE budget SET reserved = reserved + :d_reserved, spent = spent + :d_spent,
            overrun = overrun + :d_overrun WHERE id = :budget_id AND period = :period""",
        [changes | {"budget_id": account.budget_id, "period": account.period} for account in accounts],
    )
    append(connection, accounts, movements)


def append(
    connection: Connection,
    accounts: Sequence[Account],
    movements: Sequence[Movement],
    *,
    policy_id: int | None = None,
) -> None:
    """Write ledger rows whose sums somebody else has put into `budget`.

    Args:
        policy_id: that grants the money: who and why stand there.
    """
    lines = [_line(movement, account) for account in accounts for movement in movements]
    _insert(connection, [line | {"policy_id": policy_id} for line in lines])


def _line(movement: Movement, account: Account) -> dict[str, object]:
    return {
        "event_id": movement.event_id,
        "budget_id": account.budget_id,
        "period": account.period,
        "kind": movement.kind,
        "from_side": movement.source.value,
        "to_side": movement.target.value,
        "micro_usd": movement.micro_usd,
        "policy_id": None,
    }


def _insert(connection: Connection, lines: Sequence[Mapping[str, object]]) -> None:
    if lines:
        run_rows(
            connection,
            """INSERT INTO ledger(event_id, budget_id, period, kind, from_side, to_side, micro_usd, policy_id,
                                  at_ms)
                SELECT {event_id:text}, {budget_id:text}, {period:text}, {kind:text}, {from_side:text},
                       {to_side:text}, {micro_usd:bigint}, {policy_id:bigint}, {NOW} {EACH}""",
            lines,
        )
