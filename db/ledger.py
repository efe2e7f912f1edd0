"""Money: reserve, settle, release. Guarded updates of `budget`, each with append-only rows of `ledger`.

It knows budgets and events, neither tiers nor jobs' states. Amounts are integer micro-USD. The guard is
deliberately dumb: one UPDATE that refuses what exceeds the limit, and a CHECK constraint behind it. An event
id is a function of what happened (`reserve:<microbatch>`), so a replay collides instead of posting twice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from db.dialects import run


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Account:
    """One row of `budget`."""

    budget_id: str
    period: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Posting:
    """One event, to be posted once to each account it concerns."""

    event_id: str
    kind: str  # reserve, settle, release
    d_reserved: int  # micro-USD
    d_spent: int


def batch_account(batch_id: str) -> Account:
    """Return the budget that a batch was submitted with."""
    return Account(budget_id=f"batch:{batch_id}", period="total")


def accounts_of(batch_id: str, *, budget_id: str | None, period: str | None) -> tuple[Account, ...]:
    """Return the accounts a microbatch draws on, in the order in which they are locked."""
    accounts = [batch_account(batch_id)]
    if budget_id is not None and period is not None:
        accounts.append(Account(budget_id=budget_id, period=period))
    return tuple(sorted(accounts))


def settled(job_id: str, *, micro_usd: int) -> Posting:
    """Return the event that turns a part of a job's reservation into spending."""
    return Posting(event_id=f"settle:{job_id}", kind="settle", d_reserved=-micro_usd, d_spent=micro_usd)


def released(what: str, *, micro_usd: int) -> Posting:
    """Return the event that gives back what a job or a microbatch (its id) did not use."""
    return Posting(event_id=f"release:{what}", kind="release", d_reserved=-micro_usd, d_spent=0)


def open_account(connection: Connection, account: Account, *, limit: int | None) -> None:
    """Create a budget unless it exists: a limit is fixed once, and never widened."""
    run(
        connection,
        """INSERT INTO budget(id, period, lim, reserved, spent) VALUES(:budget_id, :period, :lim, 0, 0)
            ON CONFLICT(id, period) DO NOTHING""",
        {"budget_id": account.budget_id, "period": account.period, "lim": limit},
    )


def lock(connection: Connection, accounts: Iterable[Account]) -> None:
    """Take the rows of several budgets in the one order that cannot deadlock."""
    for account in sorted(set(accounts)):
        run(
            connection,
            "SELECT 1 FROM budget WHERE id = :budget_id AND period = :period {LOCK}",
            {"budget_id": account.budget_id, "period": account.period},
        )


def reserve(
    connection: Connection, microbatch_id: str, *, accounts: Sequence[Account], micro_usd: int
) -> bool:
    """Hold money for a microbatch in all of its accounts; False, and nothing held, if one refuses."""
    held: list[Account] = []
    for account in accounts:
        if not _hold(connection, account, micro_usd=micro_usd):
            for earlier in held:
                _hold(connection, earlier, micro_usd=-micro_usd)
            return False
        held.append(account)
    posting = Posting(event_id=f"reserve:{microbatch_id}", kind="reserve", d_reserved=micro_usd, d_spent=0)
    _append(connection, accounts, [posting])
    return True


def _hold(connection: Connection, account: Account, *, micro_usd: int) -> bool:
    result = run(
        connection,
        """UPDATE budget SET reserved = reserved + :c WHERE id = :budget_id AND period = :period
            AND (lim IS NULL OR reserved + spent + :c <= lim)""",
        {"c": micro_usd, "budget_id": account.budget_id, "period": account.period},
    )
    return result.rowcount == 1


def post(connection: Connection, postings: Iterable[Posting], *, accounts: Sequence[Account]) -> None:
    """Apply settlements and releases to each account: one update per budget, one ledger row per event."""
    postings = [posting for posting in postings if posting.d_reserved or posting.d_spent]
    if not postings:
        return
    for account in accounts:
        run(
            connection,
            """UPDATE budget SET reserved = reserved + :d_reserved, spent = spent + :d_spent
                WHERE id = :budget_id AND period = :period""",
            {
                "d_reserved": sum(posting.d_reserved for posting in postings),
                "d_spent": sum(posting.d_spent for posting in postings),
                "budget_id": account.budget_id,
                "period": account.period,
            },
        )
    _append(connection, accounts, postings)


def _append(connection: Connection, accounts: Sequence[Account], postings: Sequence[Posting]) -> None:
    run(
        connection,
        """INSERT INTO ledger(event_id, budget_id, period, kind, d_reserved, d_spent, at_ms)
            VALUES(:event_id, :budget_id, :period, :kind, :d_reserved, :d_spent, {NOW})""",
        [
            {
                "event_id": posting.event_id,
                "budget_id": account.budget_id,
                "period": account.period,
                "kind": posting.kind,
                "d_reserved": posting.d_reserved,
                "d_spent": posting.d_spent,
            }
            for account in accounts
            for posting in postings
        ],
    )
