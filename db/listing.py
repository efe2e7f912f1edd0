"""Lists for programs, a page at a time by keyset: batches, a batch's jobs, windows, workers. Read only.

A page begins behind the last row of the one before it, whatever came or went meanwhile, and costs the same at
the end of a list as at its beginning. Who may see which row is the asker's affair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row

from db.audit import BatchStatus, batch_status
from db.dialects import pack_ids, run
from db.session import reading
from db.story import at, moment
from routet2i.contracts import SHADOW_CLIENT, JobState
from routet2i.errors import NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class JobLine:
    """One job of a batch, in short."""

    job_id: str
    line_no: int
    custom_id: str
    prompt: str
    state: JobState
    requested_tier: str | None
    tier: str | None  # that draws it, or did
    reason: str | None
    defer_reason: str | None  # why the last window left it queued
    micro_usd: int | None  # charged
    error: str | None
    finished_at: datetime | None
    pictures: tuple[str, ...]  # their names, without those that were deleted


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowLine:
    """One decision round."""

    window_id: str
    committed_at: datetime
    policy: str
    predictor_name: str
    predictor_version: str
    assigned: int  # jobs
    deferred: int
    fallback: int  # of the assigned ones, those that the ledger sent to the cheaper tier
    available_micro_usd: int | None
    solve_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerLine:
    """One worker process."""

    worker: str
    tier: str
    device: str
    version: str
    state: str  # idle, busy, draining, stopped, lost
    started_at: datetime
    heard_at: datetime
    fault: str | None
    fault_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Whose a batch or a job is."""

    batch_id: str
    client: str


def batches(
    engine: Engine, *, client: str | None, limit: int, after: str | None
) -> tuple[list[BatchStatus], bool]:
    """Return at most `limit` batches, newest first, and whether more follow; shadows' are left out.

    Args:
        client: only its; None = everybody's.
        after: the id of the last batch before this page; None = begin.
    """
    with reading(engine) as connection:
        ids = (
            run(
                connection,
                """SELECT id FROM batch WHERE client <> :shadow
                    AND (CAST(:client AS text) IS NULL OR client = :client)
                    AND (CAST(:after AS text) IS NULL OR id < :after)
                    ORDER BY id DESC LIMIT :limit""",  # ids grow with time (UUID 7)
                {"shadow": SHADOW_CLIENT, "client": client, "after": after, "limit": limit + 1},
            )
            .scalars()
            .all()
        )
    return [batch_status(engine, one) for one in ids[:limit]], len(ids) > limit


def owner_of_batch(engine: Engine, batch_id: str) -> Owner:
    """Return whose a batch is; raises NotFound."""
    with reading(engine) as connection:
        row = run(
            connection, "SELECT id AS batch_id, client FROM batch WHERE id = :id", {"id": batch_id}
        ).one_or_none()
    if row is None or row.client == SHADOW_CLIENT:
        raise NotFound(f"no batch {batch_id}")
    return Owner(batch_id=row.batch_id, client=row.client)


def owner_of_job(engine: Engine, job_id: str) -> Owner:
    """Return whose a job is; raises NotFound."""
    with reading(engine) as connection:
        row = run(connection, "SELECT batch_id, client FROM job WHERE id = :id", {"id": job_id}).one_or_none()
    if row is None or row.client == SHADOW_CLIENT:
        raise NotFound(f"no job {job_id}")
    return Owner(batch_id=row.batch_id, client=row.client)


def jobs(
    engine: Engine,
    batch_id: str,
    *,
    limit: int,
    after: int = 0,
    state: JobState | None = None,
    tier: str | None = None,
) -> tuple[list[JobLine], bool]:
    """Return at most `limit` jobs of a batch in file order, and whether more follow.

    Args:
        after: line of the last job before this page.
        state, tier: only these.
    """
    with reading(engine) as connection:
        rows = run(
            connection,
            """SELECT * FROM (
                SELECT j.id, j.seq, j.custom_id, j.prompt, j.tier AS requested_tier, j.defer_reason, a.tier,
                    a.reason, o.micro_usd, o.error, o.at_ms,
                    CASE WHEN o.state IS NOT NULL THEN o.state
                         WHEN j.state = 'assigned' AND m.state = 'claimed' THEN 'running'
                         ELSE j.state END AS state
                FROM job j LEFT JOIN assignment a ON a.job_id = j.id LEFT JOIN outcome o ON o.job_id = j.id
                LEFT JOIN microbatch m ON m.id = j.microbatch_id
                WHERE j.batch_id = :id AND j.seq > :after) AS line
            WHERE (CAST(:state AS text) IS NULL OR state = :state)
              AND (CAST(:tier AS text) IS NULL OR tier = :tier)
            ORDER BY seq LIMIT :limit""",
            {
                "id": batch_id,
                "after": after,
                "limit": limit + 1,
                "state": None if state is None else state.value,
                "tier": tier,
            },
        ).all()
        pictures = _pictures(connection, rows[:limit])
    return [_job(row, pictures.get(row.id, [])) for row in rows[:limit]], len(rows) > limit


def _pictures(connection: Connection, rows: Sequence[Row[Any]]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in run(
        connection,
        """SELECT p.job_id, p.sha256 FROM picture p
            WHERE p.job_id IN {IDS} AND NOT EXISTS (
                SELECT 1 FROM picture_deletion d WHERE d.job_id = p.job_id AND d.idx = p.idx)
            ORDER BY p.job_id, p.idx""",
        {"ids": pack_ids(row.id for row in rows)},
    ):
        found.setdefault(row.job_id, []).append(row.sha256)
    return found


def _job(row: Row[Any], pictures: Sequence[str]) -> JobLine:
    return JobLine(
        job_id=row.id,
        line_no=row.seq,
        custom_id=row.custom_id,
        prompt=row.prompt,
        state=JobState(row.state),
        requested_tier=row.requested_tier,
        tier=row.tier,
        reason=row.reason,
        defer_reason=row.defer_reason,
        micro_usd=row.micro_usd,
        error=row.error,
        finished_at=moment(row.at_ms),
        pictures=tuple(pictures),
    )


def windows(engine: Engine, *, limit: int, after: str | None) -> tuple[list[WindowLine], bool]:
    """Return at most `limit` windows, newest first, and whether more follow."""
    with reading(engine) as connection:
        rows = run(
            connection,
            """SELECT * FROM decision_window WHERE (CAST(:after AS text) IS NULL OR id < :after)
                ORDER BY id DESC LIMIT :limit""",
            {"after": after, "limit": limit + 1},
        ).all()
    found = [
        WindowLine(
            window_id=row.id,
            committed_at=at(row.committed_ms),
            policy=row.policy,
            predictor_name=row.predictor_name,
            predictor_version=row.predictor_version,
            assigned=row.n_assigned,
            deferred=row.n_deferred,
            fallback=row.n_fallback,
            available_micro_usd=row.available_micro_usd,
            solve_us=row.solve_us,
        )
        for row in rows[:limit]
    ]
    return found, len(rows) > limit


def workers(engine: Engine, *, limit: int, after: str | None) -> tuple[list[WorkerLine], bool]:
    """Return at most `limit` workers by id, and whether more follow; also those that ended."""
    with reading(engine) as connection:
        rows = run(
            connection,
            """SELECT * FROM worker WHERE (CAST(:after AS text) IS NULL OR id > :after)
                ORDER BY id LIMIT :limit""",
            {"after": after, "limit": limit + 1},
        ).all()
    found = [
        WorkerLine(
            worker=row.id,
            tier=row.tier,
            device=row.device,
            version=row.version,
            state=row.state,
            started_at=at(row.started_ms),
            heard_at=at(row.heartbeat_ms),
            fault=row.fault,
            fault_at=moment(row.fault_ms),
        )
        for row in rows[:limit]
    ]
    return found, len(rows) > limit


def shows_picture(engine: Engine, sha256: str, *, client: str | None) -> bool:
    """Whether a picture of this name is there that a client may see; None = a reader of all."""
    with reading(engine) as connection:
        found = run(
            connection,
            """SELECT 1 FROM picture p JOIN job j ON j.id = p.job_id
                WHERE p.sha256 = :sha256 AND (CAST(:client AS text) IS NULL OR j.client = :client)
                AND NOT EXISTS (
                    SELECT 1 FROM picture_deletion d WHERE d.job_id = p.job_id AND d.idx = p.idx)
                LIMIT 1""",
            {"sha256": sha256, "client": client},
        ).scalar()
    return found is not None
