"""What webhooks are to be sent: written with what happened, claimed by one sender at a time, logged.

A claim is a compare-and-set with a number, the try's; whoever finds the number changed was too late. One
webhook is served by one sender at a time, so that a slow receiver holds up nobody but itself. It knows bodies
as text and no HTTP (`scheduler.herald`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Connection

from db.dialects import run
from db.webhooks import find
from routet2i.contracts import new_id
from routet2i.errors import NotFound, UsageError

TEST = "webhook.test"
MOST_TESTS = 10  # of one webhook that wait: whoever names a stranger's address floods nobody
PAUSES_SECONDS = (5, 30, 120, 600, 3_600, 10_800, 21_600, 43_200)  # after each failed try; about a day in all
CLAIM_SECONDS = 90.0  # longer than a try may take
MAX_ERROR_CHARS = 300
CLAIM_LOCK = 7_302_914  # any constant that no other lock has


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One claimed delivery."""

    id: str
    webhook_id: str
    url: str
    secret: str
    body: str
    number: int  # of this try, 1-based


@dataclass(frozen=True, kw_only=True, slots=True)
class Try:
    """One try, as it went."""

    number: int
    status: int | None  # None = no answer came
    error: str | None  # None = it was taken
    milliseconds: int
    at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryRow:
    """One delivery and its tries."""

    id: str
    webhook_id: str
    event: str
    subject: str  # the batch
    state: str  # pending, delivered, given_up, dropped
    created_ms: int
    next_ms: int | None  # when it is tried again; None = never
    ended_ms: int | None
    tries: tuple[Try, ...]


def write(
    connection: Connection, *, webhook_id: str, event: str, subject: str, data: Mapping[str, Any]
) -> str | None:
    """Add what is to be sent, once per webhook and subject; return its id, None if it was there.

    The body has OpenAI's form of events, which their clients read, and the time as Standard Webhooks asks.
    """
    delivery_id = new_id()
    now: int = run(connection, "SELECT {NOW}").scalar_one()
    body = {
        "id": delivery_id,
        "object": "event",
        "type": event,
        "created_at": now // 1000,
        "timestamp": datetime.fromtimestamp(now / 1000, tz=UTC).isoformat(timespec="milliseconds"),
        "data": data,
    }
    added = run(
        connection,
        """INSERT INTO webhook_delivery(id, webhook_id, event, subject, body, state, tries, next_ms,
                                        created_ms)
            VALUES(:id, :webhook_id, :event, :subject, :body, 'pending', 0, {NOW}, {NOW})
            ON CONFLICT(webhook_id, subject) DO NOTHING""",
        {
            "id": delivery_id,
            "webhook_id": webhook_id,
            "event": event,
            "subject": subject,
            "body": orjson.dumps(body).decode(),
        },
    )
    return delivery_id if added.rowcount else None


def test(connection: Connection, webhook_id: str) -> str:
    """Add a delivery that tells of nothing; see `Repository.test_webhook`."""
    webhook = find(connection, webhook_id)
    if webhook.ended_ms is not None:
        raise NotFound(f"webhook {webhook_id} was removed; type: routet2i webhook list")
    waiting: int = run(
        connection,
        """SELECT count(*) FROM webhook_delivery
            WHERE webhook_id = :id AND event = :event AND state = 'pending'""",
        {"id": webhook_id, "event": TEST},
    ).scalar_one()
    if waiting >= MOST_TESTS:
        raise UsageError(f"{waiting} tests of this webhook are under way; type: routet2i webhook deliveries")
    delivery_id = write(
        connection,
        webhook_id=webhook_id,
        event=TEST,
        subject=new_id(),
        data={"id": webhook_id, "message": "a test: nothing happened"},
    )
    assert delivery_id is not None
    return delivery_id


FREE = "(d.claimed_until_ms IS NULL OR d.claimed_until_ms < {NOW})"
# A webhook that is served now waits, so that a slow receiver holds up nobody but itself
NEXT = f"""SELECT d.id FROM webhook_delivery d WHERE d.state = 'pending' AND d.next_ms <= {{NOW}} AND {FREE}
    AND NOT EXISTS (SELECT 1 FROM webhook_delivery e WHERE e.webhook_id = d.webhook_id
                    AND e.claimed_until_ms IS NOT NULL AND e.claimed_until_ms >= {{NOW}})
    ORDER BY d.next_ms, d.id LIMIT 1"""  # noqa: S608 - a constant


def is_due(connection: Connection) -> bool:
    """Whether there is a delivery to claim: a look that locks nothing."""
    return run(connection, NEXT).scalar() is not None


def claim(connection: Connection, *, delivery_id: str | None = None) -> Delivery | None:
    """Take the delivery that is due longest, or this one; see `Repository.claim_delivery`."""
    if delivery_id is None and connection.dialect.name == "postgresql":
        # two at once would not see each other's claims of one webhook; it ends with the transaction
        run(connection, "SELECT pg_advisory_xact_lock(:key)", {"key": CLAIM_LOCK})
    chosen = f"d.id = ({NEXT} {{SKIP_LOCKED}})" if delivery_id is None else "d.id = :id"
    row = run(
        connection,
        f"""UPDATE webhook_delivery AS d SET tries = tries + 1,
                claimed_until_ms = {{NOW}} + CAST(:claim AS bigint)
            WHERE {chosen} AND d.state = 'pending' AND {FREE}
            RETURNING id, webhook_id, body, tries""",  # noqa: S608 - texts of this module
        {"claim": round(CLAIM_SECONDS * 1000)} | ({} if delivery_id is None else {"id": delivery_id}),
    ).one_or_none()
    if row is None:
        return None
    to = run(
        connection,
        """SELECT h.url, s.secret FROM webhook h JOIN webhook_secret s ON s.webhook_id = h.id
            WHERE h.id = :id""",
        {"id": row.webhook_id},
    ).one_or_none()
    if to is None:  # removed while this was written
        run(
            connection,
            """UPDATE webhook_delivery SET state = 'dropped', ended_ms = {NOW}, claimed_until_ms = NULL
                WHERE id = :id""",
            {"id": row.id},
        )
        return None
    return Delivery(
        id=row.id, webhook_id=row.webhook_id, url=to.url, secret=to.secret, body=row.body, number=row.tries
    )


def conclude(
    connection: Connection,
    delivery: Delivery,
    *,
    status: int | None,
    error: str | None,
    milliseconds: int,
    chance: float,
) -> str:
    """Log a try and say what comes next; see `Repository.conclude_delivery`."""
    again = error is not None and delivery.number <= len(PAUSES_SECONDS)
    state = "pending" if again else "delivered" if error is None else "given_up"
    pause = PAUSES_SECONDS[delivery.number - 1] * (0.5 + chance) if again else 0.0
    won = run(
        connection,
        """UPDATE webhook_delivery SET state = :state, claimed_until_ms = NULL,
                next_ms = {NOW} + CAST(:pause AS bigint),
                ended_ms = CASE WHEN CAST(:state AS text) = 'pending' THEN NULL ELSE {NOW} END
            WHERE id = :id AND tries = :number AND state = 'pending'""",
        {"id": delivery.id, "number": delivery.number, "state": state, "pause": round(pause * 1000)},
    ).rowcount
    run(
        connection,
        """INSERT INTO webhook_try(delivery_id, number, status, error, milliseconds, at_ms)
            VALUES(:id, :number, :status, :error, :milliseconds, {NOW})
            ON CONFLICT(delivery_id, number) DO NOTHING""",
        {
            "id": delivery.id,
            "number": delivery.number,
            "status": status,
            "error": None if error is None else error[:MAX_ERROR_CHARS],
            "milliseconds": milliseconds,
        },
    )
    return state if won else "late"


def rows(
    connection: Connection, *, client: str | None, webhook_id: str | None, after: str | None, limit: int
) -> list[DeliveryRow]:
    """Return deliveries with their tries, the newest first; see `Repository.deliveries`."""
    which = ["1 = 1"]
    which += [] if client is None else ["webhook_id IN (SELECT id FROM webhook WHERE client = :client)"]
    which += [] if webhook_id is None else ["webhook_id = :webhook"]
    which += [] if after is None else ["id < :after"]
    given = {"client": client, "webhook": webhook_id, "after": after}
    found = run(
        connection,
        f"""SELECT d.id, d.webhook_id, d.event, d.subject, d.state, d.created_ms, d.next_ms, d.ended_ms,
                   t.number, t.status, t.error, t.milliseconds, t.at_ms
            FROM (SELECT * FROM webhook_delivery WHERE {" AND ".join(which)}
                  ORDER BY id DESC LIMIT :limit) AS d
            LEFT JOIN webhook_try t ON t.delivery_id = d.id ORDER BY d.id DESC, t.number""",  # noqa: S608
        {"limit": limit} | {name: value for name, value in given.items() if value is not None},
    ).all()
    tries: dict[str, list[Try]] = {row.id: [] for row in found}
    for row in found:
        if row.number is not None:
            one = Try(
                number=row.number,
                status=row.status,
                error=row.error,
                milliseconds=row.milliseconds,
                at_ms=row.at_ms,
            )
            tries[row.id].append(one)
    return [
        DeliveryRow(
            id=row.id,
            webhook_id=row.webhook_id,
            event=row.event,
            subject=row.subject,
            state=row.state,
            created_ms=row.created_ms,
            next_ms=row.next_ms if row.state == "pending" else None,
            ended_ms=row.ended_ms,
            tries=tuple(tries[row.id]),
        )
        for row in {row.id: row for row in found}.values()
    ]
