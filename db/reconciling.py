"""What a provider's own account makes of our calls: unknown ones become charged or void, others are told.

Nothing is edited: each finding is a move of a call and its ledger lines, and a repeat finds nothing left to
do. A call that was made after the backup that was restored has no row any more: its bill is charged to the
deployment. It knows calls and bills, not the file that they came in.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, Row

from db import budgets, calls, ledger
from db.dialects import pack_ids, run
from db.ledger import Account, Wish
from db.session import reading, write
from routet2i.contracts import BudgetPolicy, CallState, Purse, Scope
from routet2i.periods import TOTAL

CHUNK = 1_000  # bill lines looked up at once
MARGIN_MS = 600_000  # a call this near to the end of what an export covers may stand in the next one
NOTE = "from a usage export"
OURS = re.compile(r"routet2i-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")  # the key of a call


class BillLine(Protocol):
    """What is wanted of `scheduler.usage_export.Billed`."""

    @property
    def line_no(self) -> int:
        """1-based line of the export."""

    @property
    def idem_key(self) -> str | None:
        """Our key; None = the provider named only its own id."""

    @property
    def remote_id(self) -> str | None:
        """The provider's id."""

    @property
    def micro_usd(self) -> int:
        """What the call has cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """A span of time of which an export has every call."""

    from_ms: int
    to_ms: int


@dataclass(kw_only=True)
class Reconciliation:
    """What an export has said, and what was done about it."""

    lines: int = 0  # bills read
    agreed: int = 0  # calls whose bill was known, to the micro-dollar
    charged: int = 0  # calls that were unknown and were billed
    charged_micro_usd: int = 0
    voided: int = 0  # calls that were unknown and were not billed
    voided_micro_usd: int = 0
    overrun_micro_usd: int = 0  # billed beyond what was permitted
    forgotten: int = 0  # bills with a key of ours whose call has no row: made after a restored backup
    forgotten_micro_usd: int = 0
    beyond_limit_micro_usd: int = 0  # of it, for want of room
    open: int = 0  # calls that are out: their worker or the sweeper settles them first
    still_unknown: int = 0  # calls that the export says nothing about
    differing: list[str] = field(default_factory=list)  # settled before, at another price
    unmatched: list[str] = field(default_factory=list)  # billed, and no call of ours (invariant I4)


def reconcile(
    engine: Engine,
    bills: Sequence[BillLine],
    *,
    tier: str | None = None,
    complete: Period | None = None,
    payer: Purse | None = None,
    dry_run: bool = False,
) -> Reconciliation:
    """Hold a provider's bills against our calls.

    Args:
        tier: only calls of this tier; None = of all.
        complete: the span of which the export lacks nothing: unknown calls inside it that it does not name
            were not billed. None: what it does not name stays unknown.
        payer: whose deployment pays for calls that a restored backup does not know; None = nobody does.
        dry_run: write nothing; only tell what would be done.
    """
    found = Reconciliation(lines=len(bills))
    accounts = () if payer is None or dry_run else _opened(engine, payer)
    named: set[str] = set()
    for start in range(0, len(bills), CHUNK):
        part = bills[start : start + CHUNK]
        with reading(engine) as connection:
            matched = _match(connection, part, tier=tier)
        for bill, call in zip(part, matched, strict=True):
            if call is None and payer is not None and (call_id := _forgotten(engine, bill)) is not None:
                _charge(engine, bill, call_id, accounts=accounts, found=found)
            elif call is None:
                found.unmatched.append(
                    f"line {bill.line_no}: {bill.idem_key or bill.remote_id}, {bill.micro_usd} micro-USD"
                )
            else:
                named.add(call.id)
                _apply(engine, bill, call, found=found, dry_run=dry_run)
    with reading(engine) as connection:
        unknown = [call for call in _unknown(connection, tier=tier) if call.id not in named]
    for call in unknown:
        if complete is None or not _is_inside(call, complete):
            found.still_unknown += 1
        elif dry_run or write(engine, partial(calls.void_unknown, call_id=call.id, error=f"void {NOTE}")):
            found.voided += 1
            found.voided_micro_usd += call.cost_max
    return found


def _apply(engine: Engine, bill: BillLine, call: Row[Any], *, found: Reconciliation, dry_run: bool) -> None:
    if call.state == CallState.INTENT:
        found.open += 1
        return
    if call.state == CallState.CHARGED:
        if call.cost_actual == bill.micro_usd:
            found.agreed += 1
        else:
            found.differing.append(
                f"line {bill.line_no}: {call.idem_key} was charged {call.cost_actual} micro-USD, "
                f"is billed {bill.micro_usd}"
            )
        return
    permitted = 0 if call.state == CallState.VOID else call.cost_max
    found.charged += 1
    found.charged_micro_usd += bill.micro_usd
    found.overrun_micro_usd += max(0, bill.micro_usd - permitted)
    if not dry_run:
        write(
            engine,
            partial(
                calls.settle, call_id=call.id, cost=bill.micro_usd, image_sha256=None, error=f"billed {NOTE}"
            ),
        )


def _forgotten(engine: Engine, bill: BillLine) -> str | None:
    """Return the id of the call that a key of ours names, if no call has it, of whatever tier."""
    ours = OURS.fullmatch(bill.idem_key or "")
    if ours is None:
        return None
    with reading(engine) as connection:
        known = run(connection, "SELECT 1 FROM call WHERE id = :id", {"id": ours[1]}).scalar()
    return ours[1] if known is None else None


def _opened(engine: Engine, payer: Purse) -> tuple[Account, ...]:
    """Return the accounts of a deployment in the present periods; without any limit, one to count in."""
    with reading(engine) as connection:
        now_ms = payer.now_ms or budgets.now(connection)
        stored = [
            one
            for one in budgets.policies(connection, names=[payer.deployment])
            if one.policy.scope is Scope.DEPLOYMENT and one.policy.limit_micro_usd is not None
        ]
    if payer.policy is not None:
        stored.append(budgets.of_environment(payer.policy))
    for one in stored:
        write(engine, partial(budgets.open_period, stored=one, now_ms=now_ms))
    if stored:
        return tuple(budgets.account_of(one.policy, now_ms=now_ms) for one in stored)
    whole = BudgetPolicy(scope=Scope.DEPLOYMENT, name=payer.deployment, span=TOTAL, limit_micro_usd=None)
    account = budgets.account_of(whole, now_ms=now_ms)
    write(engine, partial(ledger.open_account, account=account, limit=None))
    return (account,)


def _charge(
    engine: Engine, bill: BillLine, call_id: str, *, accounts: Sequence[Account], found: Reconciliation
) -> None:
    """Charge a bill whose call has no row; without accounts only tell it."""
    with reading(engine) as connection:
        charged = _charged(connection, call_id)
    if charged is None and accounts:
        charge = partial(charge_forgotten, call_id=call_id, micro_usd=bill.micro_usd, accounts=accounts)
        found.beyond_limit_micro_usd += write(engine, charge)
    if charged is None:
        found.forgotten += 1
        found.forgotten_micro_usd += bill.micro_usd
    elif charged == bill.micro_usd:
        found.agreed += 1
    else:
        found.differing.append(
            f"line {bill.line_no}: {bill.idem_key} was charged {charged} micro-USD, "
            f"is billed {bill.micro_usd}"
        )


def charge_forgotten(
    connection: Connection, call_id: str, *, micro_usd: int, accounts: Sequence[Account]
) -> int:
    """Charge what a call without a row has cost, once; return what the accounts had no room for.

    If one of them has no room for all of it, all of it stands beside their limits, as an overrun.
    """
    free = ledger.lock(connection, accounts)
    if _charged(connection, call_id) is not None:
        return 0
    wish = Wish(microbatch_id=call_id, accounts=tuple(accounts), prices=(micro_usd,))
    (verdict,) = ledger.reserve(connection, [wish], free=free)
    if verdict.granted is None:
        ledger.post(connection, [ledger.overrun(call_id, micro_usd=micro_usd)], accounts=accounts)
        return micro_usd
    ledger.post(connection, [ledger.settled(call_id, micro_usd=micro_usd)], accounts=accounts)
    return 0


def _charged(connection: Connection, call_id: str) -> int | None:
    """Return what was charged for a call without a row, micro-USD; None: nothing yet."""
    found: int | None = run(
        connection,
        "SELECT max(micro_usd) FROM ledger WHERE event_id IN (:settled, :overrun)",
        {"settled": f"settle:{call_id}", "overrun": f"overrun:{call_id}"},
    ).scalar()
    return found


def _match(connection: Connection, bills: Iterable[BillLine], *, tier: str | None) -> list[Row[Any] | None]:
    """Return each bill's call, or None: by our key, else by the provider's id if only one call has it."""
    bills = list(bills)
    columns = "id, idem_key, remote_id, state, cost_max, cost_actual"
    of_tier = "" if tier is None else "AND provider = :tier"
    named = {"tier": tier} if tier is not None else {}
    by_key = {
        row.idem_key: row
        for row in run(
            connection,
            f"SELECT {columns} FROM call WHERE idem_key IN {{IDS}} {of_tier}",  # noqa: S608 - constants
            {"ids": pack_ids({one.idem_key for one in bills if one.idem_key is not None})} | named,
        )
    }
    by_remote: dict[str, list[Row[Any]]] = {}
    for row in run(
        connection,
        f"SELECT {columns} FROM call WHERE remote_id IN {{IDS}} {of_tier}",  # noqa: S608 - constants
        {"ids": pack_ids({one.remote_id for one in bills if one.remote_id is not None})} | named,
    ):
        by_remote.setdefault(row.remote_id, []).append(row)

    def match(bill: BillLine) -> Row[Any] | None:
        if bill.idem_key is not None:
            return by_key.get(bill.idem_key)
        same = by_remote.get(bill.remote_id or "", [])
        return same[0] if len(same) == 1 else None

    return [match(bill) for bill in bills]


def _unknown(connection: Connection, *, tier: str | None) -> Sequence[Row[Any]]:
    return run(
        connection,
        """SELECT id, cost_max, created_ms, settled_ms FROM call
            WHERE state = 'unknown' AND provider = COALESCE(CAST(:tier AS text), provider) ORDER BY id""",
        {"tier": tier},
    ).all()


def _is_inside(call: Row[Any], period: Period) -> bool:
    return bool(period.from_ms + MARGIN_MS <= call.created_ms and call.settled_ms <= period.to_ms - MARGIN_MS)
