"""Paid calls: what each has cost, or that nobody knows; see reliability.md section 7.

A call's money leaves its microbatch's reservation when it is permitted (`db.permits`) and is held by the call
until it is known: charged, unknown (counts as spent) or void. Nothing here is fenced, for who has bought must
record it. Lock order: microbatch, job, call, budget, ledger. It knows neither HTTP nor what a picture is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from db import ledger
from db.dialects import pack_ids, run
from db.ledger import Account
from routet2i.contracts import CallState
from routet2i.errors import NotFound

PAUSED = """SELECT provider FROM call WHERE overrun > 0 AND settled_ms > COALESCE((
    SELECT max(r.at_ms) FROM resumption r WHERE r.provider = call.provider), 0)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What the calls of one job come to, micro-USD."""

    drawn: int  # of its part of the microbatch's reservation
    cost: int  # billed, or unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """A call whose row this transaction has locked."""

    call_id: str
    state: CallState
    cost_max: int
    drawn: int
    has_image: bool
    accounts: tuple[Account, ...]


def lock(connection: Connection, call_id: str) -> Locked:
    """Lock one call to the end of the transaction; raises NotFound."""
    row = run(
        connection,
        "SELECT state, cost_max, drawn, image_sha256, microbatch_id FROM call WHERE id = :id {LOCK}",
        {"id": call_id},
    ).one_or_none()
    if row is None:
        raise NotFound(f"no call {call_id}")
    return Locked(
        call_id=call_id,
        state=CallState(row.state),
        cost_max=row.cost_max,
        drawn=row.drawn,
        has_image=row.image_sha256 is not None,
        accounts=_paying(connection, row.microbatch_id),
    )


def _paying(connection: Connection, microbatch_id: str) -> tuple[Account, ...]:
    """Return what a microbatch draws on; one that was split from another draws on that one's."""
    rows = run(
        connection,
        """SELECT budget_id, period FROM ledger WHERE event_id = (
            SELECT 'reserve:' || COALESCE(parent_id, id) FROM microbatch WHERE id = :id)""",
        {"id": microbatch_id},
    )
    return tuple(Account(budget_id=row.budget_id, period=row.period) for row in rows)


def accept(connection: Connection, call_id: str, *, remote_id: str) -> None:
    """Keep the provider's own id of a call; see `Repository.accept_call`."""
    run(
        connection,
        "UPDATE call SET remote_id = :remote_id WHERE id = :id AND remote_id IS NULL",
        {"remote_id": remote_id, "id": call_id},
    )


def settle(
    connection: Connection, call_id: str, *, cost: int, image_sha256: str | None, error: str | None
) -> int:
    """Record a bill; return what it exceeds its permission by; see `Repository.settle_call`."""
    call = lock(connection, call_id)
    if call.state is CallState.CHARGED:
        if image_sha256 is not None and not call.has_image:
            run(
                connection,
                "UPDATE call SET image_sha256 = :sha, error = NULL WHERE id = :id",
                {"sha": image_sha256, "id": call_id},
            )
        return 0
    permitted = 0 if call.state is CallState.VOID else call.cost_max
    paid = min(cost, permitted)
    run(
        connection,
        """UPDATE call SET state = 'charged', cost_actual = :cost, overrun = :overrun, image_sha256 = :sha,
                error = CASE WHEN :got = 1 THEN NULL ELSE COALESCE(error || '; ', '') || :error END,
                settled_ms = {NOW} WHERE id = :id""",
        {
            "cost": cost,
            "overrun": cost - paid,
            "sha": image_sha256,
            "got": int(image_sha256 is not None),
            "error": error or "",
            "id": call_id,
        },
    )
    movements = {
        CallState.INTENT: [
            ledger.settled(call_id, micro_usd=paid),
            ledger.released(call_id, micro_usd=permitted - paid),
        ],
        CallState.UNKNOWN: [
            ledger.charged(call_id, micro_usd=paid),
            ledger.voided(call_id, micro_usd=permitted - paid),
        ],
        CallState.VOID: [],
    }[call.state]
    movements.append(ledger.overrun(call_id, micro_usd=cost - paid))
    ledger.post(connection, movements, accounts=call.accounts)
    return cost - paid


def doubt(connection: Connection, call_id: str, *, error: str) -> None:
    """Count a call as spent whose answer was lost; see `Repository.doubt_call`."""
    call = lock(connection, call_id)
    if call.state is CallState.INTENT:
        _doubt(connection, {call_id: call.cost_max}, accounts=call.accounts, error=error)


def doubt_open(connection: Connection, microbatch_id: str, *, error: str) -> None:
    """Do so with the open calls of a locked microbatch that nobody can resume: their claim has ended.

    All of its open calls are locked, and before any budget: whoever settles one takes them in that order.
    """
    out = run(
        connection,
        """SELECT id, cost_max, repeatable, remote_id FROM call WHERE state = 'intent' AND job_id IN (
            SELECT id FROM job WHERE microbatch_id = :id AND state = 'assigned') ORDER BY id {LOCK}""",
        {"id": microbatch_id},
    ).all()
    lost = {call.id: call.cost_max for call in out if not call.repeatable and call.remote_id is None}
    _doubt(connection, lost, accounts=_paying(connection, microbatch_id), error=error)


def lock_open(connection: Connection, job_ids: Collection[str]) -> Mapping[str, int]:
    """Lock the open calls of some jobs, in the one order that cannot deadlock; return what each may cost."""
    rows = run(
        connection,
        "SELECT id, cost_max FROM call WHERE job_id IN {IDS} AND state = 'intent' ORDER BY id {LOCK}",
        {"ids": pack_ids(job_ids)},
    )
    return {row.id: row.cost_max for row in rows}


def close_open(
    connection: Connection, job_ids: Collection[str], *, accounts: Sequence[Account]
) -> Mapping[str, Bill]:
    """End the open calls of jobs that get their outcome now, and return what each job's calls come to."""
    out = lock_open(connection, job_ids)
    _doubt(connection, out, accounts=accounts, error="its job ended before the answer came")
    bills = run(
        connection,
        """SELECT job_id, sum(drawn) AS drawn, sum(CASE state
                WHEN 'charged' THEN cost_actual WHEN 'unknown' THEN cost_max ELSE 0 END) AS cost
            FROM call WHERE job_id IN {IDS} GROUP BY job_id""",
        {"ids": pack_ids(job_ids)},
    )
    return {row.job_id: Bill(drawn=int(row.drawn), cost=int(row.cost)) for row in bills}


def _doubt(
    connection: Connection, calls: Mapping[str, int], *, accounts: Sequence[Account], error: str
) -> None:
    """Turn locked open calls (id -> what each may cost) of one reservation into unknown ones."""
    if not calls:
        return
    run(
        connection,
        "UPDATE call SET state = 'unknown', error = :error, settled_ms = {NOW} WHERE id = :id",
        [{"id": call_id, "error": error} for call_id in calls],
    )
    movements = [ledger.unknown(call_id, micro_usd=cost_max) for call_id, cost_max in calls.items()]
    ledger.post(connection, movements, accounts=accounts)


def drawn(connection: Connection, job_ids: Collection[str]) -> Mapping[str, int]:
    """Return what the calls of some jobs have taken from their microbatch's reservation; no calls: no key."""
    rows = run(
        connection,
        "SELECT job_id, sum(drawn) AS drawn FROM call WHERE job_id IN {IDS} GROUP BY job_id",
        {"ids": pack_ids(job_ids)},
    )
    return {row.job_id: int(row.drawn) for row in rows}


def void_unknown(connection: Connection, call_id: str, *, error: str) -> bool:
    """Give back the money of an unknown call that was not billed after all; False if it is not unknown."""
    call = lock(connection, call_id)
    if call.state is not CallState.UNKNOWN:
        return False
    set_void(connection, call_id, error=error, drawn=call.drawn)
    ledger.post(connection, [ledger.voided(call_id, micro_usd=call.cost_max)], accounts=call.accounts)
    return True


def set_void(connection: Connection, call_id: str, *, error: str, drawn: int) -> None:
    """Mark a locked call as not billed; its money is the caller's affair."""
    run(
        connection,
        """UPDATE call SET state = 'void', error = :error, drawn = :drawn, settled_ms = {NOW}
            WHERE id = :id""",
        {"id": call_id, "error": error, "drawn": drawn},
    )


def paused(connection: Connection) -> Mapping[str, int]:
    """Return the tiers that may not buy, with what their bills exceeded the permission by, micro-USD."""
    rows = run(
        connection,
        f"""SELECT c.provider, sum(c.overrun) AS overrun FROM call c WHERE c.overrun > 0
            AND c.provider IN ({PAUSED}) AND c.settled_ms > COALESCE((
                SELECT max(r.at_ms) FROM resumption r WHERE r.provider = c.provider), 0)
            GROUP BY c.provider ORDER BY c.provider""",  # noqa: S608 - a constant
    )
    return {row.provider: int(row.overrun) for row in rows}


def resume(connection: Connection, *, tier: str, who: str, reason: str) -> bool:
    """Let a paused tier buy again; False if it was not paused."""
    if connection.dialect.name == "postgresql":  # people who accept a bill at once go one by one
        run(connection, "LOCK TABLE resumption IN SHARE ROW EXCLUSIVE MODE")
    if tier not in paused(connection):
        return False
    run(
        connection,
        """INSERT INTO resumption(provider, who, reason, at_ms) VALUES(:tier, :who, :reason, {NOW})""",
        {"tier": tier, "who": who, "reason": reason},
    )
    return True


def unknown(connection: Connection) -> tuple[int, int]:
    """Return how many calls nobody knows the cost of, and what they may have cost, micro-USD."""
    row = run(
        connection,
        "SELECT count(*) AS n, COALESCE(sum(cost_max), 0) AS most FROM call WHERE state = 'unknown'",
    ).one()
    return row.n, int(row.most)
