"""A decision round's two ends: what waits, and the plan made permission.

It knows rows, not reasons: which tier a job deserves is `scheduler.allocator`'s affair. The plan is written
in one transaction, with the shadows that its draw has hit (`db.shadows`); the ledger may refuse a microbatch,
which then takes its fallback tier or stays queued.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import orjson
from sqlalchemy import Connection

from db import budgets, clients, ledger, previews, shadows, turns, waiting
from db.budgets import Chains
from db.dialects import pack_ids, run, run_rows
from db.leader import require_term
from db.ledger import Wish
from db.shadows import ShadowBatch
from db.waiting import Queued
from routet2i.contracts import (
    DEFERRED_BY,
    GUARDED_BY,
    TIER_AWAY,
    Account,
    Assignment,
    Funds,
    Microbatch,
    Purse,
    RecordedWindow,
    Scope,
    Waiting,
    WindowJob,
    WindowPlan,
    WindowWork,
)
from routet2i.errors import RouteT2IError

DEFER_MS = 1_000  # pause of a deferred job: so that those behind it get their window
LONG_DEFER_MS = 30_000  # of one that a person must help: a second's windows may not take all of them


def open_window(connection: Connection, *, limit: int, purse: Purse, full: Set[str]) -> WindowWork | None:
    """Read the next jobs to decide about; see `Repository.open_window`; raises NotOpen."""
    rows = turns.take(connection, limit=limit, full=full)
    if not rows:
        return None
    batches = {row.batch_id for row in rows}
    chains = budgets.chains(connection, batches, purse=purse)
    funds = _funds(connection, chains)
    previewed = [row.id for row in rows if row.preview_id is not None]
    promised = previews.promised(connection, previewed) if previewed else {}
    return WindowWork(
        jobs=tuple(
            WindowJob(
                job_id=row.id,
                batch_id=row.batch_id,
                prompt=row.prompt,
                width=row.width,
                height=row.height,
                n=row.n,
                locked=promised.get(row.id),
                deadline_ms=row.deadline_ms,
                tier=row.tier,
            )
            for row in rows
        ),
        accounts=funds,
        waiting=waiting.of_batches(connection, batches),
        chains=chains.accounts,
        now_ms=chains.now_ms,
        elsewhere=_elsewhere(connection, batches, funds),
    )


def _funds(connection: Connection, chains: Chains) -> dict[Account, Funds]:
    """Read the money of all accounts; raises NotOpen."""
    accounts = {account for chain in chains.accounts.values() for account in chain}
    found = budgets.funds(connection, accounts)
    chains.require(found)
    periods = {account: chains.period(account) for account in accounts}
    return {
        account: Funds(
            limit=found[account].lim,
            reserved=found[account].reserved,
            spent=found[account].spent,
            starts_ms=periods[account].starts_ms,
            ends_ms=periods[account].ends_ms,
        )
        for account in sorted(accounts)
    }


def _elsewhere(
    connection: Connection, batches: Set[str], funds: Mapping[Account, Funds]
) -> dict[Account, tuple[Waiting, ...]]:
    """Return what waits for money of clients and deployments with a limit in batches that are not these."""
    shared = [one for one, money in funds.items() if one.scope is not Scope.BATCH and money.limit is not None]
    if not shared:
        return {}
    of_client = waiting.elsewhere(connection, batches)
    everybody = tuple(group for groups in of_client.values() for group in groups)
    return {one: everybody if one.client is None else of_client.get(one.client, ()) for one in shared}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Granted:
    """A microbatch whose money is reserved, on the tier it was reserved for."""

    microbatch: Microbatch
    is_fallback: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refused:
    """A microbatch that no money was left for on any tier."""

    microbatch: Microbatch
    by: Scope


def record_window(connection: Connection, plan: WindowPlan) -> RecordedWindow:
    """Write a plan; see `Repository.record_window`.

    Lock order: leader, batch, client, job, budget, ledger, waiting.

    Raises:
        NotOpen: a period has begun since the window was opened.
    """
    if (known := _recorded(connection, plan.window_id)) is not None:
        return known
    if plan.leader_term is not None:
        require_term(connection, term=plan.leader_term)
    shadow_batch = None if plan.shadows is None else shadows.open_batch(connection, plan.shadows)
    batches = _lock_batches(connection, plan)
    sharing = clients.lock(connection, set(batches.values()))
    if (known := _recorded(connection, plan.window_id)) is not None:  # while we waited for our turn
        return known
    proposed, queued = _still_queued(connection, plan, batches)
    granted, refused = _reserve(
        connection, plan, proposed, shadow=None if shadow_batch is None else shadow_batch.account
    )
    assigned = Counter(
        batches[grant.microbatch.batch_id] for grant in granted for _ in grant.microbatch.assignments
    )
    refusals = list(plan.deferred)
    refusals += [(job.job_id, DEFERRED_BY[one.by]) for one in refused for job in one.microbatch.assignments]
    deferred = _defer(connection, refusals)
    window = RecordedWindow(
        window_id=plan.window_id,
        assigned=assigned.total(),
        deferred=deferred.total(),
        fallback=sum(len(grant.microbatch.assignments) for grant in granted if grant.is_fallback),
        shadow_batch=shadow_batch.batch_id if shadow_batch is not None and shadow_batch.created else None,
    )
    reached = clients.charge(connection, sharing, assigned + deferred)
    _insert_window(connection, plan, window, reached=reached)
    if granted:
        _insert_granted(connection, plan, [grant.microbatch for grant in granted], shadow_batch=shadow_batch)
        waiting.go(
            connection, (queued[job.job_id] for grant in granted for job in grant.microbatch.assignments)
        )
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


def _lock_batches(connection: Connection, plan: WindowPlan) -> dict[str, str]:
    """Return batch id -> client of the plan's batches that are still open, also of those it only defers."""
    ids = {microbatch.batch_id for microbatch in plan.microbatches} | _batches_of(connection, plan.deferred)
    rows = run(
        connection,
        "SELECT id, client FROM batch WHERE id IN {IDS} AND state = 'open' ORDER BY id {SHARE}",
        {"ids": pack_ids(ids)},
    ).all()
    return {row.id: row.client for row in rows}


def _batches_of(connection: Connection, deferred: Sequence[tuple[str, str]]) -> set[str]:
    """Return whose jobs these are."""
    if not deferred:
        return set()
    ids = pack_ids({job_id for job_id, _ in deferred})
    found = run(connection, "SELECT DISTINCT batch_id FROM job WHERE id IN {IDS}", {"ids": ids}).scalars()
    return set(found.all())


def _still_queued(
    connection: Connection, plan: WindowPlan, batches: Mapping[str, str]
) -> tuple[list[Microbatch], Mapping[str, Queued]]:
    """Read the plan's jobs; drop what was cancelled or assigned since the window was opened.

    They stay as they are: a cancellation would need their batches, and another window their clients, which
    are locked. A lock of each would cost as much as to assign it.

    Returns:
        The microbatches with what is left of them, and the queued jobs by id.
    """
    rows = run(
        connection,
        """SELECT id, batch_id, width, height, n, tier FROM job
            WHERE id IN {IDS} AND state = 'queued' ORDER BY id""",
        {"ids": pack_ids({a.job_id for m in plan.microbatches for a in m.assignments})},
    ).all()
    jobs = {row.id: Queued(row.batch_id, row.width, row.height, row.n, row.tier) for row in rows}
    kept = (
        replace(
            microbatch,
            assignments=_of(jobs, microbatch.assignments),
            fallback=_of(jobs, microbatch.fallback),
        )
        for microbatch in plan.microbatches
        if microbatch.batch_id in batches
    )
    return [microbatch for microbatch in kept if microbatch.assignments], jobs


def _of(jobs: Mapping[str, Queued], assignments: Sequence[Assignment]) -> tuple[Assignment, ...]:
    return tuple(assignment for assignment in assignments if assignment.job_id in jobs)


def _reserve(
    connection: Connection, plan: WindowPlan, proposed: Sequence[Microbatch], *, shadow: Account | None
) -> tuple[list[_Granted], list[_Refused]]:
    """Ask the ledger for each microbatch, then for its fallback; return the granted and the refused.

    Args:
        shadow: one more account to lock, for accounts are locked in one go.
    """
    if not proposed:
        return [], []
    chains = budgets.chains(connection, {one.batch_id for one in proposed}, purse=plan.purse)
    touched = {account for chain in chains.accounts.values() for account in chain}
    free = ledger.lock(connection, touched if shadow is None else touched | {shadow})
    chains.require(free)
    verdicts = ledger.reserve(
        connection,
        [
            Wish(
                microbatch_id=one.microbatch_id,
                accounts=chains.accounts[one.batch_id],
                prices=(one.micro_usd,) if not one.fallback else (one.micro_usd, one.fallback_micro_usd),
            )
            for one in proposed
        ],
        free=free,
    )
    granted: list[_Granted] = []
    refused: list[_Refused] = []
    for microbatch, verdict in zip(proposed, verdicts, strict=True):
        if verdict.granted is None and verdict.refused_by is not None:
            refused.append(_Refused(microbatch=microbatch, by=verdict.refused_by.scope))
        elif verdict.refused_by is None:
            granted.append(_Granted(microbatch=microbatch, is_fallback=False))
        else:
            cheaper = _fallback(microbatch, by=verdict.refused_by.scope)
            granted.append(_Granted(microbatch=cheaper, is_fallback=True))
    return granted, refused


def _fallback(microbatch: Microbatch, *, by: Scope) -> Microbatch:
    """Return the same jobs on the cheaper tier, with the scope whose money was short as the reason."""
    return replace(
        microbatch,
        tier=microbatch.fallback_tier or microbatch.tier,
        width=microbatch.fallback_width or microbatch.width,
        height=microbatch.fallback_height or microbatch.height,
        assignments=tuple(replace(a, reason=GUARDED_BY[by]) for a in microbatch.fallback),
    )


def _defer(connection: Connection, deferred: Sequence[tuple[str, str]]) -> Counter[str]:
    """Leave jobs queued for a moment, with the reason; return client -> jobs that were still queued."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for job_id, reason in deferred:
        by_reason[reason].append(job_id)
    return Counter(
        client
        for reason, job_ids in sorted(by_reason.items())
        for client in run(
            connection,
            """UPDATE job SET not_before_ms = {NOW} + :pause, defer_reason = :reason
                WHERE id IN {IDS} AND state = 'queued' RETURNING client""",
            {
                "pause": LONG_DEFER_MS if reason in TIER_AWAY else DEFER_MS,
                "reason": reason,
                "ids": pack_ids(job_ids),
            },
        )
        .scalars()
        .all()
    )


def _insert_window(connection: Connection, plan: WindowPlan, window: RecordedWindow, *, reached: int) -> None:
    run(
        connection,
        """INSERT INTO decision_window(id, leader_term, policy, predictor_name, predictor_version, n_assigned,
                                       n_deferred, n_fallback, available_micro_usd, solve_us, committed_ms,
                                       reached)
            VALUES(:id, :leader_term, :policy, :predictor_name, :predictor_version, :n_assigned,
                   :n_deferred, :n_fallback, :available_micro_usd, :solve_us, {NOW}, :reached)""",
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
            "reached": reached,
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
        assignments = [
            a for microbatch in microbatches for a in microbatch.assignments if a.job_id not in plan.locked
        ]
        drawn = shadows.draw(connection, plan.shadows, shadow_batch, assignments)
        propensity = drawn.propensity
        copies = shadows.record(connection, plan.shadows, shadow_batch, drawn.chosen)
        if plan.shadows.yardstick is not None:
            shadows.keep_yardstick(
                connection, plan.shadows.yardstick, name=plan.predictor_name, version=plan.predictor_version
            )
    _insert_microbatches(connection, plan.window_id, microbatches, propensity=propensity)
    if copies:
        _insert_microbatches(connection, plan.window_id, copies, propensity={})


def _insert_microbatches(
    connection: Connection,
    window_id: str,
    microbatches: Sequence[Microbatch],
    *,
    propensity: Mapping[str, float],
) -> None:
    run_rows(
        connection,
        """INSERT INTO microbatch(id, batch_id, window_id, tier, width, height, state, fence, deliveries,
                                  deaths, reserved_left, created_ms)
            SELECT {id:text}, {batch_id:text}, {window_id:text}, {tier:text}, {width:integer},
                   {height:integer}, 'ready', 0, 0, 0, {reserved_left:bigint}, {NOW} {EACH}""",
        [
            {
                "id": microbatch.microbatch_id,
                "batch_id": microbatch.batch_id,
                "window_id": window_id,
                "tier": microbatch.tier,
                "width": microbatch.width,
                "height": microbatch.height,
                "reserved_left": microbatch.micro_usd,
            }
            for microbatch in microbatches
        ],
    )
    run_rows(
        connection,
        """INSERT INTO assignment(job_id, window_id, tier, reason, prs, threshold, micro_usd, scores,
                                  propensity)
            SELECT {job_id:text}, {window_id:text}, {tier:text}, {reason:text}, {prs:double precision},
                   {threshold:double precision}, {micro_usd:bigint}, {scores:text},
                   {propensity:double precision} {EACH}""",
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
    taken = [
        {"microbatch_id": microbatch.microbatch_id, "job_id": assignment.job_id}
        for microbatch in microbatches
        for assignment in microbatch.assignments
    ]
    changed = run_rows(
        connection,
        """UPDATE job SET state = 'assigned', microbatch_id = {microbatch_id:text}, defer_reason = NULL
            {EACH} WHERE job.id = {job_id:text} AND job.state = 'queued'""",
        taken,
    )
    if changed != len(taken):
        raise RouteT2IError(f"window {window_id}: jobs were taken by somebody who had not locked their batch")
