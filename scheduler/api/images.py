"""OpenAI's `POST /v1/images/generations`: one request, one job, and its pictures in the answer.

The job goes the way of all jobs, ahead of its client's others; this waits for its end. It decides nothing and
knows no SQL. A caller that goes away takes its job along, unless it named an `Idempotency-Key`.
"""

import asyncio
import base64
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from db.ends import JobEnd
from db.repository import Repository
from routet2i.contracts import JobState
from routet2i.errors import RouteT2IError
from routet2i.images import ImageStore
from routet2i.settings import Settings
from routet2i.tiers import Tiers
from scheduler.allocator import REASONS
from scheduler.api.answers import Refused
from scheduler.api.callers import Caller, Submitter
from scheduler.api.deployment import repository_of
from scheduler.api.fields import Plain, idempotency_key, public_url
from scheduler.api.lookout import Lookout
from scheduler.intake import INTEGERS
from scheduler.openai_lines import (
    NO_MODEL,
    Background,
    BadLine,
    Moderation,
    OutputCompression,
    OutputFormat,
    PartialImages,
    Quality,
    Stream,
    requested_tier,
)
from scheduler.picture_links import PictureLinks
from scheduler.single import Single, submit_single

WAIT_SECONDS = 300.0  # longest wait for the pictures of one request
LEAVES_SECONDS = 1.0  # between two looks whether the caller is still there
PRIORITY = INTEGERS["priority"][1]  # somebody waits for it
MOST_AT_ONCE = 64  # requests of one key that wait in one process
FINAL = {"x-should-retry": "false"}  # OpenAI's clients repeat a 5xx otherwise

router = APIRouter(tags=["images"])


class ImageRequest(BaseModel):
    """OpenAI's fields that mean something here, and ours; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    model: str | None = Field(None, description="`routet2i` (the router chooses the tier) or a tier's name")
    n: int | None = Field(None, ge=INTEGERS["n"][0], le=INTEGERS["n"][1], description="pictures; 1")
    size: str | None = Field(
        None,
        pattern=r"^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$",
        description="WIDTHxHEIGHT in pixels, or auto",
    )
    response_format: Literal["b64_json", "url"] | None = Field(None, description="b64_json")
    quality: Quality | None = None
    background: Background | None = None
    moderation: Moderation | None = None
    output_format: OutputFormat | None = None
    output_compression: OutputCompression | None = None
    partial_images: PartialImages | None = None
    stream: Stream | None = None
    user: Plain | None = Field(None, max_length=256, description="kept with the job")
    safety_identifier: Plain | None = Field(None, max_length=256, description="changes nothing")
    negative_prompt: str | None = None
    seed: int | None = Field(None, ge=INTEGERS["seed"][0], le=INTEGERS["seed"][1], description="of the first")
    budget_usd: float | None = Field(None, ge=0, le=1e9, description="most that it may cost")


class ImageData(BaseModel):
    """One picture."""

    b64_json: str | None = None
    url: str | None = None


class Told(BaseModel):
    """How the pictures came about."""

    batch_id: str
    job_id: str
    tier: str
    reason: str
    cost_usd: float
    seeds: list[int]
    sha256: list[str]
    scores: list[dict[str, float]]


class ImageAnswer(BaseModel):
    """OpenAI's `ImagesResponse`, with ours under `routet2i`."""

    created: int
    output_format: Literal["png"] = "png"
    data: list[ImageData]
    routet2i: Told


@router.post("/v1/images/generations", response_model_exclude_none=True)
async def generate(
    request: Request,
    wanted: ImageRequest,
    caller: Submitter,
    key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
) -> ImageAnswer:
    """Draw, and answer when it is drawn; with an `Idempotency-Key` the same request is the same job."""
    idempotency_key(key)
    state = request.app.state
    repository: Repository = state.repository
    crowd: dict[str, int] = state.crowd
    if crowd.get(caller.key_id, 0) >= MOST_AT_ONCE:
        raise Refused(
            429,
            f"{MOST_AT_ONCE} requests of this key wait for pictures already; for many prompts make a batch",
            code="rate_limit_exceeded",
        )
    crowd[caller.key_id] = crowd.get(caller.key_id, 0) + 1
    try:
        single = await run_in_threadpool(_submit, state.settings, repository, wanted, caller, key)
        end = await _end(request, state.lookout, single, keeps=key is not None)
        return await run_in_threadpool(_answer, request, state.settings, wanted, end)
    finally:
        crowd[caller.key_id] -= 1
        if not crowd[caller.key_id]:
            del crowd[caller.key_id]


def _submit(
    settings: Settings, repository: Repository, wanted: ImageRequest, caller: Caller, key: str | None
) -> Single:
    tiers = settings.read_tiers()
    document: dict[str, Any] = {
        "prompt": wanted.prompt,
        "negative_prompt": wanted.negative_prompt,
        "seed": wanted.seed,
        "n": wanted.n or 1,
        "priority": PRIORITY,
        "tier": _tier(wanted.model, tiers=tiers),
        "metadata": None if wanted.user is None else {"user": wanted.user},
    }
    if wanted.size not in (None, "auto"):
        assert wanted.size is not None
        document["width"], document["height"] = map(int, wanted.size.split("x"))
    given = {name: value for name, value in document.items() if value is not None}
    return submit_single(
        repository,
        given,
        client=caller.client,
        key=key,
        name="images.generate",
        budget_micro_usd=None if wanted.budget_usd is None else round(wanted.budget_usd * 1_000_000),
        settings=settings,
        tiers=tiers,
        response_format=wanted.response_format or "b64_json",
    )


def _tier(model: str | None, *, tiers: Tiers) -> str | None:
    """Return the tier that a model's name asks for, None = the router chooses; raises Refused with 404."""
    try:
        return requested_tier(model, tiers=tiers.routed)
    except BadLine as error:
        raise Refused(404, str(error), code=NO_MODEL, param="model") from error


async def _end(request: Request, lookout: Lookout, single: Single, *, keeps: bool) -> JobEnd:
    """Return the good end of a job; raises Refused for every other one, and for a caller that left."""
    repository = repository_of(request)
    known_ms = 0
    if not single.created:  # what a window said before this request may hold no more
        found = await run_in_threadpool(repository.ends, [single.job_id])
        known_ms = found[single.job_id].not_before_ms
    waiting = asyncio.ensure_future(lookout.end(single.job_id, seconds=WAIT_SECONDS, known_ms=known_ms))
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=LEAVES_SECONDS)
            if not waiting.done() and await request.is_disconnected():
                raise Refused(499, "the caller went away", code="client_closed_request")
        end = waiting.result()
        if end is not None and end.state is JobState.SUCCEEDED:
            return end
        raise _refusal(end, single)
    except BaseException:
        waiting.cancel()
        if not keeps:
            await run_in_threadpool(repository.cancel_batch, single.batch_id)
        raise


def _refusal(end: JobEnd | None, single: Single) -> Refused:
    """Return why there are no pictures."""
    if end is None:
        return Refused(
            504,
            f"not drawn within {WAIT_SECONDS:.0f} s; try later, or make a batch",
            code="timeout",
            headers=FINAL,
        )
    if end.state is None:
        why = REASONS.get(end.defer_reason or "", "there is no money for it")
        return Refused(429, f"{why}; raise the budget", code="insufficient_quota", headers=FINAL)
    if end.state is JobState.CANCELLED:
        return Refused(409, f"job {single.job_id} was cancelled", code="cancelled", headers=FINAL)
    return Refused(500, f"{end.error_class}: {end.error}", code="generation_failed", headers=FINAL)


def _answer(request: Request, settings: Settings, wanted: ImageRequest, end: JobEnd) -> ImageAnswer:
    store = ImageStore(root=settings.pictures)
    links: PictureLinks = request.app.state.links
    by_url = wanted.response_format == "url"
    try:
        data = [
            ImageData(url=links.address(one.sha256, base_url=public_url(request)))
            if by_url
            else ImageData(b64_json=base64.b64encode(store.read(one.sha256)).decode())
            for one in end.pictures
        ]
    except RouteT2IError as error:
        raise Refused(410, str(error), code="picture_gone", headers=FINAL) from error
    if not data:
        raise Refused(410, "the pictures were deleted meanwhile", code="picture_gone", headers=FINAL)
    return ImageAnswer(
        created=int(time.time()),
        data=data,
        routet2i=Told(
            batch_id=end.batch_id,
            job_id=end.job_id,
            tier=end.tier or "",
            reason=end.reason or "",
            cost_usd=end.micro_usd / 1_000_000,
            seeds=[one.seed for one in end.pictures],
            sha256=[one.sha256 for one in end.pictures],
            scores=[dict(one.scores) for one in end.pictures],
        ),
    )
