"""Pause and resume a batch, a client or a tier: windows leave its jobs queued, or give it none.

What is assigned already is drawn. It hands on; `db.pauses` keeps them.
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from db.pauses import Pause, Paused
from routet2i.contracts import NAME
from routet2i.errors import NotFound
from scheduler.api.answers import Refused
from scheduler.api.callers import AnyCaller, Caller
from scheduler.api.deployment import repository_of, tiers_of
from scheduler.api.ours.batches import PLAIN
from scheduler.api.ours.sight import batch_owned

router = APIRouter(prefix="/routet2i/v1/pauses", tags=["pauses"])

Name = Annotated[str, Path(pattern=f"^{NAME}$", description="a batch's id, a client, a tier")]


class Break(BaseModel):
    """One pause that lasts."""

    kind: Paused
    name: str
    who: str
    reason: str
    since: datetime

    @classmethod
    def of(cls, one: Pause) -> "Break":
        """Return a pause as an answer."""
        return cls(kind=one.kind, name=one.name, who=one.who, reason=one.reason, since=one.since)


class Breaks(BaseModel):
    """All that is paused and that a caller may see."""

    object: Literal["list"] = "list"
    data: list[Break]


class Why(BaseModel):
    """The reason, kept with the pause."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=500, pattern=PLAIN.replace("+$", "*$"))


class Changed(BaseModel):
    """Whether something was changed."""

    changed: bool


@router.get("")
def list_pauses(request: Request, caller: AnyCaller) -> Breaks:
    """List what is paused; a submitter sees its own client's, its batches' and tiers'."""
    found = repository_of(request).pauses()
    return Breaks(data=[Break.of(one) for one in found if _sees(request, caller, one)])


@router.put("/{kind}/{name}")
def pause(request: Request, caller: AnyCaller, kind: Paused, name: Name, wanted: Why) -> Changed:
    """Pause; nothing changes if it is paused already."""
    _may(request, caller, kind, name)
    repository = repository_of(request)
    return Changed(changed=repository.pause(kind, name, who=f"key {caller.key_id}", reason=wanted.reason))


@router.delete("/{kind}/{name}")
def resume(request: Request, caller: AnyCaller, kind: Paused, name: Name) -> Changed:
    """Resume; nothing changes if it is not paused."""
    _may(request, caller, kind, name)
    return Changed(changed=repository_of(request).resume(kind, name))


def _sees(request: Request, caller: Caller, one: Pause) -> bool:
    if caller.sees_all or one.kind is Paused.TIER:
        return True
    if one.kind is Paused.CLIENT:
        return one.name == caller.client
    try:
        batch_owned(request, caller, one.name)
    except (Refused, NotFound):
        return False
    return True


def _may(request: Request, caller: Caller, kind: Paused, name: str) -> None:
    """Raise Refused unless the caller may pause this."""
    if kind is Paused.BATCH:
        batch_owned(request, caller, name)
        return
    if kind is Paused.TIER and name not in tiers_of(request).routed:
        raise Refused(404, f"no tier {name}", code="not_found", param="name")
    own = kind is Paused.CLIENT and caller.may_change(name)
    if not (own or caller.may_change_all):
        raise Refused(403, "this needs a key of role admin", code="role")
