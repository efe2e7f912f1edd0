"""How jobs ended, for somebody who waits for them: asked again and again, so by their ids alone. Read only.

It knows outcomes, pictures and why a window left a job queued; what is said of that is the asker's affair.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection

from db.dialects import pack_ids, run
from routet2i.contracts import JobState, Picture


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEnd:
    """Where a job stands that somebody waits for."""

    job_id: str
    batch_id: str
    state: JobState | None  # a final one; None = it has none yet
    not_before_ms: int  # no window takes it earlier: each deferral sets a later one
    defer_reason: str | None  # why the last window left it queued, a code of `scheduler.allocator.REASONS`
    tier: str | None  # that drew it, or is to
    reason: str | None  # of that tier
    micro_usd: int  # charged
    error_class: str | None
    error: str | None
    pictures: tuple[Picture, ...]  # without those that were deleted


def of_jobs(connection: Connection, job_ids: Collection[str]) -> Mapping[str, JobEnd]:
    """Return job id -> where it stands, for jobs that exist."""
    packed = pack_ids(job_ids)
    rows = run(
        connection,
        """SELECT j.id, j.batch_id, j.not_before_ms, j.defer_reason, a.tier, a.reason, o.state, o.micro_usd,
                o.error_class, o.error
            FROM job j LEFT JOIN assignment a ON a.job_id = j.id LEFT JOIN outcome o ON o.job_id = j.id
            WHERE j.id IN {IDS}""",
        {"ids": packed},
    ).all()
    drawn = pack_ids(row.id for row in rows if row.state == JobState.SUCCEEDED)
    pictures: dict[str, list[Picture]] = defaultdict(list)
    for row in run(
        connection,
        """SELECT p.job_id, p.idx, p.seed, p.sha256, p.width, p.height, p.scores FROM picture p
            WHERE p.job_id IN {IDS} AND NOT EXISTS (
                SELECT 1 FROM picture_deletion d WHERE d.job_id = p.job_id AND d.idx = p.idx)
            ORDER BY p.job_id, p.idx""",
        {"ids": drawn},
    ):
        pictures[row.job_id].append(
            Picture(
                index=row.idx,
                seed=row.seed,
                sha256=row.sha256,
                width=row.width,
                height=row.height,
                scores=orjson.loads(row.scores),
            )
        )
    return {
        row.id: JobEnd(
            job_id=row.id,
            batch_id=row.batch_id,
            state=None if row.state is None else JobState(row.state),
            not_before_ms=row.not_before_ms,
            defer_reason=row.defer_reason,
            tier=row.tier,
            reason=row.reason,
            micro_usd=row.micro_usd or 0,
            error_class=row.error_class,
            error=row.error,
            pictures=tuple(pictures[row.id]),
        )
        for row in rows
    }


def first_job(connection: Connection, batch_id: str) -> str | None:
    """Return the job of a batch's first line; None if that became none."""
    found: str | None = run(
        connection, "SELECT id FROM job WHERE batch_id = :id ORDER BY seq LIMIT 1", {"id": batch_id}
    ).scalar()
    return found
