"""Jobs once more, failed ones or on another tier: new jobs of a new batch, which name what they repeat.

An outcome is history and a job has one, so nothing is undone: the new job has the same prompt, seed and
wishes, is decided anew and is paid from the new batch's money. A job is retried at most once; if that fails
too, the retry is retried. It knows no file and no price.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from db import intake
from db.dialects import pack_ids, run
from routet2i.contracts import SHADOW_CLIENT, GenerationRequest, OpenedBatch, QueueLimits
from routet2i.errors import NotFound, UsageError

# Jobs (j) of a batch that have no retry: those that failed, or that one tier drew, or those of the named ones
# that ended without success or were drawn by another tier than the wanted one.
RETRYABLE = """
FROM job j JOIN outcome o ON o.job_id = j.id
WHERE j.batch_id = :origin AND NOT EXISTS (SELECT 1 FROM job r WHERE r.retry_of = j.id)
  AND (CAST(:ids AS text) IS NULL AND CAST(:drawn_by AS text) IS NULL AND o.state = 'failed'
       OR o.state = 'succeeded' AND o.tier = CAST(:drawn_by AS text) AND o.tier <> CAST(:tier AS text)
       OR CAST(:ids AS text) IS NOT NULL AND j.id IN {IDS}
          AND (o.state <> 'succeeded' OR o.tier <> CAST(:tier AS text)))
"""


def retryable(
    connection: Connection,
    origin: str,
    *,
    job_ids: Sequence[str] | None,
    tier: str | None,
    drawn_by: str | None,
) -> Sequence[Row[Any]]:
    """Return `jobs, n, width, height, tier` of what can be retried, a row per kind; `tier`: asked for."""
    return run(
        connection,
        f"""SELECT count(*) AS jobs, j.n, j.width, j.height, j.tier {RETRYABLE}
            GROUP BY j.n, j.width, j.height, j.tier""",
        _which(origin, job_ids, tier, drawn_by),
    ).all()


def rounds(connection: Connection, origin: str) -> Sequence[str]:
    """Return the batches that retry jobs of this one and are wholly written, oldest first."""
    return (
        run(
            connection,
            """SELECT id FROM batch WHERE retry_of = :origin AND state <> 'ingesting'
                ORDER BY created_ms, id""",
            {"origin": origin},
        )
        .scalars()
        .all()
    )


def open_retry(
    connection: Connection,
    origin: str,
    *,
    idem_key: str,
    body_sha256: str,
    name: str | None,
    budget_micro_usd: int | None,
    jobs: int,
    limits: QueueLimits,
) -> OpenedBatch:
    """Return the batch of this key, made for retries of another one's jobs; see `Repository.open_retry`."""
    before = run(connection, "SELECT client, name FROM batch WHERE id = :id", {"id": origin}).one_or_none()
    if before is None:
        raise NotFound(f"no batch {origin}; type: routet2i status")
    if before.client == SHADOW_CLIENT:
        raise UsageError("shadows are not retried: they are drawn to learn from, and nobody waits for them")
    opened = intake.open_batch(
        connection,
        client=before.client,
        idem_key=idem_key,
        body_sha256=body_sha256,
        name=name or f"retry of {before.name}",
        budget_micro_usd=budget_micro_usd,
        jobs=jobs,
        limits=limits,
    )
    if opened.created:
        run(
            connection,
            "UPDATE batch SET retry_of = :origin WHERE id = :id",
            {"id": opened.batch_id, "origin": origin},
        )
    return opened


def add_step(
    connection: Connection,
    origin: str,
    batch_id: str,
    *,
    job_ids: Sequence[str] | None,
    limit: int,
    tier: str | None,
    drawn_by: str | None,
) -> int:
    """Add the next retries to their batch, in file order; return how many, 0 = all are there."""
    # whoever retries jobs of this batch waits here for the others, who might take the same
    run(connection, "SELECT id FROM batch WHERE id = :id {LOCK}", {"id": origin}).one()
    rows = run(
        connection,
        f"SELECT j.* {RETRYABLE} ORDER BY j.seq LIMIT :limit",
        _which(origin, job_ids, tier, drawn_by) | {"limit": limit},
    ).all()
    if not rows:
        return 0
    requests = [
        GenerationRequest(
            line_no=row.seq,
            custom_id=row.custom_id,
            prompt=row.prompt,
            negative_prompt=row.negative_prompt,
            seed=row.seed,
            width=row.width,
            height=row.height,
            n=row.n,
            priority=row.priority,
            metadata=row.metadata,
            response_format=row.response_format,
            tier=row.tier if tier is None else tier,
        )
        for row in rows
    ]
    intake.add_jobs(connection, batch_id, requests, [], cursor_line=rows[-1].seq)
    run(
        connection,
        """UPDATE job SET retry_of = (SELECT o.id FROM job o WHERE o.batch_id = :origin AND o.seq = job.seq)
            WHERE batch_id = :id AND retry_of IS NULL""",
        {"id": batch_id, "origin": origin},
    )
    return len(rows)


def _which(
    origin: str, job_ids: Sequence[str] | None, tier: str | None, drawn_by: str | None
) -> dict[str, Any]:
    return {
        "origin": origin,
        "ids": None if job_ids is None else pack_ids(job_ids),
        "tier": tier,
        "drawn_by": drawn_by,
    }
