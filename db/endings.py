"""Which batches have ended, and whom to tell: the writer of the outbox.

A batch's end is no moment that somebody writes: it is that nothing of it is left to do. So each batch that
somebody waits for is looked at, seldom if it is long, until that holds; then, in one transaction, its
deliveries are written and it is looked at no more. Nothing is lost by a death at any point, nothing is told
twice by two lookers, and no worker does anything for it. What was ordered over HTTP (`db.api_batches`) ends
with its order, when its files are there, and is named as that is; an order that never became a batch is told
of in the transaction that ends it. It knows no receiver.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from db import outbox
from db.dialects import run
from routet2i.contracts import SHADOW_CLIENT, BatchEvent

LOOKED_AT = 100  # batches a round
SHORTEST_MS, LONGEST_MS = 1_000, 60_000  # between two looks at one batch
MS_PER_JOB = 0.05  # what a look costs more with a long batch
MS_PER_MS_OF_AGE = 0.02  # and how much later news of an old one may come
ENDS = ("succeeded", "failed", "cancelled")  # of jobs
NAMES = frozenset(BatchEvent)  # an order that is in none of these states goes on
NOTICED_MS = 3_600_000  # the ids of batches, made on many machines, are in order up to this


# Batches of clients with a webhook, submitted after it, that nobody watches yet
NEW = """FROM batch b WHERE b.id > :since AND b.client <> :shadow AND EXISTS (
        SELECT 1 FROM webhook h WHERE h.client = b.client AND h.batch_id IS NULL
        AND h.ended_ms IS NULL AND h.created_ms <= b.created_ms)
    AND NOT EXISTS (SELECT 1 FROM webhook_watch w WHERE w.batch_id = b.id)"""


def unnoticed(connection: Connection, *, since_ms: int | None) -> bool:
    """Whether `notice` would find anything: a look that locks nothing."""
    given = _since(connection, since_ms)
    return given is not None and run(connection, f"SELECT 1 {NEW} LIMIT 1", given).scalar() is not None


def notice(connection: Connection, *, since_ms: int | None) -> int:
    """Watch batches that somebody wants to be told of; return how many are new.

    Args:
        since_ms: those made before are known already; None = look at all since the first webhook.
    """
    given = _since(connection, since_ms)
    if given is None:
        return 0
    return run(
        connection,
        f"""INSERT INTO webhook_watch(batch_id, look_ms) SELECT b.id, {{NOW}} {NEW} ORDER BY b.id
            ON CONFLICT(batch_id) DO NOTHING""",
        given,
    ).rowcount


def _since(connection: Connection, since_ms: int | None) -> Mapping[str, Any] | None:
    """Return the parameters of NEW; None if there is no webhook."""
    first: int | None = run(
        connection, "SELECT min(created_ms) FROM webhook WHERE ended_ms IS NULL AND batch_id IS NULL"
    ).scalar()
    if first is None:
        return None
    since = first if since_ms is None else since_ms
    return {"since": _first_id(since - NOTICED_MS), "shadow": SHADOW_CLIENT}


def _first_id(ms: int) -> str:
    """Return the first id that `new_id` could have made at a moment."""
    digits = f"{max(ms, 0):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def due(connection: Connection) -> list[str]:
    """Return the watched batches that it is time to look at."""
    return list(
        run(
            connection,
            """SELECT batch_id FROM webhook_watch WHERE look_ms IS NOT NULL AND look_ms <= {NOW}
                ORDER BY look_ms LIMIT :most""",
            {"most": LOOKED_AT},
        ).scalars()
    )


def look(connection: Connection, batch_id: str) -> int | None:
    """Look at one watched batch; return the deliveries that its end wrote, None if it goes on.

    Also None if somebody else has told of it.
    """
    row = run(
        connection,
        "SELECT 1 FROM webhook_watch WHERE batch_id = :id AND look_ms IS NOT NULL {LOCK}",
        {"id": batch_id},
    ).one_or_none()
    if row is None:
        return None
    batch = run(
        connection,
        """SELECT b.id, b.client, b.name, b.state, b.n_accepted, b.n_rejected, b.created_ms,
                  {NOW} - b.created_ms AS age_ms, a.id AS order_id, a.state AS order_state,
                  EXISTS (SELECT 1 FROM waiting w WHERE w.batch_id = b.id AND w.jobs > 0) AS waits,
                  EXISTS (SELECT 1 FROM microbatch m WHERE m.batch_id = b.id
                          AND m.state IN ('ready', 'sent', 'claimed')) AS runs
            FROM batch b LEFT JOIN api_batch a ON a.batch_id = b.id WHERE b.id = :id""",
        {"id": batch_id},
    ).one()
    unfinished = batch.order_state is not None and f"batch.{batch.order_state}" not in NAMES
    if batch.state == "ingesting" or batch.waits or batch.runs or unfinished:
        pause = max(MS_PER_JOB * batch.n_accepted, MS_PER_MS_OF_AGE * batch.age_ms, SHORTEST_MS)
        run(
            connection,
            "UPDATE webhook_watch SET look_ms = {NOW} + CAST(:pause AS bigint) WHERE batch_id = :id",
            {"id": batch_id, "pause": round(min(pause, LONGEST_MS))},
        )
        return None
    told = _tell(connection, batch)
    run(connection, "UPDATE webhook_watch SET look_ms = NULL WHERE batch_id = :id", {"id": batch_id})
    return told


def put_off(connection: Connection, batch_id: str) -> None:
    """Look at a watched batch again after the longest pause: it is in the way of others."""
    run(
        connection,
        """UPDATE webhook_watch SET look_ms = {NOW} + CAST(:pause AS bigint)
            WHERE batch_id = :id AND look_ms IS NOT NULL""",
        {"id": batch_id, "pause": LONGEST_MS},
    )


def tell_of_order(connection: Connection, order: Row[Any], *, state: str) -> int:
    """Write the deliveries of an order that has ended and never became a batch; return how many.

    Args:
        order: a row of `api_batch`.
        state: that it is in now.
    """
    return _write(
        connection,
        client=order.client,
        made_ms=order.created_ms,
        batch_id=None,
        subject=order.id,
        event=BatchEvent(f"batch.{state}"),
        data={
            "id": order.id,
            "routet2i": {
                "batch_id": None,
                "client": order.client,
                "name": order.name,
                "jobs": dict.fromkeys(("accepted", "rejected", *ENDS), 0),
                "spent_usd": 0.0,
            },
        },
    )


def _tell(connection: Connection, batch: Row[Any]) -> int:
    """Write the deliveries of a batch that has ended."""
    found = {
        row.state: row
        for row in run(
            connection,
            """SELECT o.state, count(*) AS jobs, sum(o.micro_usd) AS micro_usd
                FROM job j JOIN outcome o ON o.job_id = j.id WHERE j.batch_id = :id GROUP BY o.state""",
            {"id": batch.id},
        )
    }
    jobs = {state: found[state].jobs if state in found else 0 for state in ENDS}
    if batch.order_state is not None:
        name = BatchEvent(f"batch.{batch.order_state}")
    else:
        name = _event(batch.state, succeeded=jobs["succeeded"])
    data: Mapping[str, Any] = {
        "id": batch.order_id or batch.id,
        "routet2i": {
            "batch_id": batch.id,
            "client": batch.client,
            "name": batch.name,
            "jobs": {"accepted": batch.n_accepted, "rejected": batch.n_rejected, **jobs},
            "spent_usd": sum(int(row.micro_usd) for row in found.values()) / 1e6,
        },
    }
    return _write(
        connection,
        client=batch.client,
        made_ms=batch.created_ms,
        batch_id=batch.id,
        subject=batch.id,
        event=name,
        data=data,
    )


def _write(
    connection: Connection,
    *,
    client: str,
    made_ms: int,
    batch_id: str | None,
    subject: str,
    event: BatchEvent,
    data: Mapping[str, Any],
) -> int:
    hooks = run(
        connection,
        """SELECT id, events FROM webhook WHERE client = :client AND ended_ms IS NULL
            AND (batch_id = :id OR (batch_id IS NULL AND created_ms <= :made)) ORDER BY id""",
        {"client": client, "id": batch_id, "made": made_ms},
    ).all()
    written = [
        outbox.write(connection, webhook_id=hook.id, event=event.value, subject=subject, data=data)
        for hook in hooks
        if event.value in orjson.loads(hook.events)
    ]
    return sum(one is not None for one in written)


def _event(state: str, *, succeeded: int) -> BatchEvent:
    if state == "cancelled":
        return BatchEvent.CANCELLED
    return BatchEvent.COMPLETED if succeeded else BatchEvent.FAILED
