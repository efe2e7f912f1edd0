"""What comes back by itself: lost messages, dead workers' claims, poison, forgotten money.

The only module that ends another worker's claim. It counts deaths, not deliveries, so that an outage of the
broker condemns nobody. Two sweepers at once are harmless: each step is a compare-and-set of its own.
It knows no broker and no process: silence is all it sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Row

from db import calls
from db.claims import close, give_back
from db.closing import OF_MICROBATCH, Held, cancel_jobs, close_jobs, end_claim, held, release_rest, unfinished
from db.dialects import run
from routet2i import failpoints
from routet2i.contracts import JobOutcome, JobState, SweepReport, new_id

LONGEST_RESEND_MS = 300_000  # the pause before a resend doubles up to five minutes
DEATHS_BEFORE_SPLIT = 2  # one death happens in any rollout; two point at a job, so each goes on alone


# Whether an ended claim (a microbatch) counts no death: its worker was draining, or nobody had a database.
SPARED = """(:innocent = 1 OR EXISTS (
    SELECT 1 FROM worker w WHERE w.id = worker_id AND w.state IN ('draining', 'stopped')))"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expired:
    """What became of one claim whose lease had ended."""

    split: bool = False
    poisoned: int = 0  # jobs
    cancelled: int = 0  # jobs


def resend(connection: Connection, *, resend_seconds: float, silence_seconds: float) -> int:
    """Make microbatches ready again that were sent long ago and never claimed; return how many.

    The pause doubles with each message, for a long queue is no loss. But where a worker of the tier is idle,
    nothing waits in the queue; and where one draws what was sent a pause later, the queue has come past it:
    the broker hands messages out in their order. What was sent before that is lost. What was sent in the
    future was sent before the database's clock went back.

    Args:
        silence_seconds: a worker that has been heard of within it is there.
    """
    pause = round(resend_seconds * 1000)
    return run(
        connection,
        """UPDATE microbatch SET state = 'ready' WHERE state = 'sent' AND id IN (
            SELECT id FROM microbatch WHERE state = 'sent'
            AND (sent_at_ms > {NOW} + :pause OR sent_at_ms <= {NOW} - CASE
            WHEN EXISTS (SELECT 1 FROM worker w WHERE w.tier = microbatch.tier AND w.state = 'idle'
                AND w.heartbeat_ms >= {NOW} - :silence)
                OR EXISTS (SELECT 1 FROM microbatch c WHERE c.tier = microbatch.tier AND c.state = 'claimed'
                AND c.sent_at_ms > microbatch.sent_at_ms + CAST(:pause AS bigint))
                THEN CAST(:pause AS bigint)
            WHEN deliveries > 16 OR CAST(:pause AS bigint) * (1 << (deliveries - 1)) > :longest THEN :longest
            ELSE CAST(:pause AS bigint) * (1 << (deliveries - 1)) END)
            ORDER BY id {SKIP_LOCKED})""",
        {
            "pause": pause,
            "longest": max(pause, LONGEST_RESEND_MS),
            "silence": round(silence_seconds * 1000),
        },
    ).rowcount


def clock_went_back(connection: Connection, *, silence_seconds: float) -> bool:
    """Whether a worker was heard of in the future: before the database's clock went back."""
    found = run(
        connection,
        "SELECT 1 FROM worker WHERE heartbeat_ms > {NOW} + :silence LIMIT 1",
        {"silence": round(silence_seconds * 1000)},
    ).scalar()
    return found is not None


def follow_clock(connection: Connection, *, silence_seconds: float) -> int:
    """Set back what dead workers left in the future, by as much as their last sign of life lies in it.

    The claim of one that lives is not harmed: it keeps what it had left, and is renewed. Without this a dead
    worker's claim would last as long as the clock went back.

    Returns:
        Claims whose lease was shortened.
    """
    silence = {"silence": round(silence_seconds * 1000)}
    shortened = run(
        connection,
        """UPDATE microbatch SET lease_until_ms = lease_until_ms
                - (SELECT w.heartbeat_ms - {NOW} FROM worker w WHERE w.id = worker_id)
            WHERE state = 'claimed' AND id IN (
                SELECT m.id FROM microbatch m WHERE m.state = 'claimed' AND EXISTS (
                    SELECT 1 FROM worker w WHERE w.id = m.worker_id
                    AND w.heartbeat_ms > {NOW} + :silence AND m.lease_until_ms >= w.heartbeat_ms)
                ORDER BY m.id {SKIP_LOCKED})
            AND EXISTS (SELECT 1 FROM worker w WHERE w.id = worker_id AND w.heartbeat_ms > {NOW})""",
        silence,
    ).rowcount
    run(
        connection,
        """UPDATE worker SET heartbeat_ms = {NOW} WHERE id IN (
            SELECT id FROM worker WHERE heartbeat_ms > {NOW} + :silence ORDER BY id {SKIP_LOCKED})""",
        silence,
    )
    return shortened


def expired_claims(connection: Connection) -> Sequence[str]:
    """Return the microbatches whose lease has ended."""
    return (
        run(
            connection,
            "SELECT id FROM microbatch WHERE state = 'claimed' AND lease_until_ms < {NOW} ORDER BY id",
        )
        .scalars()
        .all()
    )


def expire(
    connection: Connection, microbatch_id: str, *, max_deaths: int, innocent: bool = False
) -> Expired | None:
    """End one claim whose lease has ended and decide what comes next; None if somebody else did.

    A worker that was draining did not die, nor did one whose database was away (`innocent`).
    No unfinished job: done. One, after `max_deaths`: dead, the job failed as poison. Fewer than two deaths:
    ready. Several jobs: split into one microbatch per job, which inherit the deaths. Else ready.
    """
    # a cancellation holds the batch alone: it has locked microbatches, and no job may go on to another one
    run(
        connection,
        "SELECT 1 FROM batch WHERE id = (SELECT batch_id FROM microbatch WHERE id = :id) {SHARE}",
        {"id": microbatch_id},
    )
    row = run(
        connection,
        f"""UPDATE microbatch SET lease_until_ms = {{NOW}},
                deaths = deaths + CASE WHEN {SPARED} THEN 0 ELSE 1 END
            WHERE id = :id AND state = 'claimed' AND lease_until_ms < {{NOW}}
            RETURNING {OF_MICROBATCH}, deaths, {SPARED} AS spared""",  # noqa: S608 - constants
        {"id": microbatch_id, "innocent": int(innocent)},
    ).one_or_none()
    if row is None:
        return None
    microbatch = held(microbatch_id, row, fence=row.fence)
    calls.doubt_open(connection, microbatch_id, error="the worker fell silent")
    left = unfinished(connection, microbatch_id)
    asked = [job for job in left if job.cancel_requested]
    left = [job for job in left if not job.cancel_requested]
    cancelled = cancel_jobs(connection, asked, microbatch=microbatch)
    poison = len(left) == 1 and row.deaths >= max_deaths
    if poison:
        _fail(connection, left[0], microbatch=microbatch, deaths=row.deaths)
    end_claim(
        connection,
        microbatch_id,
        fence=row.fence,
        error_class="interrupted" if row.spared else "lease_expired",
        error="the worker fell silent",
    )
    if not left or poison:
        close(connection, microbatch, state="dead" if poison else "done")
    elif row.deaths < DEATHS_BEFORE_SPLIT or len(left) == 1:
        give_back(connection, microbatch_id)
    else:
        _split(connection, left, microbatch=microbatch)
        return Expired(split=True, cancelled=cancelled)
    return Expired(poisoned=int(poison), cancelled=cancelled)


def _fail(connection: Connection, job: Row[Any], *, microbatch: Held, deaths: int) -> None:
    outcome = JobOutcome(
        job_id=job.id,
        state=JobState.FAILED,
        micro_usd=0,
        error_class="poison",
        error=f"{deaths} workers died with this job",
    )
    close_jobs(connection, [outcome], microbatch=microbatch, reserved={job.id: job.micro_usd})


def _split(connection: Connection, jobs: Sequence[Row[Any]], *, microbatch: Held) -> None:
    """Divide a locked microbatch into one per job; each takes what its job has left of the reservation."""
    drawn = calls.drawn(connection, [job.id for job in jobs])
    left = {job.id: job.micro_usd - drawn.get(job.id, 0) for job in jobs}
    children = [{"id": new_id(), "job_id": job.id, "reserved": left[job.id]} for job in jobs]
    parent = {"parent_id": microbatch.microbatch_id}
    run(
        connection,
        """INSERT INTO microbatch(id, batch_id, window_id, tier, width, height, state, fence, deliveries,
                                  deaths, reserved_left, parent_id, created_ms)
            SELECT CAST(:id AS text), batch_id, window_id, tier, width, height, 'ready', 0, 0, deaths,
                   CAST(:reserved AS bigint), id, {NOW}
            FROM microbatch WHERE id = :parent_id""",
        [{"id": child["id"], "reserved": child["reserved"]} | parent for child in children],
    )
    run(
        connection,
        "UPDATE job SET microbatch_id = :id WHERE id = :job_id",
        [{"id": child["id"], "job_id": child["job_id"]} for child in children],
    )
    run(
        connection,
        "UPDATE microbatch SET reserved_left = reserved_left - :divided WHERE id = :parent_id",
        parent | {"divided": sum(left.values())},
    )
    failpoints.reach("mid_split")
    close(connection, microbatch, state="split")


def forgotten(connection: Connection) -> Sequence[str]:
    """Return final microbatches that still hold money: none, unless a bug or a hand left them so."""
    return (
        run(
            connection,
            """SELECT id FROM microbatch
                WHERE reserved_left > 0 AND state IN ('done', 'split', 'dead', 'cancelled') ORDER BY id""",
        )
        .scalars()
        .all()
    )


def release_forgotten(connection: Connection, microbatch_id: str) -> bool:
    """Release what a final microbatch still holds; False if somebody else did."""
    row = run(
        connection,
        f"SELECT {OF_MICROBATCH} FROM microbatch WHERE id = :id {{LOCK}}",  # noqa: S608 - a constant
        {"id": microbatch_id},
    ).one()
    return release_rest(connection, held(microbatch_id, row, fence=None))


def count(connection: Connection, *, report: SweepReport) -> None:
    """Add what a sweep found to what all have found; a sweeper that dies before has found it uncounted."""
    found = {one.name: getattr(report, one.name) for one in fields(report)}
    run(
        connection,
        """INSERT INTO sweep_finding(finding, total) VALUES(:finding, :number)
            ON CONFLICT(finding) DO UPDATE SET total = sweep_finding.total + excluded.total""",
        [{"finding": name, "number": number} for name, number in sorted(found.items()) if number],
    )
