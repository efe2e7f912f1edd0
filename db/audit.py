"""Read-only questions behind `status`, `results`, `audit` and the report.

It changes nothing and decides nothing. Rows come from the view `job_audit` (`db/migrations`), one job's story
from `db.story`, broken promises from `db.invariants`. Money is micro-USD, except the view's `cost_*_usd`.
"""

from collections import defaultdict
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, Row

from db.dialects import run
from db.invariants import Violation, check_invariants
from db.session import reading
from db.story import AttemptStory, JobStory, LedgerLine, PictureStory, at, job_story, moment
from routet2i.contracts import SHADOW_CLIENT, JobState, Rejection
from routet2i.errors import NotFound

__all__ = [
    "AttemptStory",
    "BatchStatus",
    "JobStory",
    "LedgerLine",
    "PictureStory",
    "Violation",
    "WindowStory",
    "batch_status",
    "batches",
    "check_invariants",
    "job_story",
    "mean_scores",
    "rejections",
    "renewed",
    "rows",
    "windows",
]

FETCHED = 1_000  # rows read at a time: a batch of any size in the same memory


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchStatus:
    """Where one batch stands."""

    batch_id: str
    name: str
    client: str
    state: str  # ingesting, open, cancelled
    n_accepted: int
    n_rejected: int
    by_state: Mapping[JobState, int]  # jobs; all six states, zero where there is none
    by_tier: Mapping[str, int]  # jobs assigned so far
    device_seconds: Mapping[str, float]  # tier -> time its devices spent on finished jobs
    limit_micro_usd: int | None  # None = unlimited
    reserved_micro_usd: int
    spent_micro_usd: int
    complete: bool  # intake has ended and every accepted job has its outcome
    created_at: datetime
    finished_at: datetime | None  # the last outcome's time, once complete


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowStory:
    """One decision round, as far as one batch is concerned."""

    window_id: str
    committed_at: datetime
    policy: str
    predictor_name: str
    predictor_version: str
    jobs: int  # of this batch
    by_tier: Mapping[str, int]  # jobs
    reserved_micro_usd: int
    available_micro_usd: int | None  # what the window could spend on all its batches; None = unlimited
    threshold: float  # below it a job went to the cloud
    solve_us: int  # microseconds


def batches(engine: Engine, *, limit: int) -> list[BatchStatus]:
    """Return the users' newest batches, newest first; batches of shadows are left out."""
    with reading(engine) as connection:
        ids = (
            run(
                connection,
                """SELECT id FROM batch WHERE client <> :shadow
                    ORDER BY created_ms DESC, id DESC LIMIT :limit""",
                {"limit": limit, "shadow": SHADOW_CLIENT},
            )
            .scalars()
            .all()
        )
        return [_batch_status(connection, batch_id) for batch_id in ids]


def batch_status(engine: Engine, batch_id: str) -> BatchStatus:
    """Return where a batch stands.

    Raises:
        NotFound: no batch has this id.
    """
    with reading(engine) as connection:
        return _batch_status(connection, batch_id)


def renewed(engine: Engine, status: BatchStatus) -> BatchStatus:
    """Return where a complete batch stands now: its money is read anew, its jobs only if it has others.

    Raises:
        NotFound: the batch is gone.
    """
    with reading(engine) as connection:
        batch = _batch(connection, status.batch_id)
        counted = status.state, status.n_accepted, status.n_rejected
        if not status.complete or (batch.state, batch.n_accepted, batch.n_rejected) != counted:
            return _batch_status(connection, status.batch_id)
    return replace(
        status,
        limit_micro_usd=batch.lim,
        reserved_micro_usd=batch.reserved,
        spent_micro_usd=batch.spent,
    )


def _batch(connection: Connection, batch_id: str) -> Row[Any]:
    batch = run(
        connection,
        """SELECT b.*, m.lim, m.reserved, m.spent FROM batch b
            JOIN budget m ON m.id = 'batch:' || b.id AND m.period = 'total' WHERE b.id = :id""",
        {"id": batch_id},
    ).one_or_none()
    if batch is None:
        raise NotFound(f"no batch {batch_id}")
    return batch


def _batch_status(connection: Connection, batch_id: str) -> BatchStatus:
    batch = _batch(connection, batch_id)
    by_state = dict.fromkeys(JobState, 0)
    by_tier: dict[str, int] = defaultdict(int)
    device_seconds: dict[str, float] = defaultdict(float)
    last_ms = 0
    for row in run(
        connection,
        """SELECT CASE WHEN o.state IS NOT NULL THEN o.state
                       WHEN j.state = 'assigned' AND m.state = 'claimed' THEN 'running'
                       ELSE j.state END AS shown, m.tier, count(*) AS jobs, max(o.at_ms) AS last_ms,
                       sum(o.seconds) AS seconds
            FROM job j LEFT JOIN outcome o ON o.job_id = j.id LEFT JOIN microbatch m ON m.id = j.microbatch_id
            WHERE j.batch_id = :id GROUP BY 1, 2 ORDER BY 2""",
        {"id": batch_id},
    ):
        by_state[JobState(row.shown)] += row.jobs
        last_ms = max(last_ms, row.last_ms or 0)
        if row.tier is not None:
            by_tier[row.tier] += row.jobs
            device_seconds[row.tier] += row.seconds or 0.0
    final = sum(jobs for state, jobs in by_state.items() if state.is_final)
    complete = batch.state != "ingesting" and final == batch.n_accepted
    return BatchStatus(
        batch_id=batch.id,
        name=batch.name,
        client=batch.client,
        state=batch.state,
        n_accepted=batch.n_accepted,
        n_rejected=batch.n_rejected,
        by_state=by_state,
        by_tier=dict(by_tier),
        device_seconds=dict(device_seconds),
        limit_micro_usd=batch.lim,
        reserved_micro_usd=batch.reserved,
        spent_micro_usd=batch.spent,
        complete=complete,
        created_at=at(batch.created_ms),
        finished_at=moment(last_ms or batch.created_ms) if complete else None,
    )


def rows(
    engine: Engine,
    *,
    batch_id: str | None = None,
    job_id: str | None = None,
    state: JobState | None = None,
    tier: str | None = None,
    numbered: bool = False,
) -> Generator[dict[str, Any]]:
    """Yield rows of the view `job_audit` in file order, a job's pictures by index; filters are joined by AND.

    The database is read while rows are taken: close the iterator, or take them all.

    Args:
        numbered: begin each row with `line_no`, the job's line in its file.
    """
    filters = {"batch_id": batch_id, "job_id": job_id, "state": state and state.value, "tier": tier}
    chosen = {column: value for column, value in filters.items() if value is not None}
    where = " AND ".join(f"v.{column} = :{column}" for column in chosen) or "1 = 1"
    with (
        reading(engine) as connection,
        run(
            connection.execution_options(yield_per=FETCHED),
            f"""SELECT {"j.seq AS line_no, " if numbered else ""}v.*
                FROM job_audit v JOIN job j ON j.id = v.job_id
                WHERE {where} ORDER BY j.batch_id, j.seq, v.seed""",  # noqa: S608 - names of this module
            chosen,
        ) as result,
    ):
        for row in result.mappings():
            yield dict(row)


def rejections(engine: Engine, batch_id: str) -> list[Rejection]:
    """Return the lines of a batch's file that did not become jobs, in file order."""
    with reading(engine) as connection:
        found = run(
            connection,
            """SELECT line_no, reason, remedy, raw_sha256, custom_id, code FROM rejected
                WHERE batch_id = :id ORDER BY line_no""",
            {"id": batch_id},
        )
        return [Rejection(**row) for row in found.mappings()]


def windows(engine: Engine, batch_id: str) -> list[WindowStory]:
    """Return the decision rounds that assigned jobs of a batch, oldest first."""
    with reading(engine) as connection:
        found = run(
            connection,
            """SELECT w.id, w.committed_ms, w.policy, w.predictor_name, w.predictor_version,
                      w.available_micro_usd, w.solve_us, a.tier, count(*) AS jobs,
                      sum(a.micro_usd) AS reserved, max(a.threshold) AS threshold
                FROM job j JOIN assignment a ON a.job_id = j.id JOIN decision_window w ON w.id = a.window_id
                WHERE j.batch_id = :id
                GROUP BY w.id, w.committed_ms, w.policy, w.predictor_name, w.predictor_version,
                         w.available_micro_usd, w.solve_us, a.tier
                ORDER BY w.committed_ms, w.id, a.tier""",
            {"id": batch_id},
        ).all()
    by_window: dict[str, list[Any]] = defaultdict(list)
    for row in found:
        by_window[row.id].append(row)
    return [
        WindowStory(
            window_id=window_id,
            committed_at=at(tiers[0].committed_ms),
            policy=tiers[0].policy,
            predictor_name=tiers[0].predictor_name,
            predictor_version=tiers[0].predictor_version,
            jobs=sum(row.jobs for row in tiers),
            by_tier={row.tier: row.jobs for row in tiers},
            reserved_micro_usd=int(sum(row.reserved for row in tiers)),
            available_micro_usd=tiers[0].available_micro_usd,
            threshold=max(row.threshold for row in tiers),
            solve_us=tiers[0].solve_us,
        )
        for window_id, tiers in by_window.items()
    ]


def mean_scores(engine: Engine, batch_id: str) -> dict[str, dict[str, float]]:
    """Return tier -> metric -> mean of the measured scores of a batch's pictures, [0, 1]."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    with reading(engine) as connection:
        pictures = run(
            connection.execution_options(yield_per=FETCHED),
            """SELECT o.tier, p.scores FROM job j JOIN outcome o ON o.job_id = j.id
                JOIN picture p ON p.job_id = j.id WHERE j.batch_id = :id ORDER BY o.tier, j.seq, p.idx""",
            {"id": batch_id},
        )
        for row in pictures:
            for metric, value in orjson.loads(row.scores).items():
                sums[row.tier][metric] += value
                counts[row.tier][metric] += 1
    return {
        tier: {metric: total / counts[tier][metric] for metric, total in metrics.items()}
        for tier, metrics in sums.items()
    }
