"""Cancellation: final at once where no worker has the job, else asked of the worker.

Lock order: batch (so that no window assigns meanwhile), microbatch, call, job, outcome, budget, ledger,
waiting. The job row is the gate: whoever passes it, a record or a cancellation, decides. It knows neither who
asked nor why.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from db import calls, ledger, waiting
from db.claims import close
from db.closing import OF_MICROBATCH, cancel_jobs, cancelled, held
from db.dialects import pack_ids, run, run_rows
from db.waiting import Queued
from routet2i.contracts import CancelReport, JobState
from routet2i.errors import NotFound


def cancel_batch(connection: Connection, batch_id: str) -> CancelReport:
    """Cancel all of a batch that is not final; see `Repository.cancel_batch`."""
    known = run(
        connection,
        "UPDATE batch SET state = 'cancelled' WHERE id = :id RETURNING n_accepted",
        {"id": batch_id},
    ).one_or_none()
    if known is None:
        raise NotFound(f"no batch {batch_id}")
    microbatches = run(
        connection,
        f"""SELECT id, state, {OF_MICROBATCH} FROM microbatch
            WHERE batch_id = :id AND state IN ('ready', 'sent', 'claimed') ORDER BY id {{LOCK}}""",  # noqa: S608
        {"id": batch_id},
    ).all()
    jobs = run(
        connection,
        """SELECT j.id, j.state, j.microbatch_id, COALESCE(a.micro_usd, 0) AS micro_usd
            FROM job j LEFT JOIN assignment a ON a.job_id = j.id
            WHERE j.batch_id = :id AND j.state <> 'done' ORDER BY j.seq""",
        {"id": batch_id},
    ).all()
    at_once, running = _cancel(connection, jobs, microbatches={row.id: row for row in microbatches})
    return CancelReport(
        cancelled=at_once, running=running, already_final=known.n_accepted - at_once - running
    )


def cancel_job(connection: Connection, job_id: str) -> JobState:
    """Cancel one job and return what it was when asked; see `Repository.cancel_job`."""
    batch_id = run(connection, "SELECT batch_id FROM job WHERE id = :id", {"id": job_id}).scalar()
    if batch_id is None:
        raise NotFound(f"no job {job_id}")
    run(connection, "SELECT 1 FROM batch WHERE id = :id {LOCK}", {"id": batch_id})
    microbatches = run(
        connection,
        f"""SELECT id, state, {OF_MICROBATCH} FROM microbatch
            WHERE id = (SELECT microbatch_id FROM job WHERE id = :id) {{LOCK}}""",  # noqa: S608 - a constant
        {"id": job_id},
    ).all()
    job = run(
        connection,
        """SELECT j.id, j.state, j.microbatch_id, COALESCE(a.micro_usd, 0) AS micro_usd, o.state AS outcome
            FROM job j LEFT JOIN assignment a ON a.job_id = j.id LEFT JOIN outcome o ON o.job_id = j.id
            WHERE j.id = :id""",
        {"id": job_id},
    ).one()
    if job.state == "done":
        return JobState(job.outcome)
    _, running = _cancel(connection, [job], microbatches={row.id: row for row in microbatches})
    return JobState.RUNNING if running else JobState(job.state)


def _cancel(
    connection: Connection, jobs: Sequence[Row[Any]], *, microbatches: Mapping[str, Row[Any]]
) -> tuple[int, int]:
    """Cancel unfinished jobs whose microbatches are locked; return how many at once, how many are running."""
    of_microbatch: dict[str, list[Row[Any]]] = defaultdict(list)
    for job in jobs:
        if job.state == "assigned":
            of_microbatch[job.microbatch_id].append(job)
    unassigned = _cancel_queued(connection, [job.id for job in jobs if job.state == "queued"])
    at_once = len(unassigned)
    running: list[str] = []
    ours = {
        id_: held(id_, microbatches[id_], fence=None)
        for id_ in of_microbatch
        if microbatches[id_].state != "claimed"
    }
    calls.lock_open(connection, [job.id for id_ in ours for job in of_microbatch[id_]])
    # all at once: one by one they could come in another order than a window takes them
    ledger.lock(connection, {account for microbatch in ours.values() for account in microbatch.accounts})
    for microbatch_id, theirs in sorted(of_microbatch.items()):
        if microbatch_id not in ours:
            running += [job.id for job in theirs]
            continue
        microbatch = ours[microbatch_id]
        at_once += cancel_jobs(connection, theirs, microbatch=microbatch)
        alive = run(
            connection,
            "SELECT 1 FROM job WHERE microbatch_id = :id AND state = 'assigned' LIMIT 1",
            {"id": microbatch_id},
        ).scalar()
        if alive is None:
            close(connection, microbatch, state="cancelled")
    run(
        connection,
        "UPDATE job SET cancel_requested = 1 WHERE id IN {IDS} AND state = 'assigned'",
        {"ids": pack_ids(running)},
    )
    waiting.go(connection, unassigned)
    return at_once, len(running)


def _cancel_queued(connection: Connection, job_ids: Sequence[str]) -> list[Queued]:
    """Close jobs that no window has taken, and return them: they have neither a microbatch nor money."""
    won = run(
        connection,
        """UPDATE job SET state = 'done' WHERE id IN {IDS} AND state = 'queued'
            RETURNING id, batch_id, width, height, n, tier""",
        {"ids": pack_ids(job_ids)},
    ).all()
    outcome = cancelled("")
    if won:
        run_rows(
            connection,
            """INSERT INTO outcome(job_id, state, micro_usd, seconds, error_class, error, at_ms)
                SELECT {job_id:text}, 'cancelled', 0, 0, {error_class:text}, {error:text}, {NOW} {EACH}""",
            [{"job_id": row.id, "error_class": outcome.error_class, "error": outcome.error} for row in won],
        )
    return [Queued(row.batch_id, row.width, row.height, row.n, row.tier) for row in won]
