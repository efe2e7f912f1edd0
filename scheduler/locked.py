"""Jobs whose tier and price a preview has fixed: they take their money before a window decides the others.

Pure: a window's work comes in; microbatches, deferrals and the work that is left go out. Nothing is predicted
or chosen here, and nothing is permitted: the ledger may still refuse. A locked microbatch has no fallback
tier, so a refused one waits, and so does a job whose tier is full.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from routet2i.contracts import (
    DEFERRED_BY,
    TIER_MISSING,
    TIER_PAUSED,
    Account,
    Assignment,
    Microbatch,
    Pool,
    Waiting,
    WindowJob,
    WindowPlan,
    WindowWork,
)
from routet2i.tiers import Tiers
from scheduler.allocator import CAPACITY, pack
from scheduler.rooms import load_of, room_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """What previews have decided of a window, and what is left to decide."""

    microbatches: tuple[Microbatch, ...]  # without a fallback
    deferred: tuple[tuple[str, str], ...]  # (job id, reason code)
    rest: WindowWork  # the other jobs, with the money and the room that the locked ones leave

    def added_to(self, plan: WindowPlan) -> WindowPlan:
        """Return the plan for the whole window; the locked jobs ask the ledger first.

        Args:
            plan: for `rest`.
        """
        if not self.microbatches and not self.deferred:
            return plan
        micro_usd = sum(one.micro_usd for one in self.microbatches)
        left = plan.available_micro_usd
        return replace(
            plan,
            microbatches=self.microbatches + plan.microbatches,
            deferred=self.deferred + plan.deferred,
            available_micro_usd=None if left is None else left + micro_usd,
            locked=frozenset(a.job_id for one in self.microbatches for a in one.assignments),
        )


def take_locked(work: WindowWork, *, tiers: Tiers, microbatch_jobs: int) -> Locked:
    """Set aside the jobs of a window that previews have decided, as far as there is money and room for them.

    In the order of the window, each job gets its price if all of its accounts still have it and its tier has
    room; else it is deferred, with the account that lies innermost, or the room, as the reason.

    Args:
        tiers: for the sizes of pictures; prices are the previews'.
        microbatch_jobs: upper bound of pictures in a microbatch, >= 1.
    """
    locked = {job.job_id: job.locked for job in work.jobs if job.locked is not None}
    if not locked:
        return Locked(microbatches=(), deferred=(), rest=work)
    free = {
        account: funds.limit - funds.reserved - funds.spent
        for account, funds in work.accounts.items()
        if funds.limit is not None
    }
    taken: list[Assignment] = []
    deferred: list[tuple[str, str]] = []
    held: dict[Account, int] = {}  # micro-USD
    pools = dict(work.pools)
    for job in work.jobs:
        if job.job_id not in locked:
            continue
        choice = locked[job.job_id]
        refused = _refusal(job, choice, free, pools, work=work, tiers=tiers)
        if refused is not None:
            deferred.append((job.job_id, refused))
            continue
        taken.append(choice)
        for account in work.chains[job.batch_id]:
            held[account] = held.get(account, 0) + choice.micro_usd
            if account in free:
                free[account] -= choice.micro_usd
        before = pools.get(choice.tier, Pool(tier=choice.tier, unfinished=0, workers=0))
        pools[choice.tier] = replace(before, unfinished=before.unfinished + job.n)
    packed = pack(taken, work.jobs, tiers=tiers, microbatch_jobs=microbatch_jobs)
    return Locked(
        microbatches=tuple(_without_fallback(one) for one in packed),
        deferred=tuple(deferred),
        rest=_rest(work, held, pools),
    )


def _refusal(
    job: WindowJob,
    choice: Assignment,
    free: Mapping[Account, int],
    pools: Mapping[str, Pool],
    *,
    work: WindowWork,
    tiers: Tiers,
) -> str | None:
    """Return why a job must wait, a code of `scheduler.allocator.REASONS`; None if it need not."""
    if choice.tier not in tiers.profiles:
        return TIER_MISSING
    if choice.tier in work.resting:
        return TIER_PAUSED
    for account in work.chains[job.batch_id]:
        if free.get(account, choice.micro_usd) < choice.micro_usd:
            return DEFERRED_BY[account.scope]
    room = room_of(tiers[choice.tier], pools)
    return CAPACITY if room is not None and room < load_of(tiers[choice.tier], job.n) else None


def _without_fallback(microbatch: Microbatch) -> Microbatch:
    return replace(microbatch, fallback=(), fallback_tier=None, fallback_width=None, fallback_height=None)


def _rest(work: WindowWork, held: Mapping[Account, int], pools: Mapping[str, Pool]) -> WindowWork:
    """Return the jobs that are free, with accounts and pools after what was held."""
    jobs = tuple(job for job in work.jobs if job.locked is None)
    batches = {job.batch_id for job in jobs}
    chains = {batch: chain for batch, chain in work.chains.items() if batch in batches}
    named = {account for chain in chains.values() for account in chain}
    accounts = {
        account: replace(funds, reserved=funds.reserved + held.get(account, 0))
        for account, funds in work.accounts.items()
        if account in named
    }
    return replace(
        work,
        jobs=jobs,
        chains=chains,
        accounts=accounts,
        pools=pools,
        elsewhere={one: work.elsewhere.get(one, ()) + _behind(work, one, batches) for one in accounts},
    )


def _behind(work: WindowWork, account: Account, batches: Set[str]) -> tuple[Waiting, ...]:
    """Return what waits behind this window in an account's batches that are not these."""
    others = {batch for batch, chain in work.chains.items() if account in chain} - batches
    here: dict[tuple[str, int | None, int | None, str | None], list[int]] = {}
    for job in work.jobs:
        here.setdefault((job.batch_id, job.width, job.height, job.tier), []).append(job.n)
    found = []
    for batch in sorted(others):
        for group in work.waiting.get(batch, ()):
            taken = here.get((batch, group.width, group.height, group.tier), [])
            if group.jobs > len(taken):
                found.append(
                    replace(group, jobs=group.jobs - len(taken), pictures=max(0, group.pictures - sum(taken)))
                )
    return tuple(found)
