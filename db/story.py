"""One job's story: what was predicted, decided, paid, tried and delivered, from the rows that others wrote.

Read only. It knows how to gather, not how to tell: `routet2i audit JOB` makes sentences of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, Row

from db.dialects import run
from db.session import reading
from routet2i.contracts import JobState
from routet2i.errors import NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptStory:
    """One worker's try."""

    worker: str
    microbatch_id: str
    fence: int
    started_at: datetime  # the claim
    ended_at: datetime | None  # None = running
    error_class: str | None  # None = well, or running
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CallStory:
    """One purchase from a paid provider."""

    call_id: str
    index: int  # of the picture
    state: str  # contracts.CallState
    idem_key: str
    remote_id: str | None
    cost_max_micro_usd: int  # permitted
    cost_micro_usd: int | None  # billed; None = not known, or nothing
    image_sha256: str | None
    error: str | None
    at: datetime  # the permission


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureStory:
    """One picture that came out."""

    index: int
    seed: int
    sha256: str
    image_uri: str | None  # relative to the home: images/ab/cd/<sha256>.png; None = deleted
    deleted_at: datetime | None
    deleted_by: str | None
    scores: Mapping[str, float]  # metric -> measured [0, 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerLine:
    """One movement of money that concerns the job, or the microbatches it travelled in."""

    event_id: str
    budget_id: str
    period: str
    kind: str  # reserve, settle, release
    from_side: str  # available, reserved ... (`db.ledger.Side`)
    to_side: str
    micro_usd: int
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStory:
    """Everything that is known about one job; None where it has not come so far."""

    job_id: str
    batch_id: str
    custom_id: str
    line_no: int
    prompt: str
    negative_prompt: str | None
    n: int
    seed: int
    width: int | None  # pixels asked for
    height: int | None
    state: JobState
    client: str
    submitted_at: datetime
    wanted_until: datetime | None  # its deadline; None = it has none
    defer_reason: str | None  # why the last window left it queued
    requested_tier: str | None  # that had to draw it; None = any
    retry_of: str | None  # the job that it repeats
    retried_by: str | None  # the job that repeats it
    # the decision
    preview_id: str | None  # that made it before the submission; None = the window did
    window_id: str | None
    assigned_at: datetime | None
    policy: str | None
    predictor_name: str | None
    predictor_version: str | None
    available_micro_usd: int | None  # what the window could spend; None = unlimited, or no window yet
    tier: str | None
    reason: str | None
    prs: float | None
    threshold: float | None
    predicted: Mapping[str, Mapping[str, float]]  # tier -> metric -> [0, 1]
    # the money
    reserved_micro_usd: int | None  # when it was assigned
    charged_micro_usd: int | None
    ledger: tuple[LedgerLine, ...]
    # the work
    microbatch_id: str | None
    attempts: tuple[AttemptStory, ...]
    calls: tuple[CallStory, ...]  # to paid providers
    # the end
    finished_at: datetime | None
    seconds: float | None  # of the device
    model_id: str | None
    model_revision: str | None
    settings: str | None  # JSON
    error_class: str | None
    error: str | None
    pictures: tuple[PictureStory, ...]


def moment(ms: int | None) -> datetime | None:
    """Return database milliseconds as an aware UTC time."""
    return None if ms is None else at(ms)


def at(ms: int) -> datetime:
    """Return database milliseconds that are not NULL as an aware UTC time."""
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def image_uri(sha256: str) -> str:
    """Return where a picture lies, relative to the home; the view `job_audit` says the same."""
    return f"images/{sha256[:2]}/{sha256[2:4]}/{sha256}.png"


def job_story(engine: Engine, job_id: str) -> JobStory:
    """Gather one job's story.

    Raises:
        NotFound: no job has this id.
    """
    with reading(engine) as connection:
        row = _job(connection, job_id)
        if row is None:
            raise NotFound(f"no job {job_id}")
        attempts = _attempts(connection, job_id)
        travelled = {attempt.microbatch_id for attempt in attempts}
        calls = _calls(connection, job_id)
        if row.microbatch_id is not None:
            travelled |= _with_parents(connection, row.microbatch_id)
        return JobStory(
            **{name: row._mapping[name] for name in TAKEN_OVER},
            state=JobState(row.state),
            submitted_at=at(row.created_ms),
            wanted_until=moment(row.deadline_ms),
            assigned_at=moment(row.committed_ms),
            finished_at=moment(row.at_ms),
            predicted={} if row.predicted is None else orjson.loads(row.predicted),
            ledger=_ledger(connection, job_id, travelled, calls),
            calls=calls,
            attempts=attempts,
            pictures=_pictures(connection, job_id),
        )


TAKEN_OVER = (  # columns of `_job` that are fields of JobStory as they are
    *(
        "job_id",
        "batch_id",
        "custom_id",
        "line_no",
        "prompt",
        "negative_prompt",
        "n",
        "seed",
        "width",
        "height",
        "client",
    ),
    "preview_id",
    *(
        "requested_tier",
        "defer_reason",
        "retry_of",
        "retried_by",
        "window_id",
        "policy",
        "predictor_name",
        "predictor_version",
        "available_micro_usd",
    ),
    *("tier", "reason", "prs", "threshold", "reserved_micro_usd", "charged_micro_usd", "microbatch_id"),
    *("seconds", "model_id", "model_revision", "settings", "error_class", "error"),
)


def _job(connection: Connection, job_id: str) -> Row[Any] | None:
    return run(
        connection,
        """SELECT j.id AS job_id, j.batch_id, j.custom_id, j.seq AS line_no, j.prompt, j.negative_prompt, j.n,
                j.seed, j.width, j.height, j.client, j.deadline_ms, j.defer_reason, j.retry_of, j.created_ms,
                j.tier AS requested_tier,
                j.microbatch_id, b.preview_id,
                (SELECT r.id FROM job r WHERE r.retry_of = j.id) AS retried_by,
                CASE WHEN o.state IS NOT NULL THEN o.state
                     WHEN j.state = 'assigned' AND m.state = 'claimed' THEN 'running'
                     ELSE j.state END AS state,
                a.window_id, a.tier, a.reason, a.prs, a.threshold, a.scores AS predicted,
                a.micro_usd AS reserved_micro_usd,
                COALESCE(v.predictor_name, w.predictor_name) AS predictor_name,
                COALESCE(v.predictor_version, w.predictor_version) AS predictor_version,
                w.policy, w.available_micro_usd, w.committed_ms,
                o.micro_usd AS charged_micro_usd, o.seconds, o.model_id, o.model_revision, o.settings,
                o.error_class, o.error, o.at_ms
            FROM job j
            JOIN batch b ON b.id = j.batch_id
            LEFT JOIN preview v ON v.id = b.preview_id
            LEFT JOIN outcome o ON o.job_id = j.id
            LEFT JOIN assignment a ON a.job_id = j.id
            LEFT JOIN decision_window w ON w.id = a.window_id
            LEFT JOIN microbatch m ON m.id = j.microbatch_id
            WHERE j.id = :id""",
        {"id": job_id},
    ).one_or_none()


def _attempts(connection: Connection, job_id: str) -> tuple[AttemptStory, ...]:
    rows = run(
        connection,
        "SELECT * FROM attempt WHERE job_id = :id ORDER BY started_ms, microbatch_id, fence",
        {"id": job_id},
    )
    return tuple(
        AttemptStory(
            worker=row.worker_id,
            microbatch_id=row.microbatch_id,
            fence=row.fence,
            started_at=at(row.started_ms),
            ended_at=moment(row.ended_ms),
            error_class=row.error_class,
            error=row.error,
        )
        for row in rows
    )


def _with_parents(connection: Connection, microbatch_id: str) -> set[str]:
    """Return a microbatch and those it was split from: the first of them holds the reservation."""
    family: set[str] = set()
    current: str | None = microbatch_id
    while current is not None:
        family.add(current)
        current = run(connection, "SELECT parent_id FROM microbatch WHERE id = :id", {"id": current}).scalar()
    return family


def _calls(connection: Connection, job_id: str) -> tuple[CallStory, ...]:
    rows = run(connection, "SELECT * FROM call WHERE job_id = :id ORDER BY id", {"id": job_id})
    return tuple(
        CallStory(
            call_id=row.id,
            index=row.idx,
            state=row.state,
            idem_key=row.idem_key,
            remote_id=row.remote_id,
            cost_max_micro_usd=row.cost_max,
            cost_micro_usd=row.cost_actual,
            image_sha256=row.image_sha256,
            error=row.error,
            at=at(row.created_ms),
        )
        for row in rows
    )


OF_CALL = ("reserve", "settle", "release", "unknown", "adjust", "void", "overrun")  # events


def _ledger(
    connection: Connection, job_id: str, microbatches: set[str], calls: Sequence[CallStory]
) -> tuple[LedgerLine, ...]:
    wanted = [f"settle:{job_id}", f"release:{job_id}"]
    wanted += [f"{kind}:{id_}" for kind in ("reserve", "release") for id_ in sorted(microbatches)]
    wanted += [f"{kind}:{call.call_id}" for call in calls for kind in OF_CALL]
    rows = [
        row
        for event_id in wanted  # one indexed look-up each: a handful
        for row in run(connection, "SELECT * FROM ledger WHERE event_id = :event_id", {"event_id": event_id})
    ]
    return tuple(
        LedgerLine(
            event_id=row.event_id,
            budget_id=row.budget_id,
            period=row.period,
            kind=row.kind,
            from_side=row.from_side,
            to_side=row.to_side,
            micro_usd=row.micro_usd,
            at=at(row.at_ms),
        )
        for row in sorted(rows, key=lambda row: row.id)
    )


def _pictures(connection: Connection, job_id: str) -> tuple[PictureStory, ...]:
    rows = run(
        connection,
        """SELECT p.*, d.at_ms AS deleted_ms, d.who FROM picture p
            LEFT JOIN picture_deletion d ON d.job_id = p.job_id AND d.idx = p.idx
            WHERE p.job_id = :id ORDER BY p.idx""",
        {"id": job_id},
    )
    return tuple(
        PictureStory(
            index=row.idx,
            seed=row.seed,
            sha256=row.sha256,
            image_uri=image_uri(row.sha256) if row.deleted_ms is None else None,
            deleted_at=moment(row.deleted_ms),
            deleted_by=row.who,
            scores=orjson.loads(row.scores),
        )
        for row in rows
    )
