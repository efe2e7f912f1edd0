"""Clients: what share of the windows each has, and its weight.

It shows and hands on; how places are shared is `db.fairness`.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from db.clients import ClientRow
from db.fairness import MOST_WEIGHT
from routet2i.contracts import NAME, SHADOW_CLIENT
from scheduler.api.answers import Refused
from scheduler.api.callers import Admin, AnyCaller
from scheduler.api.deployment import repository_of

router = APIRouter(prefix="/routet2i/v1/clients", tags=["clients"])

ClientName = Annotated[str, Path(pattern=f"^{NAME}$")]


class Client(BaseModel):
    """One client."""

    object: Literal["routet2i.client"] = "routet2i.client"
    name: str
    weight: int
    queued: int = Field(description="jobs that wait in open batches")
    batches: int = Field(description="open, with jobs that wait")
    share: float | None = Field(description="of a window's places now; null = none waits")
    jobs_before: int | None = Field(description="of others, before its next one")
    paused: bool

    @classmethod
    def of(cls, row: ClientRow, *, paused: bool) -> "Client":
        """Return a row as an answer."""
        return cls(
            name=row.name,
            weight=row.weight,
            queued=row.queued,
            batches=row.batches,
            share=row.share,
            jobs_before=row.jobs_before,
            paused=paused,
        )


class Clients(BaseModel):
    """The clients that a caller may see."""

    object: Literal["list"] = "list"
    data: list[Client]


class Weight(BaseModel):
    """How many places a client gets beside one of weight 1."""

    model_config = ConfigDict(extra="forbid")

    weight: int = Field(ge=1, le=MOST_WEIGHT)


@router.get("")
def list_clients(request: Request, caller: AnyCaller) -> Clients:
    """List clients by name; a submitter sees its own."""
    repository = repository_of(request)
    paused = {one.name for one in repository.pauses() if one.kind == "client"}
    return Clients(
        data=[
            Client.of(row, paused=row.name in paused)
            for row in repository.clients()
            if caller.may_see(row.name)
        ]
    )


@router.put("/{name}")
def set_weight(request: Request, caller: Admin, name: ClientName, wanted: Weight) -> Client:
    """Give a client, known or not, a weight from the next window on."""
    if name == SHADOW_CLIENT:
        raise Refused(404, f"no client {name}", code="not_found", param="name")
    repository = repository_of(request)
    repository.set_weight(name, weight=wanted.weight)
    paused = any((one.kind, one.name) == ("client", name) for one in repository.pauses())
    (row,) = (row for row in repository.clients() if row.name == name)
    return Client.of(row, paused=paused)
