"""Budgets: what may be spent, what was, what resets when; and tiers that billed more than they may.

It reads `db.balances`; a paused tier is accepted again by the same verb as `budget resume`.
"""

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import Response

from db import dashboard
from db.balances import Balance, balances
from routet2i.contracts import Scope
from routet2i.errors import UsageError
from scheduler.api.answers import Refused
from scheduler.api.callers import Caller
from scheduler.api.deployment import repository_of, settings_of, tiers_of
from scheduler.api.pages import charts
from scheduler.api.pages.batches import told
from scheduler.api.pages.frame import Overseer, Visitor, pages
from scheduler.api.pages.rendering import page
from scheduler.budget import purse_of

LISTED = 25  # batches

router = pages()


def visible(request: Request, found: Caller) -> list[Balance]:
    """Return the budgets that the visitor may see."""
    settings = settings_of(request)
    repository = repository_of(request)
    purse = purse_of(
        deployment=settings.deployment,
        limit_micro_usd=settings.budget_micro_usd,
        seconds=settings.budget_period_seconds,
    )
    if not found.sees_all:
        return balances(repository.engine, purse=purse, scope=Scope.CLIENT, name=found.client)
    return balances(repository.engine, purse=purse, batches=LISTED)


@router.get("/budgets")
def budgets(request: Request, found: Visitor) -> Response:
    """Show what may be spent."""
    repository = repository_of(request)
    shown = visible(request, found)
    heads = dashboard.heads(repository.engine, limit=LISTED) if found.sees_all else []
    calls, most = repository.unknown_calls() if found.sees_all else (0, 0)
    return page(
        request,
        "budgets.html.j2",
        found,
        title="Budgets",
        limits=[(one, bar(one)) for one in shown if one.scope is not Scope.BATCH],
        batches=[(one, bar(one)) for one in shown if one.scope is Scope.BATCH],
        paused=repository.paused_tiers() if found.sees_all else {},
        unknown_calls=calls,
        unknown_micro_usd=most,
        names={head.batch_id: head.name for head in heads},
        may_resume=found.may_submit and found.sees_all,
    )


def bar(one: Balance) -> tuple[charts.Part, ...]:
    """Return a budget as a bar."""
    whole = None if one.limit_micro_usd is None else one.limit_micro_usd + one.carried_micro_usd
    return charts.stacked(
        {"spent": one.spent_micro_usd, "reserved": one.reserved_micro_usd}, whole=whole or None
    )


@router.post("/budgets/resume")
def resume(
    request: Request,
    found: Overseer,
    tier: Annotated[str, Form(max_length=100)],
    reason: Annotated[str, Form(max_length=500)],
) -> Response:
    """Let a tier that billed too much buy again."""
    if not found.may_submit:
        raise Refused(403, "this needs a key of role admin", code="role")
    if tier not in tiers_of(request).profiles:
        raise UsageError(f"no tier {tier!r}")
    if not reason.isprintable():
        raise UsageError("write the reason in one line, without control characters")
    if not reason.strip():
        raise UsageError("say why the bill is accepted")
    done = repository_of(request).resume_tier(tier, who=f"key {found.key_id}", reason=reason.strip())
    return told("/budgets", "resumed" if done else "nothing", 0)
