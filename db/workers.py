"""Who is there: workers' heartbeats, by the database's clock."""

from collections.abc import Mapping

from sqlalchemy import Connection

from db.dialects import run


def beat(connection: Connection, *, worker: str, tier: str, device: str, version: str, state: str) -> None:
    """Write a worker's heartbeat; see `Repository.beat`."""
    run(
        connection,
        """INSERT INTO worker(id, tier, device, version, state, started_ms, heartbeat_ms)
            VALUES(:id, :tier, :device, :version, :state, {NOW}, {NOW})
            ON CONFLICT(id) DO UPDATE SET tier = excluded.tier, device = excluded.device,
                version = excluded.version, state = excluded.state, heartbeat_ms = excluded.heartbeat_ms""",
        {"id": worker, "tier": tier, "device": device, "version": version, "state": state},
    )


def note_fault(connection: Connection, *, worker: str, fault: str | None) -> None:
    """Write why a worker gave its work back, or that it is well; see `Repository.note_fault`."""
    run(
        connection,
        """UPDATE worker SET fault_ms = CASE WHEN CAST(:fault AS text) IS NULL THEN NULL ELSE {NOW} END,
            fault = CAST(:fault AS text)
            WHERE id = :id AND (fault IS NOT NULL OR CAST(:fault AS text) IS NOT NULL)""",
        {"id": worker, "fault": fault},
    )


def has_old_work(connection: Connection, *, tier: str, seconds: float) -> bool:
    """Whether work that was sent waits for so long; see `Repository.has_old_work`."""
    found = run(
        connection,
        """SELECT 1 FROM microbatch m WHERE m.tier = :tier AND m.state = 'sent'
            AND m.created_ms < {NOW} - :age AND NOT EXISTS (
                SELECT 1 FROM job j JOIN attempt a ON a.job_id = j.id AND a.microbatch_id = m.id
                WHERE j.microbatch_id = m.id AND a.ended_ms >= {NOW} - :age) LIMIT 1""",
        {"tier": tier, "age": round(seconds * 1000)},
    ).scalar()
    return found is not None


def progress(connection: Connection, microbatch_id: str) -> tuple[int, int]:
    """Count a microbatch's jobs that have their outcome, and all of them; see `Repository.progress`."""
    row = run(
        connection,
        """SELECT count(CASE WHEN state = 'done' THEN 1 END) AS done, count(*) AS jobs
            FROM job WHERE microbatch_id = :id""",
        {"id": microbatch_id},
    ).one()
    return row.done, row.jobs


def live_workers(connection: Connection, *, within_seconds: float) -> Mapping[str, int]:
    """Count the workers of each tier that were heard of lately; see `Repository.live_workers`."""
    rows = run(
        connection,
        """SELECT tier, count(*) AS workers FROM worker
            WHERE state IN ('idle', 'busy') AND heartbeat_ms >= {NOW} - :within GROUP BY tier""",
        {"within": round(within_seconds * 1000)},
    ).all()
    return {row.tier: row.workers for row in rows}


def mark_lost(connection: Connection, *, silence_seconds: float) -> int:
    """Mark silent workers lost, and those silent while draining stopped; return the number of lost ones."""
    silence = {"silence": round(silence_seconds * 1000)}
    run(
        connection,
        "UPDATE worker SET state = 'stopped' WHERE state = 'draining' AND heartbeat_ms < {NOW} - :silence",
        silence,
    )
    lost = run(
        connection,
        """UPDATE worker SET state = 'lost'
            WHERE state IN ('idle', 'busy') AND heartbeat_ms < {NOW} - :silence""",
        silence,
    )
    return lost.rowcount
