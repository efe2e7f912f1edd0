"""What the first page shows: the batches, newest first, and how each tier's work flows.

Read only, and quick at any size: every question looks at the newest rows of an index, never at a whole table.
It knows no page; a batch's own figures are `db.audit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from db.dialects import run
from db.session import reading
from db.story import at
from routet2i.contracts import SHADOW_CLIENT

MINUTES = 60  # of throughput that are shown
NEWEST = 10_000  # outcomes of all tiers that are looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """A batch without its figures."""

    batch_id: str
    name: str
    client: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """One tier's queue, workers and throughput at this moment."""

    tier: str
    busy: int  # workers
    idle: int
    waiting: int  # microbatches that no worker has
    claimed: int
    oldest_seconds: float | None  # since the oldest of the waiting ones was formed
    minutes: tuple[int, ...]  # jobs that ended in each of the last minutes, oldest first
    per_minute: float  # their mean

    @property
    def workers(self) -> int:
        """Return how many workers were heard of lately."""
        return self.busy + self.idle


def heads(
    engine: Engine, *, client: str | None = None, after: str | None = None, limit: int = 20
) -> list[Head]:
    """Return batches, newest first, without those of shadows.

    Args:
        client: only its batches; None = everybody's.
        after: id of the last batch of the page before.
    """
    where, given = "", {"shadow": SHADOW_CLIENT, "limit": limit}
    if client is not None:
        where += " AND client = :client"
        given["client"] = client
    if after is not None:
        where += " AND id < :after"  # ids grow with time (UUID 7)
        given["after"] = after
    with reading(engine) as connection:
        rows = run(
            connection,
            f"""SELECT id, name, client, created_ms FROM batch WHERE client <> :shadow {where}
                ORDER BY id DESC LIMIT :limit""",  # noqa: S608 - words of this function
            given,
        ).all()
    return [
        Head(batch_id=row.id, name=row.name, client=row.client, created_at=at(row.created_ms)) for row in rows
    ]


def flows(engine: Engine, *, tiers: Sequence[str], live_seconds: float) -> list[Flow]:
    """Return how each tier's work flows.

    Args:
        live_seconds: a worker that was silent for longer is left out.
    """
    with reading(engine) as connection:
        ended, reach = _ended(connection)
        return [
            _flow(
                connection,
                tier,
                live_seconds=live_seconds,
                minutes=tuple(ended.get((tier, ago), 0) for ago in range(reach - 1, -1, -1)),
            )
            for tier in tiers
        ]


def _flow(connection: Connection, tier: str, *, live_seconds: float, minutes: tuple[int, ...]) -> Flow:
    workers = {
        row.state: row.workers
        for row in run(
            connection,
            """SELECT state, count(*) AS workers FROM worker
                WHERE tier = :tier AND state IN ('idle', 'busy') AND heartbeat_ms >= {NOW} - :within
                GROUP BY state""",
            {"tier": tier, "within": round(live_seconds * 1000)},
        )
    }
    held: dict[str, Any] = {
        state: run(
            connection,
            """SELECT count(*) AS microbatches, {NOW} - min(created_ms) AS age_ms FROM microbatch
                WHERE tier = :tier AND state = :state""",
            {"tier": tier, "state": state},
        ).one()
        for state in ("ready", "sent", "claimed")
    }
    ages = [held[state].age_ms for state in ("ready", "sent") if held[state].age_ms is not None]
    return Flow(
        tier=tier,
        busy=workers.get("busy", 0),
        idle=workers.get("idle", 0),
        waiting=held["ready"].microbatches + held["sent"].microbatches,
        claimed=held["claimed"].microbatches,
        oldest_seconds=max(ages) / 1000 if ages else None,
        minutes=minutes,
        per_minute=sum(minutes) / len(minutes),
    )


def _ended(connection: Connection) -> tuple[dict[tuple[str, int], int], int]:
    """Return (tier, minutes ago) -> jobs that ended then, and how many minutes the newest outcomes reach."""
    rows = run(
        connection,
        """SELECT o.tier, ({NOW} - o.at_ms) / 60000 AS ago, count(*) AS jobs
            FROM (SELECT tier, at_ms FROM outcome WHERE at_ms > {NOW} - :hour
                  ORDER BY at_ms DESC LIMIT :newest) AS o
            GROUP BY 1, 2""",
        {"hour": MINUTES * 60_000, "newest": NEWEST},
    ).all()
    all_of_them = sum(row.jobs for row in rows) < NEWEST
    reach = MINUTES if all_of_them else max(1, *(int(row.ago) for row in rows))
    return {(row.tier, int(row.ago)): row.jobs for row in rows}, reach
