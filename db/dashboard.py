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
NEWEST = 400  # microbatches of a tier that are looked at


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
        return [_flow(connection, tier, live_seconds=live_seconds) for tier in tiers]


def _flow(connection: Connection, tier: str, *, live_seconds: float) -> Flow:
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
    minutes = _minutes(connection, tier)
    return Flow(
        tier=tier,
        busy=workers.get("busy", 0),
        idle=workers.get("idle", 0),
        waiting=held["ready"].microbatches + held["sent"].microbatches,
        claimed=held["claimed"].microbatches,
        oldest_seconds=max(ages) / 1000 if ages else None,
        minutes=minutes,
        per_minute=sum(minutes) / len(minutes) if minutes else 0.0,
    )


def _minutes(connection: Connection, tier: str) -> tuple[int, ...]:
    """Return the jobs per minute of the last hour, or of as much of it as the newest microbatches reach."""
    rows = run(
        connection,
        """SELECT ({NOW} - o.at_ms) / 60000 AS ago, count(*) AS jobs
            FROM (SELECT id FROM microbatch WHERE tier = :tier AND state = 'done'
                  ORDER BY id DESC LIMIT :newest) AS m
            JOIN job j ON j.microbatch_id = m.id AND j.microbatch_id IS NOT NULL
            JOIN outcome o ON o.job_id = j.id
            GROUP BY 1""",
        {"tier": tier, "newest": NEWEST},
    ).all()
    jobs = {int(row.ago): row.jobs for row in rows}
    looked_at = run(
        connection,
        """SELECT count(*) FROM (
            SELECT 1 FROM microbatch WHERE tier = :tier AND state = 'done' LIMIT :most) AS m""",
        {"tier": tier, "most": NEWEST + 1},
    ).scalar_one()
    reach = MINUTES if looked_at <= NEWEST else min(MINUTES, max(jobs, default=0) + 1)
    return tuple(jobs.get(ago, 0) for ago in range(reach - 1, -1, -1))
