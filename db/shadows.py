"""Shadows: jobs that repeat users' jobs on the other tier, made in the window's own transaction.

They live in a batch of their own (one per deployment and budget period), whose budget is all they may spend.
It knows rows and money; whom the draw hits and where a shadow goes is said by the plan (`scheduler.shadows`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
from sqlalchemy import Connection

from db import intake, ledger
from db.dialects import pack_ids, run
from db.ledger import Account, Wish
from routet2i.contracts import (
    SHADOW_CLIENT,
    SHADOW_REASON,
    Assignment,
    Microbatch,
    ShadowPlan,
    Yardstick,
    new_id,
)
from routet2i.errors import RouteT2IError


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowBatch:
    """The locked batch that a window's shadows go to."""

    batch_id: str
    n_accepted: int  # shadows so far
    created: bool  # by this window

    @property
    def account(self) -> Account:
        """Return the budget of all its shadows."""
        return ledger.batch_account(self.batch_id)


def open_batch(connection: Connection, plan: ShadowPlan) -> ShadowBatch | None:
    """Return the shadow batch of this period, locked; None if somebody has cancelled it.

    Its limit is that of the first window: a later setting counts from the next period on.
    """
    opened = intake.open_batch(
        connection,
        client=SHADOW_CLIENT,
        idem_key=plan.key,
        body_sha256="",
        name=f"shadow {plan.key}",
        budget_micro_usd=plan.limit_micro_usd,
    )
    intake.close_intake(connection, opened.batch_id)
    row = run(
        connection, "SELECT state, n_accepted FROM batch WHERE id = :id {LOCK}", {"id": opened.batch_id}
    ).one()
    if row.state != "open":
        return None
    return ShadowBatch(batch_id=opened.batch_id, n_accepted=row.n_accepted, created=opened.created)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What the draw of one window came to."""

    propensity: Mapping[str, float]  # job id -> probability of a shadow, for every job that could have one
    chosen: tuple[Assignment, ...]  # of the users' jobs that get one


def draw(
    connection: Connection, plan: ShadowPlan, batch: ShadowBatch, assignments: Iterable[Assignment]
) -> Draw:
    """Say which of a window's granted jobs could get a shadow, and which do; the account is locked.

    In the order of their ids, jobs are eligible as long as the budget still covers the dearest shadow: so
    neither a job's tier nor its own draw decides whether it is eligible, and its propensity is exact.
    """
    left = run(
        connection,
        "SELECT lim - reserved - spent FROM budget WHERE id = :budget_id AND period = :period",
        {"budget_id": batch.account.budget_id, "period": batch.account.period},
    ).scalar_one()
    eligible: list[str] = []
    chosen: list[Assignment] = []
    for assignment in sorted(assignments, key=lambda one: one.job_id):
        if left < plan.dearest:
            break
        if assignment.tier not in plan.other:
            continue
        eligible.append(assignment.job_id)
        if assignment.job_id in plan.drawn:
            chosen.append(assignment)
            left -= plan.other[assignment.tier].micro_usd
    return Draw(propensity=dict.fromkeys(eligible, plan.share), chosen=tuple(chosen))


def record(
    connection: Connection, plan: ShadowPlan, batch: ShadowBatch, chosen: Sequence[Assignment]
) -> list[Microbatch]:
    """Insert the shadows' jobs and reserve their money; return their microbatches, which the window inserts.

    Args:
        chosen: of `draw`, in this transaction.
    """
    if not chosen:
        return []
    ids = {assignment.job_id: new_id() for assignment in chosen}
    run(
        connection,
        """INSERT INTO job(id, batch_id, seq, custom_id, prompt, negative_prompt, seed, width, height, n,
                           priority, not_before_ms, cancel_requested, state, created_ms, shadow_of,
                           client)
            SELECT CAST(:id AS text), CAST(:batch_id AS text), CAST(:seq AS integer), id, prompt,
                   negative_prompt, seed, width, height, 1, priority, 0, 0, 'queued', {NOW}, id,
                   CAST(:client AS text)
            FROM job WHERE id = :original""",
        [
            {
                "id": shadow_id,
                "batch_id": batch.batch_id,
                "seq": seq,
                "original": original,
                "client": SHADOW_CLIENT,
            }
            for seq, (original, shadow_id) in enumerate(ids.items(), start=batch.n_accepted + 1)
        ],
    )
    run(
        connection,
        "UPDATE batch SET n_accepted = n_accepted + :more, cursor_line = cursor_line + :more WHERE id = :id",
        {"more": len(ids), "id": batch.batch_id},
    )
    microbatches = _pack(connection, plan, batch, chosen, ids=ids)
    wishes = [
        Wish(
            microbatch_id=microbatch.microbatch_id,
            accounts=(batch.account,),
            prices=(microbatch.micro_usd,),
        )
        for microbatch in microbatches
    ]
    free = ledger.lock(connection, [batch.account])
    if any(verdict.granted is None for verdict in ledger.reserve(connection, wishes, free=free)):
        raise RouteT2IError(f"batch {batch.batch_id}: shadows were drawn that its budget does not cover")
    return microbatches


def _pack(
    connection: Connection,
    plan: ShadowPlan,
    batch: ShadowBatch,
    chosen: Sequence[Assignment],
    *,
    ids: Mapping[str, str],
) -> list[Microbatch]:
    """Return microbatches of one tier and size each; a shadow has the size that its job asked for."""
    sizes = {
        row.id: (row.width, row.height)
        for row in run(
            connection, "SELECT id, width, height FROM job WHERE id IN {IDS}", {"ids": pack_ids(ids)}
        )
    }
    groups: dict[tuple[str, int, int], list[Assignment]] = defaultdict(list)
    for assignment in chosen:
        other = plan.other[assignment.tier]
        width, height = sizes[assignment.job_id]
        groups[assignment.tier, width or other.width, height or other.height].append(
            replace(
                assignment,
                job_id=ids[assignment.job_id],
                tier=other.tier,
                reason=SHADOW_REASON,
                micro_usd=other.micro_usd,
            )
        )
    return [
        Microbatch(
            microbatch_id=new_id(),
            batch_id=batch.batch_id,
            tier=plan.other[tier].tier,
            kind=plan.other[tier].kind,
            width=width,
            height=height,
            assignments=tuple(group[start : start + plan.microbatch_jobs]),
        )
        for (tier, width, height), group in groups.items()
        for start in range(0, len(group), plan.microbatch_jobs)
    ]


def keep_yardstick(connection: Connection, yardstick: Yardstick, *, name: str, version: str) -> None:
    """Write what this predictor version measures PRS with, unless it is known."""
    run(
        connection,
        """INSERT INTO yardstick(predictor_name, predictor_version, weights, spans)
            VALUES(:name, :version, :weights, :spans)
            ON CONFLICT(predictor_name, predictor_version) DO NOTHING""",
        {
            "name": name,
            "version": version,
            "weights": orjson.dumps(yardstick.weights).decode(),
            "spans": orjson.dumps(yardstick.spans).decode(),
        },
    )
