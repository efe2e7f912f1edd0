"""Workers, windows and tiers: who draws, what was decided, what waits for whom. Read only."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from db import listing
from routet2i.heartbeat import LIVE_SECONDS
from scheduler.api.callers import AnyCaller, Auditor
from scheduler.api.deployment import repository_of, settings_of
from scheduler.api.ours.batches import usd
from scheduler.api.paging import After, Limit, Page, page

router = APIRouter(prefix="/routet2i/v1", tags=["fleet"])


class Worker(BaseModel):
    """One worker process."""

    model_config = ConfigDict(from_attributes=True)

    worker: str
    tier: str
    device: str
    version: str
    state: str
    started_at: datetime
    heard_at: datetime
    fault: str | None
    fault_at: datetime | None


class Window(BaseModel):
    """One decision round."""

    model_config = ConfigDict(from_attributes=True)

    window_id: str
    committed_at: datetime
    policy: str
    predictor_name: str
    predictor_version: str
    assigned: int
    deferred: int
    fallback: int
    available_micro_usd: int | None
    solve_us: int


class Tier(BaseModel):
    """One routed tier."""

    name: str
    kind: str
    model: str
    width: int
    height: int
    cost_usd: float | None
    workers: int
    unfinished: int
    paused: bool


class Tiers(BaseModel):
    """The routed tiers, cheapest first."""

    object: Literal["list"] = "list"
    data: list[Tier]


@router.get("/workers")
def list_workers(request: Request, caller: Auditor, limit: Limit = 20, after: After = None) -> Page[Worker]:
    """List workers by id, also those that ended."""
    found, more = listing.workers(repository_of(request).engine, limit=limit, after=after)
    return page([Worker.model_validate(one) for one in found], ids=[one.worker for one in found], more=more)


@router.get("/windows")
def list_windows(request: Request, caller: Auditor, limit: Limit = 20, after: After = None) -> Page[Window]:
    """List decision rounds, newest first."""
    found, more = listing.windows(repository_of(request).engine, limit=limit, after=after)
    return page(
        [Window.model_validate(one) for one in found], ids=[one.window_id for one in found], more=more
    )


@router.get("/tiers")
def list_tiers(request: Request, caller: AnyCaller) -> Tiers:
    """List the tiers that jobs are routed to, or may ask for: price of one picture, workers, backlog."""
    settings = settings_of(request)
    repository = repository_of(request)
    tiers = settings.read_tiers()
    pools = repository.pools(tiers.routed, sample=200)
    live = repository.live_workers(within_seconds=LIVE_SECONDS)
    resting = repository.resting_tiers()
    return Tiers(
        data=[
            Tier(
                name=name,
                kind=tiers[name].kind.value,
                model=tiers[name].model,
                width=tiers[name].width,
                height=tiers[name].height,
                cost_usd=usd(tiers[name].price(1)),
                workers=live.get(name, 0),
                unfinished=pools[name].unfinished if name in pools else 0,
                paused=name in resting,
            )
            for name in tiers.routed
        ]
    )
