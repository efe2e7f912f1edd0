"""A decision round's two ends: what waits, and the plan made permission.

It knows rows, not reasons: which tier a job deserves is `scheduler.allocator`'s affair. The plan is written
in one transaction, with the shadows that its draw has hit (`db.shadows`); the ledger may refuse a microbatch,
which then takes its fallback tier or stays queued.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
from sqlalchemy import Connection

from db import ledger, shadows
from db.dialects import pack_ids, run
from db.leader import require_term
from db.ledger import Account
from db.shadows import ShadowBatch
from routet2i.contracts import (
    Assignment,
    Funds,
    Microbatch,
    PeriodBudget,
    RecordedWindow,
    WindowJob,
    WindowPlan,
    WindowWork,
)

DEFER_MS = 1_000  # pause of a deferred job: so that those behind it get their window


def open_window(
    connection: Connection, *, limit: int, period_budget: PeriodBudget | None = None
) -> WindowWork | None:
    """Read the next jobs to decide about; see `Repository.open_window`."""
    rows = run(
        connection,
        # CROSS JOIN: SQLite must walk the queue in its own order, not batch by batch
        """SELECT j.id, j.batch_id, j.prompt, j.width, j.height, j.n
            FROM job j CROSS JOIN batch b
            WHERE j.state = 'queued' AND j.not_before_ms <= {NOW} AND b.id = j.batch_id AND b.state = 'open'
            ORDER BY j.priority DESC, j.batch_id, j.seq LIMIT :limit""",
        {"limit": limit},
    ).all()
    if not rows:
        return None
    ids = pack_ids({row.batch_id for row in rows})
    queued = run(
        connection,
        """SELECT batch_id, sum(n) AS pictures FROM job
            WHERE state = 'queued' AND batch_id IN {IDS} GROUP BY batch_id""",
        {"ids": ids},
    )
    pictures: dict[str, int] = {row.batch_id: int(row.pictures) for row in queued}
    budgets = run(
        connection,
        """SELECT b.id AS batch_id, m.lim, m.reserved, m.spent
            FROM batch b JOIN budget m ON m.id = 'batch:' || b.id AND m.period = 'total'
            WHERE b.id IN {IDS}""",
        {"ids": ids},
    )
    return WindowWork(
        jobs=tuple(
            WindowJob(
                job_id=row.id,
                batch_id=row.batch_id,
                prompt=row.prompt,
                width=row.width,
                height=row.height,
                n=row.n,
            )
            for row in rows
        ),
        funds={
            row.batch_id: Funds(
                limit=row.lim,
                reserved=row.reserved,
                spent=row.spent,
                queued_pictures=pictures.get(row.batch_id, 0),
            )
            for row in budgets
        },
        period=None if period_budget is None else _period_funds(connection, period_budget),
    )


def _period_funds(connection: Connection, period_budget: PeriodBudget) -> Funds:
    """Read what is left of the deployment's period; before its first reservation all of it is."""
    row = run(
        connection,
        "SELECT lim, reserved, spent FROM budget WHERE id = :id AND period = :period",
        {"id": period_budget.budget_id, "period": period_budget.period},
    ).one_or_none()
    if row is None:
        return Funds(limit=period_budget.limit_micro_usd, reserved=0, spent=0, queued_pictures=0)
    return Funds(limit=row.lim, reserved=row.reserved, spent=row.spent, queued_pictures=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Granted:
    """A microbatch whose money is reserved, on the tier it was reserved for."""

    microbatch: Microbatch
    is_fallback: bool


def record_window(connection: Connection, plan: WindowPlan) -> RecordedWindow:
    """Write a plan in lock order: leader, batch, job, budget, ledger; see `Repository.record_window`."""
    if (known := _recorded(connection, plan.window_id)) is not None:
        return known
    if plan.leader_term is not None:
        require_term(connection, term=plan.leader_term)
    shadow_batch = None if plan.shadows is None else shadows.open_batch(connection, plan.shadows)
    proposed = _still_queued(connection, plan)
    granted, refused = _reserve(
        connection, plan, proposed, shadow=None if shadow_batch is None else shadow_batch.account
    )
    assigned = sum(len(grant.microbatch.assignments) for grant in granted)
    deferred = list(plan.deferred)
    deferred += [(job.job_id, "budget") for microbatch in refused for job in microbatch.assignments]
    window = RecordedWindow(
        window_id=plan.window_id,
        assigned=assigned,
        deferred=_defer(connection, deferred),
        fallback=sum(len(grant.microbatch.assignments) for grant in granted if grant.is_fallback),
    )
    _insert_window(connection, plan, window)
    if granted:
        _insert_granted(connection, plan, [grant.microbatch for grant in granted], shadow_batch=shadow_batch)
    return window


def _recorded(connection: Connection, window_id: str) -> RecordedWindow | None:
    """Return what an earlier, uncertain commit of the same plan has written."""
    row = run(
        connection,
        "SELECT n_assigned, n_deferred, n_fallback FROM decision_window WHERE id = :id",
        {"id": window_id},
    ).one_or_none()
    if row is None:
        return None
    return RecordedWindow(
        window_id=window_id, assigned=row.n_assigned, deferred=row.n_deferred, fallback=row.n_fallback
    )


def _still_queued(connection: Connection, plan: WindowPlan) -> list[Microbatch]:
    """Lock the plan's batches and jobs; drop what was cancelled or assigned since the window was opened."""
    batches = set(
        run(
            connection,
            "SELECT id FROM batch WHERE id IN {IDS} AND state = 'open' ORDER BY id {SHARE}",
            {"ids": pack_ids({microbatch.batch_id for microbatch in plan.microbatches})},
        ).scalars()
    )
    jobs = set(
        run(
            connection,
            "SELECT id FROM job WHERE id IN {IDS} AND state = 'queued' ORDER BY id {LOCK}",
            {"ids": pack_ids({a.job_id for m in plan.microbatches for a in m.assignments})},
        ).scalars()
    )
    kept = (
        replace(
            microbatch,
            assignments=_of(jobs, microbatch.assignments),
            fallback=_of(jobs, microbatch.fallback),
        )
        for microbatch in plan.microbatches
        if microbatch.batch_id in batches
    )
    return [microbatch for microbatch in kept if microbatch.assignments]


def _of(jobs: set[str], assignments: Sequence[Assignment]) -> tuple[Assignment, ...]:
    return tuple(assignment for assignment in assignments if assignment.job_id in jobs)


def _reserve(
    connection: Connection, plan: WindowPlan, proposed: Sequence[Microbatch], *, shadow: Account | None
) -> tuple[list[_Granted], list[Microbatch]]:
    """Ask the ledger for each microbatch, then for its fallback; return the granted and the refused.

    Args:
        shadow: one more account to lock, for accounts are locked in one go.
    """
    if plan.period_budget is not None and proposed:
        ledger.open_account(
            connection,
            Account(budget_id=plan.period_budget.budget_id, period=plan.period_budget.period),
            limit=plan.period_budget.limit_micro_usd,
        )
    accounts = {microbatch.batch_id: _accounts(plan, microbatch.batch_id) for microbatch in proposed}
    touched = {account for both in accounts.values() for account in both}
    ledger.lock(connection, touched if shadow is None else touched | {shadow})
    granted: list[_Granted] = []
    refused: list[Microbatch] = []
    for microbatch in proposed:
        for option in _options(microbatch):
            if ledger.reserve(
                connection,
                microbatch.microbatch_id,
                accounts=accounts[microbatch.batch_id],
                micro_usd=option.microbatch.micro_usd,
            ):
                granted.append(option)
                break
        else:
            refused.append(microbatch)
    return granted, refused


def _options(microbatch: Microbatch) -> Iterator[_Granted]:
    """Yield what to ask the ledger for, dearest wish first."""
    yield _Granted(microbatch=microbatch, is_fallback=False)
    if (cheaper := _fallback(microbatch)) is not None:
        yield _Granted(microbatch=cheaper, is_fallback=True)


def _accounts(plan: WindowPlan, batch_id: str) -> tuple[Account, ...]:
    period = plan.period_budget
    if period is None:
        return ledger.accounts_of(batch_id, budget_id=None, period=None)
    return ledger.accounts_of(batch_id, budget_id=period.budget_id, period=period.period)


def _fallback(microbatch: Microbatch) -> Microbatch | None:
    if microbatch.fallback_tier is None or not microbatch.fallback:
        return None
    return replace(
        microbatch,
        tier=microbatch.fallback_tier,
        width=microbatch.fallback_width or microbatch.width,
        height=microbatch.fallback_height or microbatch.height,
        assignments=tuple(replace(a, reason="budget_guard") for a in microbatch.fallback),
    )


def _defer(connection: Connection, deferred: Sequence[tuple[str, str]]) -> int:
    """Leave jobs queued for a moment, with the reason; return how many were still queued."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for job_id, reason in deferred:
        by_reason[reason].append(job_id)
    return sum(
        run(
            connection,
            """UPDATE job SET not_before_ms = {NOW} + :pause, defer_reason = :reason
                WHERE id IN {IDS} AND state = 'queued'""",
            {"pause": DEFER_MS, "reason": reason, "ids": pack_ids(job_ids)},
        ).rowcount
        for reason, job_ids in sorted(by_reason.items())
    )


def _insert_window(connection: Connection, plan: WindowPlan, window: RecordedWindow) -> None:
    run(
        connection,
        """INSERT INTO decision_window(id, leader_term, policy, predictor_name, predictor_version, n_assigned,
                                       n_deferred, n_fallback, available_micro_usd, solve_us, committed_ms)
            VALUES(:id, :leader_term, :policy, :predictor_name, :predictor_version, :n_assigned,
                   :n_deferred, :n_fallback, :available_micro_usd, :solve_us, {NOW})""",
        {
            "id": plan.window_id,
            "leader_term": plan.leader_term,
            "policy": plan.policy,
            "predictor_name": plan.predictor_name,
            "predictor_version": plan.predictor_version,
            "n_assigned": window.assigned,
            "n_deferred": window.deferred,
            "n_fallback": window.fallback,
            "available_micro_usd": plan.available_micro_usd,
            "solve_us": plan.solve_us,
        },
    )


def _insert_granted(
    connection: Connection,
    plan: WindowPlan,
    microbatches: Sequence[Microbatch],
    *,
    shadow_batch: ShadowBatch | None,
) -> None:
    """Insert what the ledger has granted, and the shadows of it that the draw has hit."""
    propensity: Mapping[str, float] = {}
    copies: list[Microbatch] = []
    if plan.shadows is not None and shadow_batch is not None:
        assignments = [a for microbatch in microbatches for a in microbatch.assignments]
        drawn = shadows.draw(connection, plan.shadows, shadow_batch, assignments)
        propensity = drawn.propensity
        copies = shadows.record(connection, plan.shadows, shadow_batch, drawn.chosen)
        if plan.shadows.yardstick is not None:
            shadows.keep_yardstick(
                connection, plan.shadows.yardstick, name=plan.predictor_name, version=plan.predictor_version
            )
    _insert_microbatches(
        connection, plan.window_id, microbatches, period=plan.period_budget, propensity=propensity
    )
    if copies:
        _insert_microbatches(connection, plan.window_id, copies, period=None, propensity={})


def _insert_microbatches(
    connection: Connection,
    window_id: str,
    microbatches: Sequence[Microbatch],
    *,
    period: PeriodBudget | None,
    propensity: Mapping[str, float],
) -> None:
    run(
        connection,
        """INSERT INTO microbatch(id, batch_id, window_id, tier, width, height, state, fence, deliveries,
                                  deaths, period_budget_id, period, reserved_left, created_ms)
            VALUES(:id, :batch_id, :window_id, :tier, :width, :height, 'ready', 0, 0, 0,
                   :period_budget_id, :period, :reserved_left, {NOW})""",
        [
            {
                "id": microbatch.microbatch_id,
                "batch_id": microbatch.batch_id,
                "window_id": window_id,
                "tier": microbatch.tier,
                "width": microbatch.width,
                "height": microbatch.height,
                "period_budget_id": None if period is None else period.budget_id,
                "period": None if period is None else period.period,
                "reserved_left": microbatch.micro_usd,
            }
            for microbatch in microbatches
        ],
    )
    run(
        connection,
        """INSERT INTO assignment(job_id, window_id, tier, reason, prs, threshold, micro_usd, scores,
                                  propensity)
            VALUES(:job_id, :window_id, :tier, :reason, :prs, :threshold, :micro_usd, :scores,
                   :propensity)""",
        [
            {
                "job_id": assignment.job_id,
                "window_id": window_id,
                "tier": assignment.tier,
                "reason": assignment.reason,
                "prs": assignment.prs,
                "threshold": assignment.threshold,
                "micro_usd": assignment.micro_usd,
                "scores": orjson.dumps(assignment.scores).decode(),
                "propensity": propensity.get(assignment.job_id),
            }
            for microbatch in microbatches
            for assignment in microbatch.assignments
        ],
    )
    run(
        connection,
        """UPDATE job SET state = 'assigned', microbatch_id = :microbatch_id, defer_reason = NULL
            WHERE id = :id""",
        [
            {"microbatch_id": microbatch.microbatch_id, "id": assignment.job_id}
            for microbatch in microbatches
            for assignment in microbatch.assignments
        ],
    )
