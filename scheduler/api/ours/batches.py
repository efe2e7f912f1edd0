"""Batches: where each stands, its jobs, and what may be done to it: cancel, retry, draw on another tier.

It shows and hands on; what is done is `db` and `scheduler.retrying`.
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from db import audit, listing
from db.audit import BatchStatus
from db.listing import JobLine
from routet2i.contracts import NAME, JobState
from scheduler.api.answers import Refused
from scheduler.api.callers import AnyCaller, Caller
from scheduler.api.deployment import repository_of, settings_of
from scheduler.api.fields import idempotency_key
from scheduler.api.ours.sight import UUID, BatchId, batch_owned, batch_seen
from scheduler.api.paging import After, Limit, Page, page
from scheduler.retrying import Retry
from scheduler.retrying import retry as retry_jobs
from scheduler.submit import queue_limits

router = APIRouter(prefix="/routet2i/v1/batches", tags=["batches"])

Key = Annotated[str | None, Header(alias="Idempotency-Key")]
MOST_JOBS = 1_000  # named in one request
PLAIN = r"^[^\x00-\x1f\x7f-\x9f]+$"  # one line of text
Id = Annotated[str, Field(pattern=f"^{UUID.pattern}$")]


class Batch(BaseModel):
    """Where one batch stands; money in dollars."""

    object: Literal["routet2i.batch"] = "routet2i.batch"
    id: str
    name: str
    client: str
    state: Literal["ingesting", "open", "cancelled"]
    complete: bool
    paused: bool
    accepted: int
    rejected: int
    jobs: dict[JobState, int]
    tiers: dict[str, int]
    device_seconds: dict[str, float]
    budget_usd: float | None
    reserved_usd: float
    spent_usd: float
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, status: BatchStatus, *, paused: bool) -> "Batch":
        """Return a status as an answer."""
        return cls(
            id=status.batch_id,
            name=status.name,
            client=status.client,
            state=status.state,
            complete=status.complete,
            paused=paused,
            accepted=status.n_accepted,
            rejected=status.n_rejected,
            jobs=dict(status.by_state),
            tiers=dict(status.by_tier),
            device_seconds=dict(status.device_seconds),
            budget_usd=usd(status.limit_micro_usd),
            reserved_usd=status.reserved_micro_usd / 1_000_000,
            spent_usd=status.spent_micro_usd / 1_000_000,
            created_at=status.created_at,
            finished_at=status.finished_at,
        )


class Job(BaseModel):
    """One job in short; its whole story is at `/routet2i/v1/jobs/{id}`."""

    object: Literal["routet2i.job"] = "routet2i.job"
    id: str
    line_no: int
    custom_id: str
    prompt: str
    state: JobState
    requested_tier: str | None
    tier: str | None
    reason: str | None
    defer_reason: str | None
    cost_usd: float | None
    error: str | None
    finished_at: datetime | None
    pictures: list[str]

    @classmethod
    def of(cls, line: JobLine) -> "Job":
        """Return a line as an answer."""
        return cls(
            id=line.job_id,
            line_no=line.line_no,
            custom_id=line.custom_id,
            prompt=line.prompt,
            state=line.state,
            requested_tier=line.requested_tier,
            tier=line.tier,
            reason=line.reason,
            defer_reason=line.defer_reason,
            cost_usd=usd(line.micro_usd),
            error=line.error,
            finished_at=line.finished_at,
            pictures=list(line.pictures),
        )


class Cancelled(BaseModel):
    """What became of a wish to cancel."""

    cancelled: int = Field(description="jobs that ended at once")
    requested: int = Field(description="jobs that their workers were asked to drop")


class Again(BaseModel):
    """Which jobs are wanted once more; a budget of their own."""

    model_config = ConfigDict(extra="forbid")

    job_ids: list[Id] | None = Field(
        None, min_length=1, max_length=MOST_JOBS, description="of this batch; default: all that failed"
    )
    budget_usd: float | None = Field(None, ge=0, le=1e9)
    name: str | None = Field(None, min_length=1, max_length=256, pattern=PLAIN)


class Reroute(Again):
    """Which jobs another tier is to draw."""

    tier: str | None = Field(None, max_length=64, description="default: the cloud tier")
    drawn_by: str | None = Field(
        None, max_length=64, description="instead of those that failed: all that this tier drew"
    )


class Round(BaseModel):
    """The batch of repeated jobs."""

    batch_id: str | None = Field(description="none if there was never anything to repeat")
    jobs: int = Field(description="added now")
    pictures: int
    least_usd: float = Field(description="what they cost at least")
    budget_usd: float | None

    @classmethod
    def of(cls, made: Retry) -> "Round":
        """Return a retry as an answer."""
        return cls(
            batch_id=made.batch_id,
            jobs=made.jobs,
            pictures=made.pictures,
            least_usd=made.floor_micro_usd / 1_000_000,
            budget_usd=usd(made.budget_micro_usd),
        )


def usd(micro_usd: int | None) -> float | None:
    """Return dollars."""
    return None if micro_usd is None else micro_usd / 1_000_000


def micro(amount_usd: float | None) -> int | None:
    """Return micro-dollars."""
    return None if amount_usd is None else round(amount_usd * 1_000_000)


@router.get("")
def list_batches(
    request: Request,
    caller: AnyCaller,
    limit: Limit = 20,
    after: After = None,
    client: Annotated[
        str | None, Query(pattern=f"^{NAME}$", description="only its; for those who see all")
    ] = None,
) -> Page[Batch]:
    """List batches, newest first."""
    if client is not None and not caller.may_see(client):
        return page([], ids=[], more=False)
    repository = repository_of(request)
    whose = client if caller.sees_all else caller.client
    found, more = listing.batches(repository.engine, client=whose, limit=limit, after=after)
    paused = {(one.kind, one.name) for one in repository.pauses()}
    return page(
        [Batch.of(one, paused=("batch", one.batch_id) in paused) for one in found],
        ids=[one.batch_id for one in found],
        more=more,
    )


@router.get("/{batch_id}")
def show(request: Request, caller: AnyCaller, batch_id: BatchId) -> Batch:
    """Show where a batch stands."""
    batch_seen(request, caller, batch_id)
    repository = repository_of(request)
    paused = any((one.kind, one.name) == ("batch", batch_id) for one in repository.pauses())
    return Batch.of(audit.batch_status(repository.engine, batch_id), paused=paused)


@router.get("/{batch_id}/jobs")
def list_jobs(
    request: Request,
    caller: AnyCaller,
    batch_id: BatchId,
    limit: Limit = 20,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="`last_id`: a line's number")] = 0,
    state: JobState | None = None,
    tier: Annotated[str | None, Query(pattern=f"^{NAME}$")] = None,
) -> Page[Job]:
    """List a batch's jobs in file order."""
    batch_seen(request, caller, batch_id)
    found, more = listing.jobs(
        repository_of(request).engine, batch_id, limit=limit, after=after, state=state, tier=tier
    )
    return page([Job.of(one) for one in found], ids=[str(one.line_no) for one in found], more=more)


@router.post("/{batch_id}/cancel")
def cancel(request: Request, caller: AnyCaller, batch_id: BatchId) -> Cancelled:
    """Cancel what has not ended: at once where no worker has it."""
    batch_owned(request, caller, batch_id)
    report = repository_of(request).cancel_batch(batch_id)
    return Cancelled(cancelled=report.cancelled, requested=report.running)


@router.post("/{batch_id}/retry")
def retry(request: Request, caller: AnyCaller, batch_id: BatchId, wanted: Again, key: Key = None) -> Round:
    """Try failed jobs again, each once, as a new batch with a budget of its own."""
    return _again(request, caller, batch_id, wanted, key=key, tier=None, drawn_by=None)


@router.post("/{batch_id}/reroute")
def reroute(
    request: Request, caller: AnyCaller, batch_id: BatchId, wanted: Reroute, key: Key = None
) -> Round:
    """Let another tier draw the jobs that failed, that one tier drew, or that are named: a new batch."""
    settings = settings_of(request)
    tiers = settings.read_tiers()
    tier = wanted.tier or tiers.cloud
    for param, name in (("tier", tier), ("drawn_by", wanted.drawn_by)):
        if name is not None and name not in tiers.routed:
            known = " or ".join(tiers.routed)
            raise Refused(
                400, f"{param} {name!r} is no tier; write {known}", code="unknown_tier", param=param
            )
    if wanted.drawn_by == tier:
        raise Refused(400, "drawn_by and tier are the same", code="invalid_request", param="drawn_by")
    if wanted.drawn_by is not None and wanted.job_ids is not None:
        raise Refused(400, "give job_ids or drawn_by, not both", code="invalid_request", param="drawn_by")
    return _again(request, caller, batch_id, wanted, key=key, tier=tier, drawn_by=wanted.drawn_by)


def _again(
    request: Request,
    caller: Caller,
    batch_id: str,
    wanted: Again,
    *,
    key: str | None,
    tier: str | None,
    drawn_by: str | None,
) -> Round:
    idempotency_key(key)
    batch_owned(request, caller, batch_id)
    settings = settings_of(request)
    return Round.of(
        retry_jobs(
            repository_of(request),
            batch_id,
            job_ids=wanted.job_ids,
            tiers=settings.read_tiers(),
            limits=queue_limits(settings),
            budget_micro_usd=micro(wanted.budget_usd),
            key=None if key is None else f"retry:{key}",
            name=wanted.name,
            tier=tier,
            drawn_by=drawn_by,
        )
    )
