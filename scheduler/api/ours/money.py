"""Budgets in force, and setting them: the same limits as `routet2i budget`.

It shows and hands on; policies are `db.budgets`, reading is `db.balances`.
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from db import balances
from db.balances import Balance
from routet2i.contracts import NAME, BudgetPolicy, Carry, Purse, Scope
from routet2i.settings import Settings
from scheduler.api.answers import Refused
from scheduler.api.callers import Admin, AnyCaller
from scheduler.api.deployment import repository_of, settings_of
from scheduler.api.ours.batches import PLAIN, micro, usd
from scheduler.api.ours.sight import batch_seen
from scheduler.budget import purse_of

router = APIRouter(prefix="/routet2i/v1/budgets", tags=["budgets"])


class Budget(BaseModel):
    """One budget in the period that runs now; money in dollars, null = unlimited."""

    scope: Scope
    name: str
    span: str
    period: str
    limit_usd: float | None
    carry: str
    cap_usd: float | None
    carried_usd: float
    reserved_usd: float
    spent_usd: float
    free_usd: float | None
    resets_at: datetime | None
    set_by: str | None
    reason: str | None

    @classmethod
    def of(cls, one: Balance) -> "Budget":
        """Return a balance as an answer."""
        return cls(
            scope=one.scope,
            name=one.name,
            span=one.span,
            period=one.period,
            limit_usd=usd(one.limit_micro_usd),
            carry=one.carry,
            cap_usd=usd(one.cap_micro_usd),
            carried_usd=one.carried_micro_usd / 1_000_000,
            reserved_usd=one.reserved_micro_usd / 1_000_000,
            spent_usd=one.spent_micro_usd / 1_000_000,
            free_usd=usd(one.free_micro_usd),
            resets_at=one.resets_at,
            set_by=one.set_by,
            reason=one.reason,
        )


class Budgets(BaseModel):
    """The budgets that a caller may see: few, so in one piece."""

    object: Literal["list"] = "list"
    data: list[Budget]


class Limit(BaseModel):
    """A limit that is to be in force from now on."""

    model_config = ConfigDict(extra="forbid")

    scope: Scope
    name: str = Field(pattern=f"^{NAME}$", description="a client, a batch's id, the deployment")
    limit_usd: float | None = Field(ge=0, le=1e9, description="of one period; null lifts it")
    per: Literal["minute", "hour", "day", "month", "total"] = "total"
    carry: Carry = Carry.NONE
    cap_usd: float | None = Field(None, ge=0, le=1e9)
    reason: str = Field("", max_length=500, pattern=PLAIN.replace("+$", "*$"))


@router.get("")
def list_budgets(
    request: Request,
    caller: AnyCaller,
    scope: Scope | None = None,
    name: Annotated[str | None, Query(pattern=f"^{NAME}$")] = None,
) -> Budgets:
    """List limits with what is reserved and spent of each; a submitter sees its client's and its batches'."""
    engine = repository_of(request).engine
    if not caller.sees_all:
        if scope is Scope.BATCH and name is not None:
            batch_seen(request, caller, name)
        elif (scope, name) not in ((None, None), (Scope.CLIENT, None), (Scope.CLIENT, caller.client)):
            raise Refused(404, "no such budget", code="not_found", param="name")
        else:
            scope, name = Scope.CLIENT, caller.client
    purse = _purse(settings_of(request))
    found = balances.balances(engine, purse=purse, scope=scope, name=name)
    return Budgets(data=[Budget.of(one) for one in found])


@router.put("")
def set_budget(request: Request, caller: Admin, wanted: Limit) -> Budgets:
    """Set, raise, lower or lift a limit; who and why are kept."""
    if (wanted.cap_usd is not None) != (wanted.carry is Carry.CAPPED):
        raise Refused(
            400, "cap_usd and carry 'capped' belong together", code="invalid_request", param="cap_usd"
        )
    if wanted.scope is Scope.BATCH:
        batch_seen(request, caller, wanted.name)
    settings = settings_of(request)
    if wanted.scope is Scope.DEPLOYMENT and wanted.name != settings.deployment:
        raise Refused(404, f"this is deployment {settings.deployment}", code="not_found", param="name")
    repository = repository_of(request)
    policy = BudgetPolicy(
        scope=wanted.scope,
        name=wanted.name,
        span=wanted.per,
        limit_micro_usd=micro(wanted.limit_usd),
        carry=wanted.carry,
        cap_micro_usd=micro(wanted.cap_usd),
    )
    repository.set_budget(policy, who=f"key {caller.key_id}", reason=wanted.reason)
    found = balances.balances(repository.engine, purse=_purse(settings), scope=wanted.scope, name=wanted.name)
    return Budgets(data=[Budget.of(one) for one in found])


def _purse(settings: Settings) -> Purse:
    return purse_of(
        deployment=settings.deployment,
        limit_micro_usd=settings.budget_micro_usd,
        seconds=settings.budget_period_seconds,
    )
