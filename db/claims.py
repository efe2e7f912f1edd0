"""A worker's side: claim, renew, record, finish, release. Compare-and-set on fence and lease.

Every write begins with the hold: an UPDATE of the microbatch row that checks the fence and renews the lease;
no row means that a newer claim exists. A claim never takes over an expired lease: only `db.sweeping` does.
Leases are counted by the database's clock. It knows neither what a picture is nor what it costs.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from db import calls
from db.closing import (
    OF_MICROBATCH,
    Held,
    cancel_jobs,
    close_jobs,
    end_claim,
    held,
    release_rest,
    unfinished,
)
from db.dialects import pack_ids, run
from routet2i.contracts import Claim, ClaimedJob, JobOutcome
from routet2i.errors import RouteT2IError


def claim(
    connection: Connection, microbatch_id: str, *, tier: str, worker: str, lease_seconds: float
) -> Claim | None:
    """Take a microbatch by id; see `Repository.claim`."""
    return _claim(
        connection,
        "id = :id AND tier = :tier AND state IN ('ready', 'sent')",
        microbatch_id=microbatch_id,
        tier=tier,
        worker=worker,
        lease_seconds=lease_seconds,
    )


def poll(connection: Connection, *, tier: str, worker: str, lease_seconds: float) -> Claim | None:
    """Take the oldest ready microbatch of a tier; see `Repository.poll`."""
    return _claim(
        connection,
        """id = (SELECT id FROM microbatch WHERE tier = :tier AND state = 'ready'
                 ORDER BY id LIMIT 1 {SKIP_LOCKED})""",
        microbatch_id=None,
        tier=tier,
        worker=worker,
        lease_seconds=lease_seconds,
    )


def _claim(
    connection: Connection,
    which: str,
    *,
    microbatch_id: str | None,
    tier: str,
    worker: str,
    lease_seconds: float,
) -> Claim | None:
    chosen = {} if microbatch_id is None else {"id": microbatch_id}
    taken = run(
        connection,
        f"""UPDATE microbatch SET state = 'claimed', fence = fence + 1, lease_until_ms = {{NOW}} + :lease,
                worker_id = :worker
            WHERE {which} RETURNING id, batch_id, fence, width, height""",  # noqa: S608 - two texts of this module
        chosen | {"tier": tier, "worker": worker, "lease": _ms(lease_seconds)},
    ).one_or_none()
    if taken is None:
        return None
    run(
        connection,
        """INSERT INTO attempt(job_id, microbatch_id, fence, worker_id, started_ms)
            SELECT id, CAST(:id AS text), CAST(:fence AS integer), CAST(:worker AS text), {NOW} FROM job
            WHERE microbatch_id = :id AND state = 'assigned' AND cancel_requested = 0""",
        {"id": taken.id, "fence": taken.fence, "worker": worker},
    )
    jobs = run(
        connection,
        """SELECT j.id, j.prompt, j.negative_prompt, j.seed, j.n, a.micro_usd
            FROM job j JOIN assignment a ON a.job_id = j.id
            WHERE j.microbatch_id = :id AND j.state = 'assigned' AND j.cancel_requested = 0 ORDER BY j.seq""",
        {"id": taken.id},
    ).all()
    return Claim(
        microbatch_id=taken.id,
        batch_id=taken.batch_id,
        tier=tier,
        fence=taken.fence,
        worker=worker,
        lease_seconds=lease_seconds,
        width=taken.width,
        height=taken.height,
        jobs=tuple(
            ClaimedJob(
                job_id=row.id,
                prompt=row.prompt,
                negative_prompt=row.negative_prompt,
                seed=row.seed,
                n=row.n,
                micro_usd=row.micro_usd,
            )
            for row in jobs
        ),
    )


def stands(connection: Connection, claim: Claim | None) -> bool:
    """Whether a claim whose commit got no answer was made; nothing to claim is nothing to look for."""
    if claim is None:
        return True
    row = run(
        connection,
        "SELECT fence, worker_id FROM microbatch WHERE id = :id",
        {"id": claim.microbatch_id},
    ).one()
    return (row.fence, row.worker_id) == (claim.fence, claim.worker)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def hold(connection: Connection, claim: Claim) -> Held | None:
    """Lock the claim's microbatch and renew its lease; None if a newer claim exists or it is closed."""
    row = run(
        connection,
        f"""UPDATE microbatch SET lease_until_ms = {{NOW}} + :lease
            WHERE id = :id AND fence = :fence AND state = 'claimed'
            RETURNING {OF_MICROBATCH}""",  # noqa: S608 - a constant
        {"id": claim.microbatch_id, "fence": claim.fence, "lease": _ms(claim.lease_seconds)},
    ).one_or_none()
    return None if row is None else held(claim.microbatch_id, row, fence=claim.fence)


def asked_to_cancel(connection: Connection, claim: Claim) -> frozenset[str]:
    """Return the unfinished jobs of a claim that somebody asked to cancel."""
    return frozenset(
        run(
            connection,
            """SELECT id FROM job
                WHERE microbatch_id = :id AND state = 'assigned' AND cancel_requested = 1""",
            {"id": claim.microbatch_id},
        ).scalars()
    )


def record(connection: Connection, claim: Claim, outcomes: Sequence[JobOutcome]) -> bool:
    """Write what became of some jobs; see `Repository.record`."""
    microbatch = hold(connection, claim)
    if microbatch is None:
        return _recorded(connection, claim, outcomes)
    reserved = {job.job_id: job.micro_usd for job in claim.jobs}
    close_jobs(connection, outcomes, microbatch=microbatch, reserved=reserved)
    return True


def _recorded(connection: Connection, claim: Claim, outcomes: Sequence[JobOutcome]) -> bool:
    """Whether an earlier, uncertain commit of the same claim has written all of it."""
    written = run(
        connection,
        """SELECT count(*) FROM outcome
            WHERE job_id IN {IDS} AND microbatch_id = :id AND fence = :fence""",
        {
            "ids": pack_ids(outcome.job_id for outcome in outcomes),
            "id": claim.microbatch_id,
            "fence": claim.fence,
        },
    ).scalar_one()
    return bool(written == len(outcomes))


def finish(connection: Connection, claim: Claim) -> bool:
    """Close a microbatch; see `Repository.finish`."""
    microbatch = hold(connection, claim)
    if microbatch is None:
        return _finished(connection, claim)
    left = unfinished(connection, claim.microbatch_id)
    if wanted := [job.id for job in left if not job.cancel_requested]:
        raise RouteT2IError(
            f"microbatch {claim.microbatch_id} cannot be finished: {len(wanted)} jobs have no outcome, "
            f"the first is {wanted[0]}; record them, or release the claim"
        )
    cancel_jobs(connection, left, microbatch=microbatch)
    close(connection, microbatch, state="done")
    return True


def _finished(connection: Connection, claim: Claim) -> bool:
    """Whether an earlier, uncertain commit of the same claim has closed the microbatch."""
    state = run(
        connection,
        "SELECT state FROM microbatch WHERE id = :id AND fence = :fence",
        {"id": claim.microbatch_id, "fence": claim.fence},
    ).scalar()
    return bool(state == "done")


def close(connection: Connection, microbatch: Held, *, state: str) -> None:
    """Make a locked microbatch final and release what it still holds."""
    run(
        connection,
        """UPDATE microbatch SET state = :state, lease_until_ms = NULL, closed_ms = {NOW} WHERE id = :id""",
        {"id": microbatch.microbatch_id, "state": state},
    )
    release_rest(connection, microbatch)


def release(connection: Connection, claim: Claim, *, reason: str) -> bool:
    """Give a microbatch back; see `Repository.release`."""
    microbatch = hold(connection, claim)
    if microbatch is None:
        return False
    calls.doubt_open(connection, claim.microbatch_id, error=f"the worker gave up: {reason}")
    left = unfinished(connection, claim.microbatch_id)
    asked = [job for job in left if job.cancel_requested]
    cancel_jobs(connection, asked, microbatch=microbatch)
    end_claim(connection, claim.microbatch_id, fence=claim.fence, error_class="released", error=reason)
    if len(asked) == len(left):
        close(connection, microbatch, state="done")
    else:
        give_back(connection, claim.microbatch_id)
    return True


def report_cut_off(connection: Connection, claim: Claim) -> bool:
    """Give a claim back, or take back the death of its end; see `Repository.report_cut_off`."""
    if release(connection, claim, reason="lost database"):
        return True
    # a split one's death was handed down to its jobs; a higher fence: it is taken back once
    taken_back = run(
        connection,
        """UPDATE microbatch SET deaths = deaths - 1, fence = fence + 1 WHERE id IN (
            SELECT m.id FROM microbatch m WHERE m.state IN ('ready', 'sent') AND m.deaths > 0
            AND (m.id = :id AND m.fence = :fence + 1 OR m.parent_id = :id AND m.fence = 0)
            AND EXISTS (SELECT 1 FROM attempt a WHERE a.microbatch_id = :id AND a.fence = :fence
                AND a.error_class = 'lease_expired')
            ORDER BY m.id {LOCK})""",
        {"id": claim.microbatch_id, "fence": claim.fence},
    )
    return taken_back.rowcount > 0


def give_back(connection: Connection, microbatch_id: str) -> None:
    """Make a locked, claimed microbatch ready for the next claim; its old fence is void."""
    run(
        connection,
        """UPDATE microbatch SET state = 'ready', fence = fence + 1, lease_until_ms = NULL WHERE id = :id""",
        {"id": microbatch_id},
    )
