"""One job's whole story, as `routet2i audit` tells it, and its end by request.

It shows what `db.story` has gathered; it decides nothing.
"""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from db.story import JobStory, job_story
from routet2i.contracts import JobState
from scheduler.allocator import REASONS
from scheduler.api.callers import AnyCaller
from scheduler.api.deployment import repository_of
from scheduler.api.ours.sight import JobId, job_owned, job_seen

router = APIRouter(prefix="/routet2i/v1/jobs", tags=["jobs"])


class _Row(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Attempt(_Row):
    """One worker's try."""

    worker: str
    microbatch_id: str
    fence: int
    started_at: datetime
    ended_at: datetime | None
    error_class: str | None
    error: str | None


class Call(_Row):
    """One purchase from a paid provider."""

    call_id: str
    index: int
    state: str
    remote_id: str | None
    cost_max_micro_usd: int
    cost_micro_usd: int | None
    error: str | None
    at: datetime


class Drawn(_Row):
    """One picture that came out; its bytes are at `/routet2i/v1/pictures/{sha256}`."""

    index: int
    seed: int
    sha256: str
    deleted_at: datetime | None
    scores: dict[str, float]


class Posting(_Row):
    """One movement of money."""

    event_id: str
    budget_id: str
    period: str
    kind: str
    from_side: str
    to_side: str
    micro_usd: int
    at: datetime


class Audit(_Row):
    """Everything that is known about one job; null where it has not come so far. Money in micro-dollars."""

    object: Literal["routet2i.job_audit"] = "routet2i.job_audit"
    job_id: str
    batch_id: str
    custom_id: str
    line_no: int
    client: str
    prompt: str
    negative_prompt: str | None
    n: int
    seed: int
    width: int | None
    height: int | None
    state: JobState
    submitted_at: datetime
    wanted_until: datetime | None
    requested_tier: str | None
    defer_reason: str | None
    retry_of: str | None
    retried_by: str | None
    preview_id: str | None
    window_id: str | None
    assigned_at: datetime | None
    policy: str | None
    predictor_name: str | None
    predictor_version: str | None
    available_micro_usd: int | None
    tier: str | None
    reason: str | None
    reason_text: str | None = Field(None, description="the reason in words")
    prs: float | None
    threshold: float | None
    predicted: dict[str, dict[str, float]]
    reserved_micro_usd: int | None
    charged_micro_usd: int | None
    ledger: list[Posting]
    microbatch_id: str | None
    attempts: list[Attempt]
    calls: list[Call]
    finished_at: datetime | None
    seconds: float | None
    model_id: str | None
    model_revision: str | None
    settings: str | None
    error_class: str | None
    error: str | None
    pictures: list[Drawn]

    @classmethod
    def of(cls, story: JobStory) -> "Audit":
        """Return a story as an answer."""
        told = cls.model_validate(story)
        return told.model_copy(update={"reason_text": REASONS.get(story.reason or story.defer_reason or "")})


class Asked(BaseModel):
    """What a job was when its end was asked for; a final state: nothing was done."""

    was: JobState


@router.get("/{job_id}")
def show(request: Request, caller: AnyCaller, job_id: JobId) -> Audit:
    """Tell one job's story: prediction, decision, money, tries, pictures."""
    job_seen(request, caller, job_id)
    return Audit.of(job_story(repository_of(request).engine, job_id))


@router.post("/{job_id}/cancel")
def cancel(request: Request, caller: AnyCaller, job_id: JobId) -> Asked:
    """Cancel one job: at once where no worker has it, else its worker is asked."""
    job_owned(request, caller, job_id)
    return Asked(was=repository_of(request).cancel_job(job_id))
