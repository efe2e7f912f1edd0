"""A job's one end: the gate, the outcome, its pictures, its attempt's end and its money, in one stroke.

Every way to finish an assigned job comes through here: a worker's record, a cancellation, poison. The caller
has locked the microbatch row (lock order: microbatch, job, outcome, budget, ledger). It knows no lease.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from db import calls, ledger
from db.calls import Bill
from db.dialects import pack_ids, run
from db.ledger import Account
from routet2i.contracts import JobOutcome, JobState

# Columns that `held` wants returned. What a microbatch draws on is what its reservation was posted to; one
# that was split from another draws on that one's.
OF_MICROBATCH = """tier, fence, (
    SELECT CAST({ROWS}({ROW}(l.budget_id, l.period)) AS text) FROM ledger l
    WHERE l.event_id = 'reserve:' || COALESCE(microbatch.parent_id, microbatch.id)) AS accounts"""


_NO_BILL = Bill(drawn=0, cost=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A microbatch whose row this transaction has locked."""

    microbatch_id: str
    tier: str
    fence: int | None  # of the claim in whose name jobs are closed; None = no claim
    accounts: tuple[Account, ...]  # that its money is reserved in


def held(microbatch_id: str, row: Row[Any], *, fence: int | None) -> Held:
    """Return the locked microbatch from a row that has `OF_MICROBATCH`."""
    accounts = orjson.loads(row.accounts or "[]")  # PostgreSQL has no list of nothing
    return Held(
        microbatch_id=microbatch_id,
        tier=row.tier,
        fence=fence,
        accounts=tuple(Account(budget_id=budget_id, period=period) for budget_id, period in accounts),
    )


def unfinished(connection: Connection, microbatch_id: str) -> Sequence[Row[Any]]:
    """Return `id, cancel_requested, micro_usd` of the jobs without an outcome, in file order."""
    return run(
        connection,
        """SELECT j.id, j.cancel_requested, a.micro_usd FROM job j JOIN assignment a ON a.job_id = j.id
            WHERE j.microbatch_id = :id AND j.state = 'assigned' ORDER BY j.seq""",
        {"id": microbatch_id},
    ).all()


def close_jobs(
    connection: Connection,
    outcomes: Sequence[JobOutcome],
    *,
    microbatch: Held,
    reserved: Mapping[str, int],
) -> int:
    """Give each job its outcome, unless it has one; return how many got theirs now.

    Args:
        reserved: job id -> micro-USD that its assignment reserved; what neither its paid calls have drawn nor
            its outcome charges is released. What the calls have cost is added to the outcome's charge.
    Raises:
        ValueError: an outcome charges more than was reserved for its job.
    """
    won = _pass_gate(connection, [outcome.job_id for outcome in outcomes], microbatch=microbatch)
    outcomes = [outcome for outcome in outcomes if outcome.job_id in won]
    if not outcomes:
        return 0
    buyers = [job_id for job_id, buys in won.items() if buys]
    bills = calls.close_open(connection, buyers, accounts=microbatch.accounts) if buyers else {}
    reserved = {o.job_id: reserved[o.job_id] - bills.get(o.job_id, _NO_BILL).drawn for o in outcomes}
    for outcome in outcomes:
        if not 0 <= outcome.micro_usd <= reserved[outcome.job_id]:
            raise ValueError(
                f"job {outcome.job_id} charges {outcome.micro_usd} micro-USD, "
                f"but {reserved[outcome.job_id]} were reserved for it"
            )
    _insert_outcomes(connection, outcomes, microbatch=microbatch, bills=bills)
    if microbatch.fence is not None:
        _end_attempts(connection, outcomes, microbatch=microbatch)
    used = sum(reserved[outcome.job_id] for outcome in outcomes)
    run(
        connection,
        "UPDATE microbatch SET reserved_left = reserved_left - :used WHERE id = :id",
        {"id": microbatch.microbatch_id, "used": used},
    )
    movements = [ledger.settled(o.job_id, micro_usd=o.micro_usd) for o in outcomes]
    movements += [ledger.released(o.job_id, micro_usd=reserved[o.job_id] - o.micro_usd) for o in outcomes]
    ledger.post(connection, movements, accounts=microbatch.accounts)
    return len(outcomes)


def cancel_jobs(connection: Connection, jobs: Iterable[Row[Any]], *, microbatch: Held) -> int:
    """Close jobs (rows of `unfinished`) as cancelled; return how many."""
    jobs = list(jobs)
    outcomes = [cancelled(job.id) for job in jobs]
    return close_jobs(
        connection, outcomes, microbatch=microbatch, reserved={job.id: job.micro_usd for job in jobs}
    )


def cancelled(job_id: str) -> JobOutcome:
    """Return the outcome of a job that somebody asked to cancel."""
    return JobOutcome(
        job_id=job_id,
        state=JobState.CANCELLED,
        micro_usd=0,
        error_class="cancelled",
        error="cancelled by request",
    )


def release_rest(connection: Connection, microbatch: Held) -> bool:
    """Release what a final microbatch still holds; False if that was nothing."""
    left = run(
        connection,
        "SELECT reserved_left FROM microbatch WHERE id = :id {LOCK}",
        {"id": microbatch.microbatch_id},
    ).scalar_one()
    if left == 0:
        return False
    run(
        connection,
        "UPDATE microbatch SET reserved_left = 0 WHERE id = :id",
        {"id": microbatch.microbatch_id},
    )
    ledger.post(
        connection,
        [ledger.released(microbatch.microbatch_id, micro_usd=left)],
        accounts=microbatch.accounts,
    )
    return True


def _pass_gate(connection: Connection, job_ids: Sequence[str], *, microbatch: Held) -> dict[str, bool]:
    """Return the jobs that nobody has decided before, and whether each has paid calls."""
    rows = run(
        connection,
        """UPDATE job SET state = 'done'
            WHERE id IN {IDS} AND state = 'assigned' AND microbatch_id = :id
            RETURNING id, EXISTS (SELECT 1 FROM call WHERE call.job_id = job.id) AS buys""",
        {"ids": pack_ids(job_ids), "id": microbatch.microbatch_id},
    )
    return {row.id: bool(row.buys) for row in rows}


def _insert_outcomes(
    connection: Connection,
    outcomes: Sequence[JobOutcome],
    *,
    microbatch: Held,
    bills: Mapping[str, Bill],
) -> None:
    run(
        connection,
        """INSERT INTO outcome(job_id, state, tier, microbatch_id, fence, micro_usd, seconds, model_id,
                               model_revision, settings, error_class, error, at_ms)
            VALUES(:job_id, :state, :tier, :microbatch_id, :fence, :micro_usd, :seconds, :model_id,
                   :model_revision, :settings, :error_class, :error, {NOW})""",
        [
            {
                "job_id": outcome.job_id,
                "state": outcome.state.value,
                "tier": microbatch.tier,
                "microbatch_id": microbatch.microbatch_id,
                "fence": microbatch.fence,
                "micro_usd": outcome.micro_usd + bills.get(outcome.job_id, _NO_BILL).cost,
                "seconds": outcome.seconds,
                "model_id": outcome.model_id,
                "model_revision": outcome.model_revision,
                "settings": outcome.settings,
                "error_class": outcome.error_class,
                "error": outcome.error,
            }
            for outcome in outcomes
        ],
    )
    pictures = [
        {
            "job_id": outcome.job_id,
            "idx": picture.index,
            "sha256": picture.sha256,
            "seed": picture.seed,
            "width": picture.width,
            "height": picture.height,
            "scores": orjson.dumps(picture.scores).decode(),
        }
        for outcome in outcomes
        for picture in outcome.pictures
    ]
    if pictures:
        run(
            connection,
            """INSERT INTO picture(job_id, idx, sha256, seed, width, height, scores)
                VALUES(:job_id, :idx, :sha256, :seed, :width, :height, :scores)""",
            pictures,
        )


def _end_attempts(connection: Connection, outcomes: Sequence[JobOutcome], *, microbatch: Held) -> None:
    claim = {"microbatch_id": microbatch.microbatch_id, "fence": microbatch.fence}
    well = [outcome.job_id for outcome in outcomes if outcome.error_class is None]
    if well:
        run(
            connection,
            """UPDATE attempt SET ended_ms = {NOW}
                WHERE job_id IN {IDS} AND microbatch_id = :microbatch_id AND fence = :fence
                AND ended_ms IS NULL""",
            claim | {"ids": pack_ids(well)},
        )
    ill = [outcome for outcome in outcomes if outcome.error_class is not None]
    if ill:
        run(
            connection,
            """UPDATE attempt SET ended_ms = {NOW}, error_class = :error_class, error = :error
                WHERE job_id = :job_id AND microbatch_id = :microbatch_id AND fence = :fence
                AND ended_ms IS NULL""",
            [
                claim
                | {
                    "job_id": outcome.job_id,
                    "error_class": outcome.error_class,
                    "error": outcome.error,
                }
                for outcome in ill
            ],
        )


def end_claim(
    connection: Connection, microbatch_id: str, *, fence: int, error_class: str, error: str
) -> None:
    """End the attempts that a claim leaves open, with the reason."""
    run(
        connection,
        """UPDATE attempt SET ended_ms = {NOW}, error_class = :error_class, error = :error
            WHERE microbatch_id = :microbatch_id AND fence = :fence AND ended_ms IS NULL
            AND job_id IN (SELECT id FROM job WHERE microbatch_id = :microbatch_id)""",
        {
            "microbatch_id": microbatch_id,
            "fence": fence,
            "error_class": error_class,
            "error": error,
        },
    )
