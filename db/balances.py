"""Budgets and ledger lines for people: what may be spent, what was, and who said so.

Read only: a period that has not begun yet is shown as it would begin now. Money is integer micro-USD, but for
the lines of the ledger, whose `usd` is exact dollars.
"""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Engine

from db import budgets
from db.budgets import Stored
from db.dialects import run
from db.session import reading
from db.story import at
from routet2i.contracts import SHADOW_CLIENT, Account, BudgetPolicy, Purse, Scope
from routet2i.periods import TOTAL, period_of

COLUMNS = (  # of a ledger line
    "line",
    "at",
    "usd",
    "kind",
    "budget_id",
    "period",
    "from_side",
    "to_side",
    "event_id",
    "who",
    "reason",
)
FETCHED = 1_000  # lines read at a time: a ledger of any length in the same memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """One budget in the period that runs now."""

    scope: Scope
    name: str
    span: str
    period: str
    limit_micro_usd: int | None  # of the period itself; None = unlimited
    carry: str  # what the next period takes over
    cap_micro_usd: int | None
    carried_micro_usd: int  # taken over from the period before
    reserved_micro_usd: int
    spent_micro_usd: int  # unknown included
    overrun_micro_usd: int
    free_micro_usd: int | None  # None = unlimited
    resets_at: datetime | None  # None = never
    set_by: str | None  # None: a batch's own budget, or the environment's
    reason: str | None


def balances(
    engine: Engine, *, purse: Purse, scope: Scope | None = None, name: str | None = None, batches: int = 20
) -> list[Balance]:
    """Return the budgets in force: deployments, clients, then batches, the newest first.

    Args:
        purse: its policy of the environment is shown beside those of the database.
        scope, name: only these; None = all.
        batches: most of the users' batches shown where no name is asked for.
    """
    with reading(engine) as connection:
        now_ms = budgets.now(connection) if purse.now_ms is None else purse.now_ms
        found = [one for one in budgets.policies(connection) if one.policy.limit_micro_usd is not None]
        if purse.policy is not None:
            found.append(budgets.of_environment(purse.policy))
        chosen = [
            one
            for one in sorted(found, key=lambda one: budgets.INNERMOST.index(one.policy.scope), reverse=True)
            if scope in (None, one.policy.scope) and name in (None, one.policy.name)
            if (one.policy.scope, one.policy.span) != (Scope.BATCH, TOTAL)  # shown with the batch itself
        ]
        shown = [_balance(connection, one, now_ms=now_ms) for one in chosen]
        if scope in (None, Scope.BATCH):
            shown += _batches(connection, name=name, limit=batches)
        return shown


def _balance(connection: Connection, stored: Stored, *, now_ms: int) -> Balance:
    policy = stored.policy
    period = period_of(policy.span, now_ms=now_ms)
    account = Account(budget_id=policy.budget_id, period=period.name)
    row = budgets.funds(connection, [account]).get(account)
    if row is None:
        taken = budgets.inheritance(policy, last=budgets.last_period(connection, policy), period=period)
        carried, reserved, spent, overrun = taken.kept + taken.grown, 0, 0, 0
        lim = (policy.limit_micro_usd or 0) + carried
    else:
        lim, carried, reserved, spent, overrun = row.lim, row.carried, row.reserved, row.spent, row.overrun
    return Balance(
        scope=policy.scope,
        name=policy.name,
        span=policy.span,
        period=period.name,
        limit_micro_usd=lim - carried,
        carry=policy.carry.value,
        cap_micro_usd=policy.cap_micro_usd,
        carried_micro_usd=carried,
        reserved_micro_usd=reserved,
        spent_micro_usd=spent,
        overrun_micro_usd=overrun,
        free_micro_usd=lim - reserved - spent,
        resets_at=None if period.ends_ms is None else at(period.ends_ms),
        set_by=stored.who,
        reason=stored.reason,
    )


def _batches(connection: Connection, *, name: str | None, limit: int) -> list[Balance]:
    which = "b.client <> :shadow" if name is None else "b.id = :name"
    rows = run(
        connection,
        f"""SELECT b.id AS batch_id, m.lim, m.reserved, m.spent, m.overrun FROM batch b
            JOIN budget m ON m.id = 'batch:' || b.id AND m.period = 'total'
            WHERE {which} ORDER BY b.created_ms DESC, b.id DESC LIMIT :limit""",  # noqa: S608 - constants
        {"limit": limit} | ({"shadow": SHADOW_CLIENT} if name is None else {"name": name}),
    ).all()
    raised = {
        one.policy.name: one
        for one in budgets.policies(connection, names={row.batch_id for row in rows})
        if (one.policy.scope, one.policy.span) == (Scope.BATCH, TOTAL)
    }
    return [
        Balance(
            scope=Scope.BATCH,
            name=row.batch_id,
            span=TOTAL,
            period=TOTAL,
            limit_micro_usd=row.lim,
            carry="none",
            cap_micro_usd=None,
            carried_micro_usd=0,
            reserved_micro_usd=row.reserved,
            spent_micro_usd=row.spent,
            overrun_micro_usd=row.overrun,
            free_micro_usd=None if row.lim is None else row.lim - row.reserved - row.spent,
            resets_at=None,
            set_by=raised[row.batch_id].who if row.batch_id in raised else None,
            reason=raised[row.batch_id].reason if row.batch_id in raised else None,
        )
        for row in rows
    ]


def ledger_lines(
    engine: Engine, *, batch_id: str | None = None, since: datetime | None = None
) -> Generator[dict[str, Any]]:
    """Yield the ledger in the order it was written; the database is read while lines are taken.

    Args:
        batch_id: only what was posted to this batch's budgets.
        since: only what was written from this moment on, by the database's clock.
    """
    filters: dict[str, Any] = {}
    where = ["1 = 1"]
    if batch_id is not None:
        policy = BudgetPolicy(scope=Scope.BATCH, name=batch_id, span=TOTAL, limit_micro_usd=None)
        where.append("(l.budget_id = :id OR l.budget_id LIKE :spans)")
        filters |= {"id": policy.budget_id, "spans": f"{policy.budget_id}/%"}
    if since is not None:
        where.append("l.at_ms >= :since")
        filters["since"] = round(since.timestamp() * 1000)
    with (
        reading(engine) as connection,
        run(
            connection.execution_options(yield_per=FETCHED),
            f"""SELECT l.id, l.at_ms, l.kind, l.budget_id, l.period, l.from_side, l.to_side, l.micro_usd,
                       l.event_id, p.who, p.reason
                FROM ledger l LEFT JOIN budget_policy p ON p.id = l.policy_id
                WHERE {" AND ".join(where)} ORDER BY l.id""",  # noqa: S608 - texts of this function
            filters,
        ) as result,
    ):
        for row in result.mappings():
            line = dict(row)
            yield {
                "line": line.pop("id"),
                "at": at(line.pop("at_ms")),
                "usd": Decimal(line.pop("micro_usd")).scaleb(-6),
                **line,
            }
