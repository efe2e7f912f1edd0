"""Choose a tier for each job of a window, and group the choices into microbatches.

Pure: predictions and an allowance come in as arguments, assignments with reasons go out. It knows no clock,
no database and no queue, and it permits nothing: the ledger may still refuse what is proposed here.
Two routed tiers: a job goes to the cloud iff its predicted PRS is below alpha, and alpha is at most 1/2, so
a job predicted better on the edge stays there even if money is left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from routet2i.contracts import (
    DEFERRED_BY,
    GUARDED_BY,
    SHADOW_REASON,
    Assignment,
    Microbatch,
    Prediction,
    Scope,
    WindowJob,
    new_id,
)
from routet2i.tiers import TierProfile, Tiers

CAP = 0.5  # of alpha: at this PRS the tiers are equal

BETTER_ON_CLOUD = "predicted_better_on_cloud"
BETTER_ON_EDGE = "predicted_better_on_edge"
CLOUD_MONEY_SHORT = "cloud_money_short"
BUDGET_GUARD = GUARDED_BY[Scope.BATCH]
BUDGET = DEFERRED_BY[Scope.BATCH]

REASONS: Mapping[str, str] = {
    BETTER_ON_CLOUD: "the cloud tier was predicted to draw it better, and the budget allowed it",
    BETTER_ON_EDGE: "the edge tier was predicted to draw it as well or better",
    CLOUD_MONEY_SHORT: "the cloud tier was predicted to draw it better, but other jobs gain more per dollar",
    BUDGET_GUARD: "the ledger refused the price of the chosen tier, so the cheaper tier draws it",
    "client_budget_guard": "the client's budget could not pay the chosen tier, so the cheaper one draws it",
    "deployment_budget_guard": (
        "the deployment's budget could not pay the chosen tier, so the cheaper one draws it"
    ),
    SHADOW_REASON: "it repeats a user's job on the other tier, to compare prediction and pictures",
    BUDGET: "the budget does not cover even the edge tier now; it waits for money",
    "client_budget": "the client's budget does not cover even the edge tier now; it waits for money",
    "deployment_budget": "the deployment's budget does not cover even the edge tier now; it waits for money",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What is proposed for the jobs of one batch in one window; every job is in exactly one of the two."""

    assignments: tuple[Assignment, ...]  # in the order of the jobs
    deferred: tuple[tuple[str, str], ...]  # (job id, reason code)
    threshold: float  # alpha, [0, 0.5]

    @property
    def micro_usd(self) -> int:
        """Return what all assignments cost together."""
        return sum(assignment.micro_usd for assignment in self.assignments)


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


def alpha(prs: Sequence[float], *, extra: Sequence[int], spare: int | None) -> float:
    """Return the largest alpha in [0, 1/2] at which all jobs with PRS < alpha can be paid.

    Jobs with equal PRS are all below alpha or none is, so ties can never overspend and the order of the jobs
    does not matter.

    Args:
        prs: predicted PRS per job, [0, 1].
        extra: what each job costs more on the cloud than on the edge, in micro-dollars.
        spare: money above the edge price of all jobs; None = no limit.
    Source: routing.md section 5, budget form, for unequal costs as in section 10.
    """
    if spare is None:
        return CAP
    totals: dict[float, int] = {}
    for value, cost in zip(prs, extra, strict=True):
        if value < CAP:
            totals[value] = totals.get(value, 0) + cost
    for value in sorted(totals):
        spare -= totals[value]
        if spare < 0:
            return value
    return CAP


def assign(
    jobs: Sequence[WindowJob], predictions: Sequence[Prediction], *, tiers: Tiers, allowance: int | None
) -> Decision:
    """Choose a tier for each job of one batch, within the allowance, or defer it.

    The edge price of every job comes first, in the given order; a job that does not fit is deferred with the
    reason 'budget'. Only if all fit, the rest of the allowance buys cloud pictures, lowest PRS first.

    Args:
        jobs: of one batch, oldest first.
        predictions: one per job.
        tiers: the routed pair with its prices.
        allowance: micro-dollars this window may spend for the batch, >= 0; None = no limit.
    Returns:
        A decision whose micro_usd is at most the allowance.
    """
    edge, cloud = tiers[tiers.edge], tiers[tiers.cloud]
    left = allowance
    taken: list[tuple[WindowJob, Prediction]] = []
    deferred: list[tuple[str, str]] = []
    for job, prediction in zip(jobs, predictions, strict=True):
        price = _price(edge, job)
        if left is not None and price > left:
            deferred.append((job.job_id, BUDGET))
            continue
        if left is not None:
            left -= price
        taken.append((job, prediction))
    threshold = alpha(
        [prediction.prs for _, prediction in taken],
        extra=[_price(cloud, job) - _price(edge, job) for job, _ in taken],
        spare=0 if deferred else left,
    )
    assignments = tuple(
        _choose(job, prediction, edge=edge, cloud=cloud, threshold=threshold) for job, prediction in taken
    )
    return Decision(assignments=assignments, deferred=tuple(deferred), threshold=threshold)


def _choose(
    job: WindowJob, prediction: Prediction, *, edge: TierProfile, cloud: TierProfile, threshold: float
) -> Assignment:
    if prediction.prs < threshold:
        tier, reason = cloud, BETTER_ON_CLOUD
    else:
        tier, reason = edge, BETTER_ON_EDGE if prediction.prs >= CAP else CLOUD_MONEY_SHORT
    return Assignment(
        job_id=job.job_id,
        tier=tier.name,
        reason=reason,
        prs=prediction.prs,
        threshold=threshold,
        micro_usd=_price(tier, job),
        scores=prediction.scores,
    )


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
    new_id: Callable[[], str] = new_id,
) -> tuple[Microbatch, ...]:
    """Group assignments of one batch, one tier and one size into microbatches, in the order of the jobs.

    A microbatch holds at most `microbatch_jobs` pictures, and so at most as many jobs, but at least one job:
    a lease then covers a bounded amount of work whatever n the jobs have. A cloud microbatch carries the same
    jobs on the edge tier as its fallback, where that is cheaper.

    Args:
        assignments: of any number of batches.
        jobs: at least the assigned ones, in the window's order.
        tiers: for sizes and prices.
        microbatch_jobs: upper bound, >= 1.
        new_id: makes the microbatches' ids.
    """
    known = {job.job_id: job for job in jobs}
    full: list[_Group] = []
    open_groups: dict[tuple[str, str, int | None, int | None], _Group] = {}
    for assignment in assignments:
        job = known[assignment.job_id]
        key = (job.batch_id, assignment.tier, job.width, job.height)
        group = open_groups.get(key)
        if group is None or group.pictures + job.n > microbatch_jobs:
            group = _Group(job=job, tier=tiers[assignment.tier], assignments=[], jobs=[])
            open_groups[key] = group
            full.append(group)
        group.assignments.append(assignment)
        group.jobs.append(job)
        group.pictures += job.n
    edge = tiers[tiers.edge]
    return tuple(_microbatch(group, edge=edge, microbatch_id=new_id()) for group in full)


def _microbatch(group: _Group, *, edge: TierProfile, microbatch_id: str) -> Microbatch:
    job, tier = group.job, group.tier
    cheaper = _price(edge, job) < _price(tier, job)
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
