"""Batches as an HTTP client asked for them: eight states, their moments, and the batch that each became.

It knows the rows of `api_batch`; a state is changed only by compare-and-set, so that several clerks
(`scheduler.clerk`) may look at one row. What the jobs are like is `db.lines`' affair.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row

from db import endings, files, intake
from db.dialects import run
from db.files import Purpose
from routet2i.contracts import OpenedBatch, QueueLimits, new_id
from routet2i.errors import Conflict, NotFound, QueueFull

PREFIX = "batch_"
MOST_UNREAD = 1_000  # orders of a client whose files are not read yet: a clerk takes one after the other


class State(StrEnum):
    """Where a batch stands, in the words of OpenAI's interface."""

    VALIDATING = "validating"  # its file is read
    FAILED = "failed"  # no line of its file is good, or nobody can pay it
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"  # its files are being made
    COMPLETED = "completed"
    EXPIRED = "expired"  # its window ended before all was drawn
    CANCELLING = "cancelling"  # asked for; some pictures are still being drawn
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether it stays."""
        return self not in OPEN


OPEN = frozenset({State.VALIDATING, State.IN_PROGRESS, State.FINALIZING, State.CANCELLING})
_OPEN = "('validating', 'in_progress', 'finalizing', 'cancelling')"


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a client asks for."""

    client: str
    idem_key: str | None  # None = another batch each time
    body_sha256: str
    input_file_id: str
    endpoint: str
    completion_window: str  # as it was written
    window_ms: int
    metadata: str | None  # JSON object
    name: str
    budget_micro_usd: int | None  # None = no limit
    deadline: str | None  # as it was written
    priority: int
    preview_id: str | None
    base_url: str  # how the client addresses us
    output_seconds: int | None  # life of the files that it leaves; None = they stay


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiBatchRow:
    """An order and what became of it; moments are milliseconds since 1970, None = not reached."""

    id: str
    client: str
    input_file_id: str
    sha256: str  # of its file
    endpoint: str
    completion_window: str
    metadata: str | None  # JSON object
    name: str
    budget_micro_usd: int | None
    spent_micro_usd: int  # so far
    deadline: str | None
    priority: int
    preview_id: str | None
    base_url: str
    state: State
    ending: State | None  # that it is being finished for
    batch_id: str | None  # None = its file is not read yet
    errors: str | None  # JSON list
    total: int  # lines
    completed: int
    failed: int
    output_file_id: str | None
    error_file_id: str | None
    created_ms: int
    expires_ms: int
    in_progress_ms: int | None
    finalizing_ms: int | None
    completed_ms: int | None
    failed_ms: int | None
    expired_ms: int | None
    cancelling_ms: int | None
    cancelled_ms: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """An order that a clerk looks at now."""

    row: ApiBatchRow
    overdue: bool  # its completion window has ended


COLUMNS = tuple(name for name in ApiBatchRow.__dataclass_fields__ if name != "spent_micro_usd")
SELECT = """SELECT a.*, COALESCE(m.spent, 0) AS spent_micro_usd FROM api_batch a
    LEFT JOIN budget m ON m.id = 'batch:' || a.batch_id AND m.period = 'total'"""


def create(connection: Connection, order: Order) -> tuple[ApiBatchRow, bool]:
    """Write an order, or find the one of its key; see `Repository.order_batch`."""
    known = _known(connection, order)
    if known is not None:
        return known, False
    # whoever deletes the file now waits, and then leaves its bytes until they are read
    file = run(
        connection,
        f"SELECT * FROM file WHERE id = :id AND {files.THERE} {{LOCK}}",  # noqa: S608 - a constant
        {"id": order.input_file_id},
    ).one_or_none()
    if file is None or file.sha256 is None:
        raise NotFound(f"no file {order.input_file_id} with lines of a batch; upload it with purpose=batch")
    unread: int = run(
        connection,
        f"""SELECT count(*) FROM (
                SELECT 1 FROM api_batch WHERE state IN {_OPEN} AND state = 'validating' AND client = :client
                AND (CAST(:key AS text) IS NULL OR idem_key IS NULL OR idem_key <> :key)
                LIMIT :most) AS unread""",  # noqa: S608 - a constant
        {"client": order.client, "key": order.idem_key, "most": MOST_UNREAD},
    ).scalar_one()
    if unread >= MOST_UNREAD:
        raise QueueFull(
            f"{unread} batches of client {order.client} wait for their files to be read; send it later",
            waiting=unread,
            limit=MOST_UNREAD,
        )
    batch_id = PREFIX + new_id().replace("-", "")
    created = run(
        connection,
        """INSERT INTO api_batch(id, client, idem_key, body_sha256, input_file_id, sha256, endpoint,
                completion_window, metadata, name, budget_micro_usd, deadline, priority, preview_id, base_url,
                output_seconds, state, total, completed, failed, created_ms, expires_ms, look_ms)
            VALUES(:id, :client, :idem_key, :body_sha256, :input_file_id, :sha256, :endpoint,
                :completion_window, :metadata, :name, :budget_micro_usd, :deadline, :priority, :preview_id,
                :base_url, :output_seconds, 'validating', 0, 0, 0, {NOW}, {NOW} + CAST(:window_ms AS BIGINT),
                0)
            ON CONFLICT(client, idem_key) DO NOTHING""",
        {
            "id": batch_id,
            "sha256": file.sha256,
            **{name: getattr(order, name) for name in Order.__dataclass_fields__},
        },
    ).rowcount
    if created:
        return find(connection, batch_id), True
    known = _known(connection, order)
    assert known is not None  # it came between our look and our row
    return known, False


def _known(connection: Connection, order: Order) -> ApiBatchRow | None:
    """Return the order of this one's key, if there is one; raises Conflict if it asked for something else."""
    row = None if order.idem_key is None else _by_key(connection, order.client, order.idem_key)
    if row is None:
        return None
    if row.body_sha256 != order.body_sha256:
        raise Conflict(
            f"Idempotency-Key {order.idem_key!r} was used before with another body (batch {row.id}); "
            "choose another key, or send what was sent then"
        )
    return _order(row)


def find_by_key(connection: Connection, *, client: str, idem_key: str) -> ApiBatchRow | None:
    """Return the order of a key; see `Repository.find_order_by_key`."""
    row = _by_key(connection, client, idem_key)
    return None if row is None else _order(row)


def _by_key(connection: Connection, client: str, idem_key: str) -> Row[Any] | None:
    return run(
        connection,
        f"{SELECT} WHERE a.client = :client AND a.idem_key = :idem_key",
        {"client": client, "idem_key": idem_key},
    ).one_or_none()


def find(connection: Connection, batch_id: str) -> ApiBatchRow:
    """Return an order; see `Repository.find_order`."""
    row = run(connection, f"{SELECT} WHERE a.id = :id", {"id": batch_id}).one_or_none()
    if row is None:
        raise gone(batch_id)
    return _order(row)


def gone(batch_id: str) -> NotFound:
    """Return what is said of an order that is not there, or that is not the asker's."""
    return NotFound(f"no batch {batch_id}; look what is there: GET /v1/batches")


def find_by_file(connection: Connection, file_id: str) -> ApiBatchRow:
    """Return the order that has left a file; see `Repository.find_order_of`."""
    row = run(
        connection, f"{SELECT} WHERE a.output_file_id = :id OR a.error_file_id = :id", {"id": file_id}
    ).one_or_none()
    if row is None:
        raise NotFound(f"no batch has left file {file_id}")
    return _order(row)


def rows(connection: Connection, *, client: str | None, after: str | None, limit: int) -> list[ApiBatchRow]:
    """Return a page of orders, newest first; see `Repository.orders`."""
    where = ["1 = 1"]
    if client is not None:
        where.append("a.client = :client")
    if after is not None:
        where.append("a.id < :after")
    found = run(
        connection,
        f"{SELECT} WHERE {' AND '.join(where)} ORDER BY a.id DESC LIMIT :limit",
        {"client": client, "after": after, "limit": limit},
    )
    return [_order(row) for row in found]


def due(connection: Connection) -> bool:
    """Whether a clerk should look at any order now."""
    return (
        run(
            connection,
            f"SELECT 1 FROM api_batch WHERE state IN {_OPEN} AND look_ms <= {{NOW}} LIMIT 1",  # noqa: S608
        ).scalar()
        is not None
    )


def take(connection: Connection, *, seconds: float) -> Taken | None:
    """Keep the other clerks from an order for a while; see `Repository.take_order`."""
    taken = run(
        connection,
        f"""UPDATE api_batch SET look_ms = {{NOW}} + :ms
            WHERE id = (SELECT id FROM api_batch WHERE state IN {_OPEN} AND look_ms <= {{NOW}}
                        ORDER BY look_ms, id LIMIT 1 {{LOCK}})
            RETURNING id, expires_ms <= {{NOW}} AS overdue""",  # noqa: S608 - a constant
        {"ms": int(seconds * 1000)},
    ).one_or_none()
    return None if taken is None else Taken(row=find(connection, taken.id), overdue=bool(taken.overdue))


def look_again(
    connection: Connection,
    batch_id: str,
    *,
    seconds: float,
    total: int | None,
    completed: int | None,
    failed: int | None,
) -> None:
    """Write what a clerk has counted, and when the next look is due; see `Repository.look_again`."""
    run(
        connection,
        f"""UPDATE api_batch SET look_ms = {{NOW}} + :ms,
                total = COALESCE(CAST(:total AS BIGINT), total),
                completed = COALESCE(CAST(:completed AS BIGINT), completed),
                failed = COALESCE(CAST(:failed AS BIGINT), failed)
            WHERE id = :id AND state IN {_OPEN}""",  # noqa: S608 - a constant
        {
            "id": batch_id,
            "ms": int(seconds * 1000),
            "total": total,
            "completed": completed,
            "failed": failed,
        },
    )


def move(
    connection: Connection,
    batch_id: str,
    *,
    before: State,
    after: State,
    ending: State | None,
    errors: str | None,
) -> bool:
    """Change a state by compare-and-set; see `Repository.move_order`."""
    moved = run(
        connection,
        f"""UPDATE api_batch SET state = :after, {after.value}_ms = {{NOW}}, look_ms = 0,
                ending = COALESCE(:ending, ending), errors = COALESCE(:errors, errors)
            WHERE id = :id AND state = :before
            RETURNING id, client, name, batch_id, created_ms""",  # noqa: S608 - a state's name
        {"id": batch_id, "before": before, "after": after, "ending": ending, "errors": errors},
    ).one_or_none()
    if moved is None:
        return False
    if after.is_final and moved.batch_id is None:
        endings.tell_of_order(connection, moved, state=after)
    return True


def open_batch(
    connection: Connection,
    order_id: str,
    *,
    body_sha256: str,
    name: str,
    budget_micro_usd: int | None,
    preview_id: str | None,
    jobs: int,
    limits: QueueLimits | None,
) -> OpenedBatch:
    """Open the batch of an order that is still wanted; see `Repository.open_ordered`."""
    order = run(
        connection, "SELECT client, state FROM api_batch WHERE id = :id {LOCK}", {"id": order_id}
    ).one()
    if order.state != State.VALIDATING:
        raise Conflict(f"batch {order_id} is {order.state}: its file is not read any more")
    opened = intake.open_batch(
        connection,
        client=order.client,
        idem_key=order_id,
        body_sha256=body_sha256,
        name=name,
        budget_micro_usd=budget_micro_usd,
        preview_id=preview_id,
        jobs=jobs,
        limits=limits,
    )
    run(
        connection,
        "UPDATE api_batch SET batch_id = :batch_id WHERE id = :id",
        {"id": order_id, "batch_id": opened.batch_id},
    )
    return opened


def finish(
    connection: Connection,
    order_id: str,
    *,
    total: int,
    completed: int,
    failed: int,
    output_bytes: int | None,
    error_bytes: int | None,
) -> bool:
    """Give an order its files and its last state; see `Repository.finish_order`."""
    order = run(
        connection,
        """SELECT * FROM api_batch WHERE id = :id AND state IN ('finalizing', 'cancelling') {LOCK}""",
        {"id": order_id},
    ).one_or_none()
    if order is None:
        return False
    left: dict[str, str | None] = {}
    for part, size in (("output", output_bytes), ("error", error_bytes)):
        left[part] = None
        if size is not None:
            left[part] = files.add(
                connection,
                client=order.client,
                purpose=Purpose.OUTPUT,
                filename=f"{order_id}_{part}.jsonl",
                size=size,
                sha256=None,
                seconds=order.output_seconds,
            ).id
    ending = State(order.ending)
    run(
        connection,
        f"""UPDATE api_batch SET state = :ending, {ending.value}_ms = {{NOW}}, total = :total,
                completed = :completed, failed = :failed, output_file_id = :output, error_file_id = :error
            WHERE id = :id""",  # noqa: S608 - a state's name
        {
            "id": order_id,
            "ending": ending,
            "total": total,
            "completed": completed,
            "failed": failed,
            **left,
        },
    )
    if order.batch_id is None:
        endings.tell_of_order(connection, order, state=ending)
    return True


def _order(row: Row[Any]) -> ApiBatchRow:
    found = row._mapping
    values = {name: found[name] for name in COLUMNS}
    values["state"] = State(found["state"])
    values["ending"] = None if found["ending"] is None else State(found["ending"])
    return ApiBatchRow(**values, spent_micro_usd=int(found["spent_micro_usd"]))
