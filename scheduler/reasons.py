"""Why a job got its tier, as a code and as the PRS below which it would have gone to the cloud.

Pure: the allocator's choice in, what is stored of it out; windows and previews tell it alike. The codes in
words are `scheduler.allocator.REASONS`.
"""

from collections.abc import Sequence

import numpy as np

from routet2i.contracts import DEFERRED_BY, SHORT_BY, TIER_MISSING, Prediction, Scope
from routet2i.tiers import Tiers
from scheduler.allocation.options import Bound, Choice, Floats, Options
from scheduler.allocator import (
    BETTER_ON_CLOUD,
    BETTER_ON_EDGE,
    CAP,
    CAPACITY,
    DEADLINE,
    PREDICTED_BEST,
    REQUESTED,
    TIER_FULL,
)
from scheduler.gains import Sized


def reason(choice: Choice, row: int, *, job: Sized, tiers: Tiers, short: Scope) -> str:
    """Return the code of an assigned job's reason.

    Args:
        row: of the job.
        short: whose money ended, if money decided.
    """
    if job.tier is not None:
        return REQUESTED
    match Bound(int(choice.bound[row])):
        case Bound.MONEY:
            return SHORT_BY[short]
        case Bound.CAPACITY:
            return TIER_FULL
        case Bound.DEADLINE:
            return DEADLINE
    tier = tiers.routed[int(choice.tier[row])]
    if tier == tiers.edge:
        return BETTER_ON_EDGE
    return BETTER_ON_CLOUD if tier == tiers.cloud else PREDICTED_BEST


def deferral(choice: Choice, row: int, *, job: Sized, tiers: Tiers, short: Scope) -> str:
    """Return the code of why a job waits.

    Args:
        row: of the job.
        short: whose money ended, if money decided.
    """
    if job.tier is not None and job.tier not in tiers.routed:
        return TIER_MISSING
    return CAPACITY if choice.bound[row] == Bound.DEFERRED_CAPACITY else DEFERRED_BY[short]


def thresholds(
    jobs: Sequence[Sized],
    predictions: Sequence[Prediction],
    *,
    choice: Choice,
    options: Options,
    price: Floats | float,
    tiers: Tiers,
) -> Floats:
    """Return (n,) the PRS below which each job goes to the cloud, 1/2 - price * extra / pictures.

    Rounding to whole jobs, a full tier or a deadline may take a job to this or that side of it: its threshold
    then moves to its PRS, so that on the cloud stands who lies below. Above 1/2 it never moves: only a
    deadline, or its own wish, takes a job to the cloud that is drawn as well on the edge.

    Args:
        price: gain per micro-dollar that bound each job, (n,) or one for all.
    Source: routing.md section 10.
    """
    pictures = np.array([job.n for job in jobs], dtype=np.float64)
    prs = np.array([one.prs for one in predictions], dtype=np.float64)
    edge, cloud = tiers.routed.index(tiers.edge), tiers.routed.index(tiers.cloud)
    extra = options.micro_usd[:, cloud] - options.micro_usd[:, edge]
    found = np.clip(CAP - price * np.maximum(extra, 0) / pictures, 0.0, CAP)
    above = np.minimum(np.nextafter(prs, 1.0), CAP)
    result: Floats = np.where(choice.tier == cloud, np.maximum(found, above), np.minimum(found, prs))
    return result
