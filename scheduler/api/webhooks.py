"""Routes of webhooks: `/routet2i/v1/webhooks`, as the command line's `webhook` has them.

It knows requests, answers and who may; rows are `db.webhooks` and `db.outbox`, sending is
`scheduler.webhooks`.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from db.api_batches import PREFIX
from db.outbox import DeliveryRow
from db.repository import Repository
from db.webhooks import WebhookRow, new_secret
from routet2i.contracts import NAME, SHADOW_CLIENT, BatchEvent
from routet2i.errors import NotFound
from scheduler.api.answers import Refused
from scheduler.api.callers import AnyCaller, Caller, Submitter
from scheduler.api.deployment import repository_of, settings_of
from scheduler.api.fields import Plain, known_id
from scheduler.api.ours.sight import UUID
from scheduler.webhooks.posting import check_url

Limit = Annotated[int, Query(ge=1, le=1_000)]
ID = f"^{UUID.pattern}$"
After = Annotated[str | None, Query(pattern=ID, description="the last id of the page before")]

router = APIRouter(prefix="/routet2i/v1/webhooks", tags=["webhooks"])


class NewWebhook(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, max_length=2_000, description="https://HOST/PATH")
    events: list[BatchEvent] = Field(default_factory=lambda: list(BatchEvent), min_length=1, max_length=10)
    batch_id: Plain | None = Field(
        None, max_length=64, description="only this batch, by our id or `batch_...`; else all from now on"
    )
    name: Plain = Field("", max_length=128, description="for people")
    client: str | None = Field(None, pattern=f"^{NAME}$", description="an administrator may name another one")


class Webhook(BaseModel):
    """A webhook, without its secret."""

    object: Literal["webhook"] = "webhook"
    id: str
    client: str
    batch_id: str | None
    url: str
    events: list[BatchEvent]
    name: str
    created_at: int = Field(description="seconds since 1970")


class SecretWebhook(Webhook):
    """A new webhook, with its secret, this once."""

    secret: str


class Webhooks(BaseModel):
    """A page of them."""

    object: Literal["list"] = "list"
    data: list[Webhook]
    has_more: bool


class Removed(BaseModel):
    """What was removed."""

    object: Literal["webhook"] = "webhook"
    id: str
    deleted: bool


class Tried(BaseModel):
    """One try."""

    number: int
    status: int | None = Field(description="HTTP's; null = no answer came")
    error: str | None
    milliseconds: int
    at: float = Field(description="seconds since 1970")


class Told(BaseModel):
    """One delivery."""

    object: Literal["webhook.delivery"] = "webhook.delivery"
    id: str = Field(description="the header webhook-id")
    webhook_id: str
    event: str
    subject: str
    state: Literal["pending", "delivered", "given_up", "dropped"]
    created_at: float
    next_at: float | None = Field(description="when it is tried again; null = never")
    ended_at: float | None
    tries: list[Tried]


class Deliveries(BaseModel):
    """A page of them."""

    object: Literal["list"] = "list"
    data: list[Told]
    has_more: bool


class Sent(BaseModel):
    """A test that will be sent."""

    delivery_id: str


@router.post("", status_code=201)
def add(request: Request, found: Submitter, asked: NewWebhook) -> SecretWebhook:
    """Add an address that is told of the ends of batches; the answer alone has its secret."""
    client = asked.client or found.client
    if client == SHADOW_CLIENT or not found.may_change(client):
        raise Refused(403, f"this key may not speak for client {client}", code="role", param="client")
    settings = settings_of(request)
    check_url(asked.url, private_hosts=settings.private_names)
    secret = new_secret()
    repository = repository_of(request)
    webhook_id = repository.add_webhook(
        client=client,
        url=asked.url,
        secret=secret,
        events=asked.events,
        batch_id=_batch(repository, asked.batch_id, client=client),
        name=asked.name,
    )
    shown = _webhook(repository.webhook(webhook_id))
    return SecretWebhook(**shown.model_dump(), secret=secret)


def _batch(repository: Repository, batch_id: str | None, *, client: str) -> str | None:
    """Return our id of a batch that may be named as `/v1/batches` names it."""
    if batch_id is None or not batch_id.startswith(PREFIX):
        return batch_id
    order = repository.find_order(known_id(batch_id, prefix=PREFIX, what="batch"))
    if order.client != client:
        raise NotFound(f"no batch {batch_id} of client {client}")
    if order.batch_id is None:
        raise Refused(
            409,
            f"the file of {batch_id} is not read ({order.state}); ask again when it is in progress, or be "
            "told of all batches: leave batch_id out",
            code="not_read",
            param="batch_id",
        )
    return order.batch_id


@router.get("")
def list_(request: Request, found: AnyCaller, limit: Limit = 20, after: After = None) -> Webhooks:
    """Return webhooks in force, the newest first, without secrets."""
    rows = repository_of(request).webhooks(
        client=None if found.sees_all else found.client, after=after, limit=limit + 1
    )
    return Webhooks(data=[_webhook(one) for one in rows[:limit]], has_more=len(rows) > limit)


@router.get("/{webhook_id}")
def one(request: Request, found: AnyCaller, webhook_id: str) -> Webhook:
    """Return one webhook in force."""
    return _webhook(_visible(request, found, webhook_id))


@router.delete("/{webhook_id}")
def remove(request: Request, found: Submitter, webhook_id: str) -> Removed:
    """End a webhook: its secret is forgotten, and what waits for it is not sent."""
    _changeable(request, found, webhook_id)
    return Removed(id=webhook_id, deleted=repository_of(request).remove_webhook(webhook_id))


@router.post("/{webhook_id}/test", status_code=202)
def test(request: Request, found: Submitter, webhook_id: str) -> Sent:
    """Send a `webhook.test` soon; its delivery tells how the receiver took it."""
    _changeable(request, found, webhook_id)
    return Sent(delivery_id=repository_of(request).test_webhook(webhook_id))


@router.get("/{webhook_id}/deliveries")
def deliveries(
    request: Request, found: AnyCaller, webhook_id: str, limit: Limit = 20, after: After = None
) -> Deliveries:
    """Return what was sent to a webhook, removed or not, with every try, the newest first."""
    _visible(request, found, webhook_id, removed=True)
    rows = repository_of(request).deliveries(webhook_id=webhook_id, after=after, limit=limit + 1)
    return Deliveries(data=[_told(one) for one in rows[:limit]], has_more=len(rows) > limit)


def _visible(request: Request, found: Caller, webhook_id: str, *, removed: bool = False) -> WebhookRow:
    if not UUID.fullmatch(webhook_id):
        raise NotFound(f"no webhook {webhook_id[:60]}; type: routet2i webhook list")
    row = repository_of(request).webhook(webhook_id)
    if not found.may_see(row.client) or (row.ended_ms is not None and not removed):
        raise NotFound(f"no webhook {webhook_id}; type: routet2i webhook list")
    return row


def _changeable(request: Request, found: Caller, webhook_id: str) -> None:
    row = _visible(request, found, webhook_id)
    if not found.may_change(row.client):
        raise Refused(403, f"this key may not speak for client {row.client}", code="role")


def _webhook(row: WebhookRow) -> Webhook:
    return Webhook(
        id=row.id,
        client=row.client,
        batch_id=row.batch_id,
        url=row.url,
        events=list(row.events),
        name=row.name,
        created_at=row.created_ms // 1000,
    )


def _told(row: DeliveryRow) -> Told:
    return Told.model_validate(
        {
            "id": row.id,
            "webhook_id": row.webhook_id,
            "event": row.event,
            "subject": row.subject,
            "state": row.state,
            "created_at": row.created_ms / 1000,
            "next_at": None if row.next_ms is None else row.next_ms / 1000,
            "ended_at": None if row.ended_ms is None else row.ended_ms / 1000,
            "tries": [
                {
                    "number": one.number,
                    "status": one.status,
                    "error": one.error,
                    "milliseconds": one.milliseconds,
                    "at": one.at_ms / 1000,
                }
                for one in row.tries
            ],
        }
    )
