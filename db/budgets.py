"""Limits: policies that people set, the periods they open, and the chain of accounts that a batch draws on.

A policy is never changed, a later one of the same scope, name and span takes its place. A period is a row
of `budget`; it opens when it is first needed, by the database's clock, in a transaction that locks accounts
of one budget only. It knows what a limit is and what is carried over; who may spend is `db.ledger`'s affair.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Row

from db import ledger
from db.dialects import pack_ids, pack_pairs, run
from db.ledger import Side, batch_account
from routet2i.contracts import Account, BudgetPolicy, Carry, Purse, Scope
from routet2i.errors import UsageError
from routet2i.periods import TOTAL, Period, period_of, read_period

MOST = 10**15  # micro-USD that a period can inherit: a billion dollars, far from the end of a bigint
INNERMOST = tuple(Scope)  # the order of a chain: batch, client, deployment


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A policy with its place in the database."""

    policy: BudgetPolicy
    policy_id: int | None  # None: it stands in the environment
    who: str | None
    reason: str | None


class NotOpen(Exception):
    """Periods that somebody draws on have not begun yet: open them, and do it again."""

    def __init__(self, policies: Sequence[Stored]) -> None:
        super().__init__(", ".join(one.policy.budget_id for one in policies))
        self.policies = policies


@dataclass(frozen=True, kw_only=True, slots=True)
class Chains:
    """What batches draw on at one moment."""

    now_ms: int
    accounts: Mapping[str, tuple[Account, ...]]  # batch id -> its accounts, innermost first
    policies: Mapping[Account, Stored]  # of all accounts but the batches' own

    def period(self, account: Account) -> Period:
        """Return the period that an account is of."""
        if account not in self.policies:  # a batch's own
            return read_period(TOTAL, TOTAL)
        return read_period(self.policies[account].policy.span, account.period)

    def require(self, found: Iterable[Account]) -> None:
        """Make sure that all accounts are among those found; raises NotOpen."""
        if missing := sorted(self.policies.keys() - set(found)):
            raise NotOpen([self.policies[account] for account in missing])


def chains(connection: Connection, batch_ids: Iterable[str], *, purse: Purse) -> Chains:
    """Return the accounts that batches draw on now; they may not be open yet."""
    batches = run(
        connection,
        "SELECT id, client, {NOW} AS now_ms FROM batch WHERE id IN {IDS}",
        {"ids": pack_ids(batch_ids)},
    ).all()
    now_ms = purse.now_ms
    if now_ms is None:
        now_ms = batches[0].now_ms if batches else now(connection)
    names = {row.id for row in batches} | {row.client for row in batches} | {purse.deployment}
    found = [one for one in policies(connection, names=names) if one.policy.limit_micro_usd is not None]
    if purse.policy is not None:
        found.append(of_environment(purse.policy))
    found.sort(key=lambda one: INNERMOST.index(one.policy.scope))
    accounts: dict[str, tuple[Account, ...]] = {}
    payers: dict[Account, Stored] = {}
    for row in batches:
        outer: list[Account] = []
        for one in found:
            if _binds(one.policy, batch_id=row.id, client=row.client, deployment=purse.deployment):
                account = account_of(one.policy, now_ms=now_ms)
                outer.append(account)
                payers[account] = one
        accounts[row.id] = (batch_account(row.id), *outer)
    return Chains(now_ms=now_ms, accounts=accounts, policies=payers)


def _binds(policy: BudgetPolicy, *, batch_id: str, client: str, deployment: str) -> bool:
    if policy.scope is Scope.BATCH:  # its total is the account that every batch has
        return policy.name == batch_id and policy.span != TOTAL
    return policy.name == (client if policy.scope is Scope.CLIENT else deployment)


def of_environment(policy: BudgetPolicy) -> Stored:
    """Return a policy that no row tells of."""
    return Stored(policy=policy, policy_id=None, who=None, reason="the environment of the scheduler")


def account_of(policy: BudgetPolicy, *, now_ms: int) -> Account:
    """Return the account of the period that a moment lies in."""
    return Account(budget_id=policy.budget_id, period=period_of(policy.span, now_ms=now_ms).name)


def now(connection: Connection) -> int:
    """Return the database's clock, milliseconds since 1970."""
    return int(run(connection, "SELECT {NOW}").scalar_one())


POLICY = "id, scope, name, span, limit_micro_usd, carry, cap_micro_usd, who, reason"
LATEST = """NOT EXISTS (SELECT 1 FROM budget_policy n
    WHERE n.name = p.name AND n.scope = p.scope AND n.span = p.span AND n.id > p.id)"""


def policies(connection: Connection, *, names: Iterable[str] | None = None) -> list[Stored]:
    """Return the policies in force, of some names or of all; a lifted one is among them, without a limit."""
    chosen = "" if names is None else "p.name IN {IDS} AND "
    rows = run(
        connection,
        f"SELECT {POLICY} FROM budget_policy p WHERE {chosen}{LATEST} ORDER BY scope, name, id",  # noqa: S608
        None if names is None else {"ids": pack_ids(names)},
    ).all()
    return [_stored(row) for row in rows]


def _stored(row: Row[Any]) -> Stored:
    return Stored(
        policy=BudgetPolicy(
            scope=Scope(row.scope),
            name=row.name,
            span=row.span,
            limit_micro_usd=row.limit_micro_usd,
            carry=Carry(row.carry),
            cap_micro_usd=row.cap_micro_usd,
        ),
        policy_id=row.id,
        who=row.who,
        reason=row.reason,
    )


def _latest(connection: Connection, policy: BudgetPolicy) -> Stored | None:
    row = run(
        connection,
        f"""SELECT {POLICY} FROM budget_policy p
            WHERE name = :name AND scope = :scope AND span = :span ORDER BY id DESC LIMIT 1""",  # noqa: S608
        {"name": policy.name, "scope": policy.scope.value, "span": policy.span},
    ).one_or_none()
    return None if row is None else _stored(row)


def funds(connection: Connection, accounts: Iterable[Account]) -> dict[Account, Row[Any]]:
    """Return `lim, carried, reserved, spent, overrun` of those accounts that exist."""
    rows = run(
        connection,
        """SELECT id, period, lim, carried, reserved, spent, overrun FROM budget
            WHERE (id, period) IN {PAIRS}""",
        {"pairs": pack_pairs((one.budget_id, one.period) for one in set(accounts))},
    ).all()
    return {Account(budget_id=row.id, period=row.period): row for row in rows}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inheritance:
    """What a period takes over, micro-USD."""

    kept: int = 0  # left by the last period that was open
    grown: int = 0  # limits of the periods between, which nobody has opened


def inheritance(policy: BudgetPolicy, *, last: Row[Any] | None, period: Period) -> Inheritance:
    """Return what a period takes over from the last one that was open.

    Carrying over period by period and capping each time comes to the same as capping the sum once.

    Args:
        policy: in force since `last` at least.
        last: row of `budget` before this period, or None.
        period: that opens.
    """
    if last is None or last.lim is None or policy.carry is Carry.NONE:
        return Inheritance()
    room = MOST if policy.cap_micro_usd is None else policy.cap_micro_usd
    idle = period.number - read_period(policy.span, last.period).number - 1
    kept = min(last.lim - last.reserved - last.spent, room)
    return Inheritance(kept=kept, grown=min(idle * (policy.limit_micro_usd or 0), room - kept))


def open_period(connection: Connection, stored: Stored, *, now_ms: int | None = None) -> None:
    """Open the period that this moment lies in, with what it takes over; nothing to do is fine.

    Args:
        stored: a policy that was read before; one of the database is read again.
        now_ms: None = the database's clock.
    """
    last = _lock_last(connection, stored.policy)
    if stored.policy_id is not None:
        stored = _latest(connection, stored.policy) or stored
    policy = stored.policy
    period = period_of(policy.span, now_ms=now(connection) if now_ms is None else now_ms)
    account = Account(budget_id=policy.budget_id, period=period.name)
    if policy.limit_micro_usd is None or account in funds(connection, [account]):
        return
    limit = policy.limit_micro_usd
    if last is not None and last.period > period.name:
        limit, last = 0, None  # the clock went back: what this period had is part of a later one
    taken = inheritance(policy, last=last, period=period)
    opened = ledger.open_account(
        connection, account, limit=limit, kept=taken.kept, grown=taken.grown, policy_id=stored.policy_id
    )
    if opened and last is not None and taken.kept:
        before = Account(budget_id=policy.budget_id, period=last.period)
        ledger.carried_out(connection, before, into=period.name, micro_usd=taken.kept)


def last_period(connection: Connection, policy: BudgetPolicy) -> Row[Any] | None:
    """Return the newest period of a budget as a row of `budget`; None: there is none yet."""
    return _last(connection, policy, lock="")


def _lock_last(connection: Connection, policy: BudgetPolicy) -> Row[Any] | None:
    return _last(connection, policy, lock="{LOCK}")


def _last(connection: Connection, policy: BudgetPolicy, *, lock: str) -> Row[Any] | None:
    if "/" not in policy.budget_id:  # a batch's total has one period, and seconds carry nothing over
        return None
    return run(
        connection,
        f"""SELECT period, lim, carried, reserved, spent FROM budget WHERE id = :id
            ORDER BY period DESC LIMIT 1 {lock}""",  # noqa: S608 - a word of `db.dialects`
        {"id": policy.budget_id},
    ).one_or_none()


def set_policy(
    connection: Connection, policy: BudgetPolicy, *, who: str, reason: str, now_ms: int | None = None
) -> Account | None:
    """Put a limit in force from this moment on; see `Repository.set_budget`."""
    if connection.dialect.name == "postgresql":  # people who set limits at once go one by one
        run(connection, "LOCK TABLE budget_policy IN SHARE ROW EXCLUSIVE MODE")
    before = _latest(connection, policy)
    if before is not None:  # idle periods so far had the old limit
        open_period(connection, before, now_ms=now_ms)
    _lock_last(connection, policy)
    account = account_of(policy, now_ms=now(connection) if now_ms is None else now_ms)
    policy_id = _insert(connection, policy, who=who, reason=reason)
    limit = policy.limit_micro_usd
    if limit is not None and ledger.open_account(connection, account, limit=limit, policy_id=policy_id):
        return account
    ledger.lock(connection, [account])
    row = funds(connection, [account]).get(account)
    if row is None:
        return None  # no limit, and there was none
    carried = 0 if limit is None else row.carried
    lim = None if limit is None else limit + carried
    changed = run(
        connection,
        """UPDATE budget SET lim = CAST(:lim AS bigint), carried = :carried
            WHERE id = :id AND period = :period
            AND (CAST(:lim AS bigint) IS NULL OR reserved + spent <= CAST(:lim AS bigint))""",
        {"lim": lim, "carried": carried, "id": account.budget_id, "period": account.period},
    )
    if changed.rowcount != 1:
        least = max(0, row.reserved + row.spent - carried)
        raise UsageError(
            f"{policy.scope} {policy.name} has reserved {_dollars(row.reserved)} and spent "
            f"{_dollars(row.spent)} in {_told(policy, account)}: a limit of {_dollars(limit or 0)} would be "
            f"broken already; type --limit {_dollars(least)[1:]} or more"
        )
    grown = (lim or 0) - (row.lim or 0)
    ledger.append(
        connection,
        [account],
        [
            ledger.Movement(
                event_id=f"grant:{policy_id}",
                kind="grant",
                source=Side.OWNER if grown > 0 else Side.AVAILABLE,
                target=Side.AVAILABLE if grown > 0 else Side.OWNER,
                micro_usd=abs(grown),
            )
        ],
        policy_id=policy_id,
    )
    return account


def _told(policy: BudgetPolicy, account: Account) -> str:
    return "all" if policy.span == TOTAL else f"the {policy.span} {account.period}"


def _insert(connection: Connection, policy: BudgetPolicy, *, who: str, reason: str) -> int:
    return int(
        run(
            connection,
            """INSERT INTO budget_policy(scope, name, span, limit_micro_usd, carry, cap_micro_usd, who,
                                         reason, at_ms)
                VALUES(:scope, :name, :span, :limit, :carry, :cap, :who, :reason, {NOW}) RETURNING id""",
            {
                "scope": policy.scope.value,
                "name": policy.name,
                "span": policy.span,
                "limit": policy.limit_micro_usd,
                "carry": policy.carry.value,
                "cap": policy.cap_micro_usd,
                "who": who,
                "reason": reason,
            },
        ).scalar_one()
    )


def _dollars(micro_usd: int) -> str:
    return f"${Decimal(micro_usd).scaleb(-6):f}"
