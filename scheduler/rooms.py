"""How many more pictures each tier may be given: its `max_backlog` less what is unfinished there.

Pure; it decides nothing. A job with more pictures than a tier's limit counts as the limit: it goes there when
nothing else is before it, instead of never. Two schedulers that decide at once may give a tier twice its
room: it is no money, and the next windows give it less.
"""

from collections.abc import Mapping, Sequence, Set

import numpy as np

from routet2i.contracts import Pool
from routet2i.tiers import TierProfile, Tiers
from scheduler.allocation.options import Money
from scheduler.gains import Sized


def room_of(tier: TierProfile, pools: Mapping[str, Pool], *, resting: Set[str] = frozenset()) -> int | None:
    """Return how many pictures a tier may be given now, >= 0; None = any number.

    Args:
        pools: of all tiers with a limit; a missing one has nothing to do.
        resting: tiers that are paused, and take nothing.
    """
    if tier.name in resting:
        return 0
    if tier.max_backlog is None:
        return None
    pool = pools.get(tier.name)
    return max(0, tier.max_backlog - (0 if pool is None else pool.unfinished))


def load_of(tier: TierProfile, n: int) -> int:
    """Return what a job of `n` pictures takes of a tier's room."""
    return n if tier.max_backlog is None else min(n, tier.max_backlog)


def rooms(tiers: Tiers, pools: Mapping[str, Pool], *, resting: Set[str] = frozenset()) -> list[int | None]:
    """Return the room of each routed tier."""
    return [room_of(tiers[name], pools, resting=resting) for name in tiers.routed]


def loads(tiers: Tiers, jobs: Sequence[Sized]) -> Money:
    """Return (n, T) what each job takes of the room of each routed tier."""
    found = [[load_of(tiers[name], job.n) for name in tiers.routed] for job in jobs]
    return np.array(found, dtype=np.int64).reshape(len(jobs), len(tiers.routed))


def most_jobs(tiers: Tiers, pools: Mapping[str, Pool], *, resting: Set[str] = frozenset()) -> int | None:
    """Return how many jobs could find room at most; None = a routed tier takes any number."""
    found = rooms(tiers, pools, resting=resting)
    known = [one for one in found if one is not None]
    return sum(known) if len(known) == len(found) else None
