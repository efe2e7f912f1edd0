"""Batches as OpenAI's clients order, watch, list and cancel them.

It knows HTTP's side: what an order may say and how a batch is shown. What becomes of an order is the clerk's
affair (`scheduler.clerk`).
"""

import hashlib
from decimal import Decimal
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from db.api_batches import PREFIX, ApiBatchRow, Order, State, gone
from db.files import PREFIX as FILE_PREFIX
from db.files import gone as no_file
from scheduler.api.answers import Refused
from scheduler.api.callers import AnyCaller, Caller, Submitter
from scheduler.api.deployment import repository_of
from scheduler.api.fields import Plain, cursor, idempotency_key, known_id, public_url
from scheduler.api.files import LONGEST_SECONDS, SHORTEST_SECONDS
from scheduler.clerk import Clerk
from scheduler.deadlines import BadDeadline, read_deadline
from scheduler.intake import INTEGERS
from scheduler.openai_lines import MODEL

MICRO = 1_000_000  # in a dollar
LOWEST, HIGHEST = INTEGERS["priority"]
UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

router = APIRouter(prefix="/v1/batches", tags=["batches"])


class OutputExpiresAfter(BaseModel):
    """How long the files that a batch leaves may be read."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=SHORTEST_SECONDS, le=LONGEST_SECONDS)]


class BatchOrder(BaseModel):
    """What a client asks for; the fields behind `output_expires_after` are ours."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: Literal["/v1/images/generations"]
    completion_window: Annotated[str, Field(max_length=20, examples=["24h"])]
    metadata: (
        Annotated[
            dict[Annotated[Plain, Field(max_length=64)], Annotated[Plain, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: OutputExpiresAfter | None = None
    budget_usd: Annotated[Decimal, Field(ge=0, le=10**9, decimal_places=6)] | None = Field(
        None, description="limit of the batch; none: no limit, or what its preview costs"
    )
    name: Annotated[Plain, Field(min_length=1, max_length=200)] | None = Field(
        None, description="shown to people; default: the file's name"
    )
    priority: Annotated[int, Field(ge=LOWEST, le=HIGHEST)] = Field(
        0, description="of lines that name none; higher is sooner among the client's jobs"
    )
    deadline: Annotated[Plain, Field(max_length=40)] | None = Field(
        None, description="of lines that name none: a moment with its offset, or a time like 2h"
    )
    preview: Annotated[str, Field(pattern=UUID)] | None = Field(
        None, description="id of a preview of this file: its tiers and prices are kept"
    )


class RequestCounts(BaseModel):
    """How many lines a batch's file has, and what became of them."""

    total: int
    completed: int
    failed: int


class BatchError(BaseModel):
    """Why a batch failed, or a line of it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Errors(BaseModel):
    """Why a batch failed."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class Ours(BaseModel):
    """What we tell beyond OpenAI."""

    batch_id: str | None = Field(
        description="the batch in our own routes and commands; none while it is read"
    )
    client: str
    name: str
    budget_usd: float | None
    spent_usd: float
    priority: int
    deadline: str | None
    preview: str | None


class Batch(BaseModel):
    """A batch, as OpenAI's `Batch`."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: Errors | None
    input_file_id: str
    completion_window: str
    status: State
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
    model: str = Field(MODEL, description="what the batch is ordered of; lines may ask for a tier")
    usage: None = Field(None, description="tokens are not counted; `routet2i` tells what was spent")
    routet2i: Ours


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("")
def create(
    request: Request,
    caller: Submitter,
    order: BatchOrder,
    key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
) -> Batch:
    """Order a batch of an uploaded file.

    The same `Idempotency-Key` with the same order is the same batch, also if the file was uploaded again, or
    is gone; with another order it is refused with 409.
    """
    repository = repository_of(request)
    window_ms = _window(order.completion_window)
    expiry = order.output_expires_after
    if order.deadline is not None:
        try:
            read_deadline(order.deadline, now_ms=None)
        except BadDeadline as error:
            raise Refused(400, str(error), code="deadline", param="deadline") from error
    idem_key = idempotency_key(key)
    file_id = known_id(order.input_file_id, prefix=FILE_PREFIX, what="file")
    before = (
        None if idem_key is None else repository.find_order_by_key(client=caller.client, idem_key=idem_key)
    )
    if before is not None and before.input_file_id == file_id:  # it may be gone
        sha256, name = before.sha256, before.name
    else:
        sha256, name = _lines(request, caller, file_id)
    row, created = repository.order_batch(
        Order(
            client=caller.client,
            idem_key=idem_key,
            body_sha256=_digest(order, sha256),
            input_file_id=file_id,
            endpoint=order.endpoint,
            completion_window=order.completion_window,
            window_ms=window_ms,
            metadata=None if order.metadata is None else orjson.dumps(order.metadata).decode(),
            name=order.name or name,
            budget_micro_usd=None if order.budget_usd is None else int(order.budget_usd * MICRO),
            deadline=order.deadline,
            priority=order.priority,
            preview_id=order.preview,
            base_url=public_url(request),
            output_seconds=None if expiry is None else expiry.seconds,
        )
    )
    if created:
        _clerk(request).wake()
    return shown(row)


def _lines(request: Request, caller: Caller, file_id: str) -> tuple[str, str]:
    """Return the digest and the name of an uploaded file; raises NotFound, Refused."""
    file = repository_of(request).find_file(file_id)
    if not caller.may_see(file.client):
        raise no_file(file.id)
    if file.sha256 is None:
        raise Refused(
            404,
            f"no file {file_id} with lines of a batch; upload it with purpose=batch",
            code="not_found",
            param="input_file_id",
        )
    return file.sha256, file.filename


def _window(text: str) -> int:
    """Return a completion window in milliseconds; raises Refused."""
    try:
        within_ms = read_deadline(text, now_ms=None).within_ms
    except BadDeadline:
        within_ms = None
    if within_ms is None:
        raise Refused(
            400,
            f"completion_window {text!r} is none; write 24h, 90m or 7d, at most 366d",
            code="completion_window",
            param="completion_window",
        )
    return within_ms


def _digest(order: BatchOrder, sha256: str) -> str:
    """Return the digest of what is asked: the file counts by its bytes, not by its id."""
    asked: dict[str, Any] = order.model_dump(mode="json", exclude={"input_file_id"}) | {"file": sha256}
    if order.budget_usd is not None:
        asked["budget_usd"] = int(order.budget_usd * MICRO)
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


@router.get("")
def listed(
    request: Request,
    caller: AnyCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchList:
    """List the client's batches, newest first; auditors and administrators see everybody's."""
    found = repository_of(request).orders(
        client=None if caller.sees_all else caller.client,
        after=cursor(after, prefix=PREFIX),
        limit=limit + 1,
    )
    page = found[:limit]
    return BatchList(
        data=[shown(one) for one in page],
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )


@router.get("/{batch_id}")
def retrieve(request: Request, caller: AnyCaller, batch_id: str) -> Batch:
    """Tell where a batch stands."""
    return shown(_visible(request, caller, batch_id))


@router.post("/{batch_id}/cancel")
def cancel(request: Request, caller: Submitter, batch_id: str) -> Batch:
    """Cancel a batch: what is drawn already stays, and is in its output file."""
    repository = repository_of(request)
    row = _visible(request, caller, batch_id)
    while row.state in (State.VALIDATING, State.IN_PROGRESS):
        if repository.move_order(row.id, before=row.state, after=State.CANCELLING, ending=State.CANCELLED):
            _clerk(request).wake()
        row = repository.find_order(row.id)
    if row.state not in (State.CANCELLING, State.CANCELLED):
        raise Refused(
            409, f"batch {row.id} is {row.state}: there is nothing left to cancel", code="not_cancellable"
        )
    return shown(row)


def _visible(request: Request, caller: Caller, batch_id: str) -> ApiBatchRow:
    """Return a batch that the caller may see; another one is as good as none."""
    found = repository_of(request).find_order(known_id(batch_id, prefix=PREFIX, what="batch"))
    if not caller.may_see(found.client):
        raise gone(batch_id)
    return found


def _clerk(request: Request) -> Clerk:
    found: Clerk = request.app.state.clerk
    return found


def shown(row: ApiBatchRow) -> Batch:
    """Return an order as OpenAI's clients read it."""
    return Batch(
        id=row.id,
        endpoint=row.endpoint,
        errors=None if row.errors is None else Errors(data=orjson.loads(row.errors)),
        input_file_id=row.input_file_id,
        completion_window=row.completion_window,
        status=row.state,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        created_at=row.created_ms // 1000,
        in_progress_at=_seconds(row.in_progress_ms),
        expires_at=row.expires_ms // 1000,
        finalizing_at=_seconds(row.finalizing_ms),
        completed_at=_seconds(row.completed_ms),
        failed_at=_seconds(row.failed_ms),
        expired_at=_seconds(row.expired_ms),
        cancelling_at=_seconds(row.cancelling_ms),
        cancelled_at=_seconds(row.cancelled_ms),
        request_counts=RequestCounts(total=row.total, completed=row.completed, failed=row.failed),
        metadata=None if row.metadata is None else orjson.loads(row.metadata),
        routet2i=Ours(
            batch_id=row.batch_id,
            client=row.client,
            name=row.name,
            budget_usd=None if row.budget_micro_usd is None else row.budget_micro_usd / MICRO,
            spent_usd=row.spent_micro_usd / MICRO,
            priority=row.priority,
            deadline=row.deadline,
            preview=row.preview_id,
        ),
    )


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
