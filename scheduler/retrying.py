"""Try again what failed, or what one tier drew on another: a new batch whose jobs name what they repeat.

It has a budget of its own. The same command again finds the same batch, and one that was cut off is gone on
with. It knows neither SQL nor why a job failed.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from routet2i import tracing
from routet2i.contracts import OpenedBatch, QueueLimits
from routet2i.errors import BudgetTooSmall
from routet2i.tiers import Tiers
from scheduler.promise import dollars

JOBS_PER_COMMIT = 5000  # short enough a transaction for others to get in


class Retries(Protocol):
    """What retrying needs of `db.repository.Repository`."""

    def retryable(
        self, origin: str, *, job_ids: Sequence[str] | None, tier: str | None, drawn_by: str | None
    ) -> Sequence[Any]:
        """Return `jobs, n, width, height, tier` of what can be retried, one row per kind."""

    def retry_rounds(self, origin: str) -> Sequence[str]:
        """Return the batches that retried jobs of this one before, oldest first."""

    def open_retry(
        self,
        origin: str,
        *,
        idem_key: str,
        body_sha256: str,
        name: str | None,
        budget_micro_usd: int | None,
        jobs: int,
        limits: QueueLimits,
    ) -> OpenedBatch:
        """Return the batch of this key; raises Conflict if the key came with another body, or QueueFull."""

    def add_retries(
        self,
        origin: str,
        batch_id: str,
        *,
        job_ids: Sequence[str] | None,
        limit: int,
        tier: str | None,
        drawn_by: str | None,
    ) -> int:
        """Add the next retries in one transaction; return how many."""

    def close_intake(self, batch_id: str) -> None:
        """Open the batch to decision windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """What became of a wish to try again."""

    origin: str  # batch whose jobs are repeated
    batch_id: str | None  # the new one; None = there was never anything to retry
    jobs: int  # added now
    pictures: int
    floor_micro_usd: int  # what they cost on the edge tier, or on the tier that they ask for
    budget_micro_usd: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """What it would cost to try again."""

    jobs: int
    pictures: int
    floor_micro_usd: int  # on the edge tier, or on the tier that they ask for
    most_micro_usd: int  # on the dearest tier that they may go to


def quote(
    retries: Retries,
    origin: str,
    *,
    job_ids: Sequence[str] | None,
    tiers: Tiers,
    tier: str | None = None,
    drawn_by: str | None = None,
) -> Quote:
    """Say what `retry` with the same arguments would begin and cost; nothing is written."""
    return _quoted(
        retries.retryable(origin, job_ids=job_ids, tier=tier, drawn_by=drawn_by), tiers=tiers, tier=tier
    )


def _quoted(shapes: Sequence[Any], *, tiers: Tiers, tier: str | None) -> Quote:
    floor = most = 0
    for row in shapes:
        asked = _known(tier or row.tier, tiers)
        prices = {
            name: tiers[name].price(row.n, width=row.width, height=row.height)
            for name in ([asked] if asked is not None else tiers.routed)
        }
        floor += row.jobs * prices[asked or tiers.edge]
        most += row.jobs * max(prices.values())
    return Quote(
        jobs=sum(row.jobs for row in shapes),
        pictures=sum(row.jobs * row.n for row in shapes),
        floor_micro_usd=floor,
        most_micro_usd=most,
    )


def retry(
    retries: Retries,
    origin: str,
    *,
    job_ids: Sequence[str] | None,
    tiers: Tiers,
    limits: QueueLimits,
    budget_micro_usd: int | None,
    key: str | None = None,
    name: str | None = None,
    tier: str | None = None,
    drawn_by: str | None = None,
) -> Retry:
    """Make new jobs of those that failed, or that one tier drew, and were not retried yet.

    Args:
        job_ids: only these, if they ended without success; None = all that failed.
        tiers: for the least that the retries can cost.
        limits: of the queue.
        budget_micro_usd: limit of the new batch; None = no limit.
        key: makes the call repeatable; by default the next round of retries of this batch.
        tier: routed, that the retries ask for; None = what their jobs have asked for.
        drawn_by: instead of those that failed: those that this tier drew, for another one.
    Raises:
        BudgetTooSmall: the budget does not cover the cheapest tier; nothing was written.
        Conflict: the key was used before with another budget or other jobs.
        QueueFull: they find no room in the queue; nothing was written.
        NotFound: no such batch. UsageError: a batch of shadows.
    """
    shapes = retries.retryable(origin, job_ids=job_ids, tier=tier, drawn_by=drawn_by)
    quoted = _quoted(shapes, tiers=tiers, tier=tier)
    floor, pictures = quoted.floor_micro_usd, quoted.pictures
    rounds = retries.retry_rounds(origin)
    if not shapes and key is None:
        return Retry(
            origin=origin,
            batch_id=rounds[-1] if rounds else None,
            jobs=0,
            pictures=0,
            floor_micro_usd=0,
            budget_micro_usd=budget_micro_usd,
        )
    if budget_micro_usd is not None and floor > budget_micro_usd:
        raise BudgetTooSmall(
            f"the budget of ${dollars(budget_micro_usd)} does not cover {pictures} pictures, which cost "
            f"${dollars(floor)} on tier {tier or tiers.edge}; type --budget {dollars(floor)} or more"
        )
    which = "failed" if job_ids is None else ",".join(sorted(job_ids))
    wish = f"retry\n{origin}\n{which}\n{budget_micro_usd}"
    if tier is not None:
        wish += f"\ntier {tier}, drawn by {drawn_by}"
    body = hashlib.sha256(wish.encode()).hexdigest()
    opened = retries.open_retry(
        origin,
        idem_key=key or f"retry:{origin}:{len(rounds)}",
        body_sha256=body,
        name=name,
        budget_micro_usd=budget_micro_usd,
        jobs=quoted.jobs,
        limits=limits,
    )
    added = 0
    if opened.state == "ingesting":
        began_ns = time.time_ns()
        while step := retries.add_retries(
            origin,
            opened.batch_id,
            job_ids=job_ids,
            limit=JOBS_PER_COMMIT,
            tier=tier,
            drawn_by=drawn_by,
        ):
            added += step
        retries.close_intake(opened.batch_id)
        tracing.submitted(
            opened.batch_id,
            began_ns=began_ns,
            attributes={"routet2i.retry_of": origin, "routet2i.jobs": added},
        )
    return Retry(
        origin=origin,
        batch_id=opened.batch_id,
        jobs=added,
        pictures=pictures if added else 0,
        floor_micro_usd=floor,
        budget_micro_usd=budget_micro_usd,
    )


def _known(tier: str | None, tiers: Tiers) -> str | None:
    """Return the tier that a job asks for; one that the tier file has no longer is waited for, unpriced."""
    return tier if tier is not None and tier in tiers.routed else None
