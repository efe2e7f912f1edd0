"""Who wants to be told of the ends of batches, and where: rows of `webhook` and `webhook_secret`.

It knows no HTTP and no batch's state; what is to be sent lies in `db.outbox`. A secret is kept in clear, for
each signature needs it: in a table of its own, which readers of the others need not be let into, and no list
shows it.
"""

import base64
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from db.dialects import pack_ids, run
from routet2i.contracts import BatchEvent, new_id
from routet2i.errors import NotFound, UsageError

MOST = 20  # webhooks of a client at a time: each costs a delivery per batch
SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookRow:
    """One webhook, without its secret."""

    id: str
    client: str
    batch_id: str | None  # None = all batches of the client that are submitted after it
    url: str
    events: tuple[BatchEvent, ...]
    name: str  # for people
    created_ms: int
    ended_ms: int | None  # None = in force


def new_secret() -> str:
    """Return a signing secret as Standard Webhooks writes them."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def add(
    connection: Connection,
    *,
    client: str,
    url: str,
    secret: str,
    events: Iterable[BatchEvent],
    batch_id: str | None,
    name: str,
) -> str:
    """Write a webhook; see `Repository.add_webhook`."""
    if batch_id is not None:
        owner = run(connection, "SELECT client FROM batch WHERE id = :id", {"id": batch_id}).scalar()
        if owner != client:
            raise NotFound(f"no batch {batch_id} of client {client}")
    known: int = run(
        connection,
        "SELECT count(*) FROM webhook WHERE client = :client AND ended_ms IS NULL",
        {"client": client},
    ).scalar_one()
    if known >= MOST:
        raise UsageError(f"client {client} has {known} webhooks, and at most {MOST} may be; remove one")
    webhook_id = new_id()
    run(
        connection,
        """INSERT INTO webhook(id, client, batch_id, url, events, name, created_ms)
            VALUES(:id, :client, :batch_id, :url, :events, :name, {NOW})""",
        {
            "id": webhook_id,
            "client": client,
            "batch_id": batch_id,
            "url": url,
            "events": orjson.dumps(sorted({one.value for one in events})).decode(),
            "name": name,
        },
    )
    run(
        connection,
        "INSERT INTO webhook_secret(webhook_id, secret) VALUES(:id, :secret)",
        {"id": webhook_id, "secret": secret},
    )
    if batch_id is not None:  # it may have ended, and been told to others
        run(
            connection,
            """INSERT INTO webhook_watch(batch_id, look_ms) VALUES(:id, {NOW})
                ON CONFLICT(batch_id) DO UPDATE SET look_ms = excluded.look_ms""",
            {"id": batch_id},
        )
    return webhook_id


def remove(connection: Connection, webhook_id: str) -> bool:
    """End a webhook and drop what waits for it; see `Repository.remove_webhook`."""
    find(connection, webhook_id)
    ended = run(
        connection,
        "UPDATE webhook SET ended_ms = {NOW} WHERE id = :id AND ended_ms IS NULL",
        {"id": webhook_id},
    ).rowcount
    run(connection, "DELETE FROM webhook_secret WHERE webhook_id = :id", {"id": webhook_id})
    waiting = (
        run(
            connection,
            """SELECT id FROM webhook_delivery WHERE webhook_id = :id AND state = 'pending'
                ORDER BY id {LOCK}""",
            {"id": webhook_id},
        )
        .scalars()
        .all()
    )
    run(
        connection,
        """UPDATE webhook_delivery SET state = 'dropped', ended_ms = {NOW}, claimed_until_ms = NULL
            WHERE id IN {IDS} AND state = 'pending'""",
        {"ids": pack_ids(waiting)},
    )
    return bool(ended)


def find(connection: Connection, webhook_id: str) -> WebhookRow:
    """Return a webhook, removed or not; raises NotFound."""
    row = run(connection, "SELECT * FROM webhook WHERE id = :id", {"id": webhook_id}).one_or_none()
    if row is None:
        raise NotFound(f"no webhook {webhook_id}; type: routet2i webhook list")
    return _webhook(row)


def rows(connection: Connection, *, client: str | None, after: str | None, limit: int) -> list[WebhookRow]:
    """Return webhooks in force, the newest first; see `Repository.webhooks`."""
    which = ["ended_ms IS NULL"]
    which += [] if client is None else ["client = :client"]
    which += [] if after is None else ["id < :after"]
    found = run(
        connection,
        f"SELECT * FROM webhook WHERE {' AND '.join(which)} ORDER BY id DESC LIMIT :limit",  # noqa: S608 - ours
        {"limit": limit}
        | ({} if client is None else {"client": client})
        | ({} if after is None else {"after": after}),
    )
    return [_webhook(row) for row in found]


def _webhook(row: Row[Any]) -> WebhookRow:
    return WebhookRow(
        id=row.id,
        client=row.client,
        batch_id=row.batch_id,
        url=row.url,
        events=tuple(BatchEvent(one) for one in orjson.loads(row.events)),
        name=row.name,
        created_ms=row.created_ms,
        ended_ms=row.ended_ms,
    )
