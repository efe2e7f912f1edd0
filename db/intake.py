"""Batches come in: opened once per key, filled in resumable steps, closed.

It knows rows of `batch`, `rejected`, `job`, `budget` and what they add to `waiting` and `arrivals`; how a
file is read is `scheduler.intake`'s affair.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from db import arrivals, door, ledger, waiting
from db.dialects import pack_ids, run, run_rows
from db.waiting import Queued
from routet2i.contracts import GenerationRequest, OpenedBatch, QueueLimits, Rejection, new_id
from routet2i.errors import Conflict, NotFound


def open_batch(
    connection: Connection,
    *,
    client: str,
    idem_key: str,
    body_sha256: str,
    name: str,
    budget_micro_usd: int | None,
    preview_id: str | None = None,
    jobs: int = 0,
    limits: QueueLimits | None = None,
) -> OpenedBatch:
    """Return the batch of this key, a new one if there is none; see `Repository.open_batch`."""
    if limits is not None:
        door.take_turn(connection)
        if _known(connection, client=client, idem_key=idem_key) is None:
            door.require_room(connection, client=client, jobs=jobs, limits=limits)
    batch_id = new_id()
    created = run(
        connection,
        """INSERT INTO batch(id, client, idem_key, body_sha256, name, state, n_accepted, n_rejected,
                             cursor_line, created_ms, preview_id, announced)
            VALUES(:id, :client, :idem_key, :body_sha256, :name, 'ingesting', 0, 0, 0, {NOW}, :preview_id,
                   :announced)
            ON CONFLICT(client, idem_key) DO NOTHING""",
        {
            "id": batch_id,
            "client": client,
            "idem_key": idem_key,
            "body_sha256": body_sha256,
            "name": name,
            "preview_id": preview_id,
            "announced": jobs,
        },
    )
    if created.rowcount == 1:
        ledger.open_account(connection, ledger.batch_account(batch_id), limit=budget_micro_usd)
    known = _known(connection, client=client, idem_key=idem_key)
    assert known is not None
    if known.body_sha256 != body_sha256:
        raise Conflict(
            f"key {idem_key!r} was used before with another body (batch {known.id}); "
            "choose another key, or submit what was submitted then"
        )
    return OpenedBatch(
        batch_id=known.id,
        created=created.rowcount == 1,
        state=known.state,
        cursor_line=known.cursor_line,
        created_ms=known.created_ms,
    )


def _known(connection: Connection, *, client: str, idem_key: str) -> Row[Any] | None:
    return run(
        connection,
        """SELECT id, body_sha256, state, cursor_line, created_ms FROM batch
            WHERE client = :client AND idem_key = :idem_key""",
        {"client": client, "idem_key": idem_key},
    ).one_or_none()


def add_jobs(
    connection: Connection,
    batch_id: str,
    requests: Sequence[GenerationRequest],
    rejections: Sequence[Rejection],
    *,
    cursor_line: int,
) -> tuple[Rejection, ...]:
    """Add one step of a file; see `Repository.add_jobs`."""
    before = run(
        connection,
        "SELECT state, cursor_line, client, {NOW} AS now_ms FROM batch WHERE id = :id {LOCK}",
        {"id": batch_id},
    ).one_or_none()
    if before is None:
        raise NotFound(f"no batch {batch_id}")
    if before.cursor_line >= cursor_line:
        return ()
    if before.state != "ingesting":
        raise Conflict(f"batch {batch_id} is {before.state}: it takes no more jobs")
    rows = [
        _job(batch_id, request, client=before.client, now_ms=before.now_ms)
        for request in requests
        if request.line_no > before.cursor_line
    ]
    refused = [rejection for rejection in rejections if rejection.line_no > before.cursor_line]
    twice = _insert(connection, batch_id, rows) if rows else ()
    refused += twice
    if refused:
        run(
            connection,
            """INSERT INTO rejected(batch_id, line_no, reason, remedy, raw_sha256, custom_id, code)
                VALUES(:batch_id, :line_no, :reason, :remedy, :raw_sha256, :custom_id, :code)""",
            [
                {
                    "batch_id": batch_id,
                    "line_no": rejection.line_no,
                    "reason": rejection.reason,
                    "remedy": rejection.remedy,
                    "raw_sha256": rejection.raw_sha256,
                    "custom_id": rejection.custom_id,
                    "code": rejection.code,
                }
                for rejection in refused
            ],
        )
    run(
        connection,
        """UPDATE batch SET cursor_line = :cursor_line, n_accepted = n_accepted + :accepted,
            n_rejected = n_rejected + :rejected WHERE id = :id""",
        {
            "id": batch_id,
            "cursor_line": cursor_line,
            "accepted": len(rows) - len(twice),
            "rejected": len(refused),
        },
    )
    again = {rejection.line_no for rejection in twice}
    new = [row for row in rows if row["seq"] not in again]
    waiting.come(
        connection, (Queued(batch_id, row["width"], row["height"], row["n"], row["tier"]) for row in new)
    )
    if new:
        pictures = sum(row["n"] for row in new)
        arrivals.count(connection, client=before.client, jobs=len(new), pictures=pictures)
    return tuple(twice)


def _job(batch_id: str, request: GenerationRequest, *, client: str, now_ms: int) -> dict[str, Any]:
    deadline_ms = now_ms + request.within_ms if request.within_ms is not None else request.deadline_ms
    return {
        "id": new_id(),
        "batch_id": batch_id,
        "seq": request.line_no,
        "custom_id": request.custom_id,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "width": request.width,
        "height": request.height,
        "n": request.n,
        "priority": request.priority,
        "metadata": request.metadata,
        "response_format": request.response_format,
        "client": client,
        "deadline_ms": deadline_ms,
        # half its time later it goes before its client's other jobs
        "jump_ms": None if deadline_ms is None else now_ms + (deadline_ms - now_ms) // 2,
        "tier": request.tier,
    }


def _insert(connection: Connection, batch_id: str, rows: Sequence[dict[str, Any]]) -> tuple[Rejection, ...]:
    """Insert jobs; return a rejection for each whose custom id the batch has already."""
    inserted = run_rows(
        connection,
        """INSERT INTO job(id, batch_id, seq, custom_id, prompt, negative_prompt, seed, width, height, n,
                           priority, metadata, not_before_ms, cancel_requested, state, created_ms, client,
                           deadline_ms, jump_ms, response_format, tier)
            SELECT {id:text}, {batch_id:text}, {seq:integer}, {custom_id:text}, {prompt:text},
                   {negative_prompt:text}, {seed:bigint}, {width:integer}, {height:integer}, {n:integer},
                   {priority:integer}, {metadata:text}, 0, 0, 'queued', {NOW}, {client:text},
                   {deadline_ms:bigint}, {jump_ms:bigint}, {response_format:text}, {tier:text} {EACH}
            WHERE true ON CONFLICT(batch_id, custom_id) DO NOTHING""",
        rows,
    )
    if inserted == len(rows):
        return ()
    found = run(
        connection, "SELECT id FROM job WHERE id IN {IDS}", {"ids": pack_ids(row["id"] for row in rows)}
    )
    present = set(found.scalars().all())
    return tuple(
        Rejection(
            line_no=row["seq"],
            reason=f"custom_id {row['custom_id']!r} stands on an earlier line of this batch",
            remedy="give each line a custom_id of its own",
            raw_sha256="",
            custom_id=row["custom_id"],
        )
        for row in rows
        if row["id"] not in present
    )


def close_intake(connection: Connection, batch_id: str) -> int:
    """Let windows see the batch; see `Repository.close_intake`.

    Returns:
        Jobs that they see now; 0 if they saw it already.
    """
    accepted = run(
        connection,
        """UPDATE batch SET state = 'open' WHERE id = :id AND state = 'ingesting'
            RETURNING n_accepted""",
        {"id": batch_id},
    ).scalar()
    return accepted or 0


def refresh_statistics(connection: Connection) -> None:
    """Tell PostgreSQL's planner what the queue has become; SQLite's needs no numbers.

    By itself it looks at jobs a minute later, and at batches when dozens have changed; until then it would
    sort all that waits for each window. It waits for nobody who works on these tables.
    """
    if connection.dialect.name == "postgresql":
        run(connection, "ANALYZE (SKIP_LOCKED) job, batch")
