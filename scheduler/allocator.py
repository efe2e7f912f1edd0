"""The reasons of assignments in words, and how assignments become microbatches.

Pure. Which tier a job gets is decided in `scheduler.deciding`; here is what people read of it and what
workers get of it. It knows no clock, no database and no queue.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from routet2i.contracts import (
    DEFERRED_BY,
    GUARDED_BY,
    SHADOW_REASON,
    SHORT_BY,
    TIER_MISSING,
    TIER_PAUSED,
    Assignment,
    Microbatch,
    Scope,
    WindowJob,
    new_id,
)
from routet2i.tiers import TierProfile, Tiers

CAP = 0.5  # of alpha: at this PRS the tiers are equal

BETTER_ON_CLOUD = "predicted_better_on_cloud"
BETTER_ON_EDGE = "predicted_better_on_edge"
PREDICTED_BEST = "predicted_best"
TIER_FULL = "tier_full"
DEADLINE = "deadline"
CAPACITY = "capacity"
REQUESTED = "requested"
BUDGET_GUARD = GUARDED_BY[Scope.BATCH]
BUDGET = DEFERRED_BY[Scope.BATCH]

REASONS: Mapping[str, str] = {
    BETTER_ON_CLOUD: "the cloud tier was predicted to draw it better, and the budget allowed it",
    BETTER_ON_EDGE: "the edge tier was predicted to draw it as well or better",
    PREDICTED_BEST: "this tier was predicted to draw it best, and the budget allowed it",
    SHORT_BY[
        Scope.BATCH
    ]: "a dearer tier was predicted to draw it better, but other jobs gain more per dollar",
    SHORT_BY[Scope.CLIENT]: (
        "a dearer tier was predicted to draw it better, but the client's other jobs gain more per dollar"
    ),
    SHORT_BY[Scope.DEPLOYMENT]: (
        "a dearer tier was predicted to draw it better, but others' jobs gain more per dollar"
    ),
    BUDGET_GUARD: "the ledger refused the price of the chosen tier, so the cheaper tier draws it",
    "client_budget_guard": "the client's budget could not pay the chosen tier, so the cheaper one draws it",
    "deployment_budget_guard": (
        "the deployment's budget could not pay the chosen tier, so the cheaper one draws it"
    ),
    TIER_FULL: "another tier was predicted to draw it better, but other jobs gain more there and filled it",
    DEADLINE: "another tier would have been chosen, but was expected to draw it only after its deadline",
    CAPACITY: "the tiers that are worth their price for it are full now; it waits for room",
    SHADOW_REASON: "it repeats a user's job on the other tier, to compare prediction and pictures",
    BUDGET: "the budget does not cover even the edge tier now; it waits for money",
    "client_budget": "the client's budget does not cover even the edge tier now; it waits for money",
    "deployment_budget": "the deployment's budget does not cover even the edge tier now; it waits for money",
    TIER_MISSING: "the tier file has no longer the tier that it asks for or its preview promised; it waits",
    TIER_PAUSED: "the tier that its preview promised is paused; it waits until somebody resumes that tier",
    REQUESTED: "its line asks for this tier",
}


def share_alpha(prs: Sequence[float], *, share: float) -> float:
    """Return the alpha below which at most `share` of the given predictions lie, capped at 1/2.

    Args:
        prs: predicted PRS of a calibration split, [0, 1].
        share: wanted share of the cloud, [0, 1].
    Source: routing.md section 5, the exact rule with ties.
    """
    count = int(share * len(prs))
    if count >= len(prs):
        return CAP
    return min(CAP, sorted(prs)[count])


def _price(tier: TierProfile, job: WindowJob) -> int:
    return tier.price(job.n, width=job.width, height=job.height)


@dataclass(kw_only=True, slots=True)
class _Group:
    """A microbatch that is still being filled."""

    job: WindowJob  # its first job: batch and wanted size are the group's
    tier: TierProfile
    assignments: list[Assignment]
    jobs: list[WindowJob]
    pictures: int = 0


def pack(
    assignments: Sequence[Assignment],
    jobs: Sequence[WindowJob],
    *,
    tiers: Tiers,
    microbatch_jobs: int,
    resting: Set[str] = frozenset(),
    new_id: Callable[[], str] = new_id,
) -> tuple[Microbatch, ...]:
    """Group assignments of one batch, one tier and one size into microbatches, in the order of the jobs.

    A microbatch holds at most `microbatch_jobs` pictures, and so at most as many jobs, but at least one job:
    a lease then covers a bounded amount of work whatever n the jobs have. A cloud microbatch carries the same
    jobs on the edge tier as its fallback, where that is cheaper and not paused; jobs that ask for their tier
    have none.

    Args:
        assignments: of any number of batches.
        jobs: at least the assigned ones, in the window's order.
        tiers: for sizes and prices.
        microbatch_jobs: upper bound, >= 1.
        resting: tiers that are paused, and take nothing.
        new_id: makes the microbatches' ids.
    """
    known = {job.job_id: job for job in jobs}
    full: list[_Group] = []
    open_groups: dict[tuple[str, str, int | None, int | None, bool], _Group] = {}
    for assignment in assignments:
        job = known[assignment.job_id]
        key = (job.batch_id, assignment.tier, job.width, job.height, job.tier is None)
        group = open_groups.get(key)
        if group is None or group.pictures + job.n > microbatch_jobs:
            group = _Group(job=job, tier=tiers[assignment.tier], assignments=[], jobs=[])
            open_groups[key] = group
            full.append(group)
        group.assignments.append(assignment)
        group.jobs.append(job)
        group.pictures += job.n
    edge, rests = tiers[tiers.edge], tiers.edge in resting
    return tuple(_microbatch(group, edge=edge, rests=rests, microbatch_id=new_id()) for group in full)


def _microbatch(group: _Group, *, edge: TierProfile, rests: bool, microbatch_id: str) -> Microbatch:
    job, tier = group.job, group.tier
    cheaper = not rests and job.tier is None and _price(edge, job) < _price(tier, job)
    fallback = (
        tuple(
            replace(assignment, tier=edge.name, reason=BUDGET_GUARD, micro_usd=_price(edge, one))
            for assignment, one in zip(group.assignments, group.jobs, strict=True)
        )
        if cheaper
        else ()
    )
    return Microbatch(
        microbatch_id=microbatch_id,
        batch_id=job.batch_id,
        tier=tier.name,
        kind=tier.kind,
        width=job.width or tier.width,
        height=job.height or tier.height,
        assignments=tuple(group.assignments),
        fallback=fallback,
        fallback_tier=edge.name if cheaper else None,
        fallback_width=(job.width or edge.width) if cheaper else None,
        fallback_height=(job.height or edge.height) if cheaper else None,
    )
