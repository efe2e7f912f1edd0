"""Which jobs of a window both tiers draw, so that predictions can be held against pictures.

Pure: settings, tiers, jobs and the time come in, a plan goes out. Chance is a hash of the job's id, so asking
again changes nothing, and neither prompt nor tier has a say in it. It knows no database and grants no money
(`db.shadows` does).
"""

import hashlib
from collections.abc import Iterable, Set

from routet2i.contracts import ShadowPlan, ShadowTier, Yardstick
from routet2i.settings import Settings
from routet2i.tiers import TierProfile, Tiers
from scheduler.budget import period_start

SEED = b"shadow"  # of the draw: another hash of job ids would draw other jobs


def is_drawn(job_id: str, *, share: float) -> bool:
    """Return whether chance hits a job; a larger share hits the same jobs and more."""
    digest = hashlib.blake2b(job_id.encode(), digest_size=8, key=SEED).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53 < share  # 53 bits: exact in a float, and below 1


def plan_shadows(
    job_ids: Iterable[str],
    *,
    settings: Settings,
    tiers: Tiers,
    yardstick: Yardstick | None,
    now: float,
    resting: Set[str] = frozenset(),
) -> ShadowPlan | None:
    """Return what a window may shadow; None if the settings shadow nothing, or a tier of the two rests.

    Args:
        job_ids: of the window.
        yardstick: of the predictor that decides.
        now: Unix time in seconds, names the budget period.
        resting: tiers that are paused, and take nothing.
    """
    share = settings.shadow_share
    if share == 0.0 or not resting.isdisjoint((tiers.edge, tiers.cloud)):
        return None
    edge, cloud = tiers[tiers.edge], tiers[tiers.cloud]
    start = period_start(now, seconds=settings.budget_period_seconds)
    return ShadowPlan(
        share=share,
        drawn=frozenset(job_id for job_id in job_ids if is_drawn(job_id, share=share)),
        other={edge.name: _shadow_tier(cloud), cloud.name: _shadow_tier(edge)},
        key=f"{settings.deployment}:{start}",
        limit_micro_usd=settings.shadow_budget_micro_usd,
        microbatch_jobs=settings.microbatch_jobs,
        yardstick=yardstick,
    )


def _shadow_tier(profile: TierProfile) -> ShadowTier:
    return ShadowTier(
        tier=profile.name,
        kind=profile.kind,
        width=profile.width,
        height=profile.height,
        micro_usd=profile.price(1),
    )
