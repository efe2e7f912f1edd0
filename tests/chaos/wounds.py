"""What a fault touched and when, and how long it took until that went on: measured in SQL, afterwards.

A wound names jobs that a claim held (they have recovered when each has a newer attempt, or its outcome), or
what stood still as a whole (recovered with the next sign of that kind). Times are Unix milliseconds, which
both databases' clocks are. It knows no process.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Engine

from db.dialects import pack_ids, run
from db.session import reading

Sign = Literal["outcome", "window", "attempt", "purchase"]
_NEXT = {
    "outcome": "SELECT min(at_ms) FROM outcome WHERE at_ms > :since AND fence IS NOT NULL",
    "window": "SELECT min(committed_ms) FROM decision_window WHERE committed_ms > :since",
    "attempt": "SELECT min(started_ms) FROM attempt WHERE started_ms > :since",
    "purchase": "SELECT min(settled_ms) FROM call WHERE settled_ms > :since AND image_sha256 IS NOT NULL",
}


def now_ms() -> int:
    """Return the time."""
    return round(time.time() * 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wound:
    """What one fault touched."""

    since_ms: int  # of the strike; of the healing, where nothing can go on before
    jobs: tuple[str, ...] = ()
    signs: tuple[Sign, ...] = ()


def held_jobs(engine: Engine, *, worker_prefix: str = "", state: str = "claimed") -> tuple[str, ...]:
    """Return the unfinished jobs of microbatches in a state, of workers whose name begins so."""
    with reading(engine) as connection:
        return tuple(
            run(
                connection,
                """SELECT j.id FROM microbatch m JOIN job j ON j.microbatch_id = m.id
                    WHERE m.state = :state AND j.state = 'assigned'
                    AND COALESCE(m.worker_id, '') LIKE :prefix""",
                {"state": state, "prefix": f"{worker_prefix}%"},
            ).scalars()
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """From the beginning of a strike to the end of what it did by itself, Unix milliseconds."""

    began_ms: int
    ended_ms: int

    def meets(self, since_ms: int, seconds: float) -> bool:
        """Whether it overlaps a time that began then and lasted so long."""
        return self.began_ms < since_ms + 1000 * seconds and self.ended_ms > since_ms


def recovery_seconds(engine: Engine, wound: Wound) -> float | None:
    """Return how long a wound took to heal; None if it touched nothing that went on, or nothing was left."""
    with reading(engine) as connection:
        moments = [_next(connection, sign, wound.since_ms) for sign in wound.signs]
        if wound.jobs:
            moments += _jobs(connection, wound.jobs, wound.since_ms)
    found = [moment for moment in moments if moment is not None]
    return (max(found) - wound.since_ms) / 1000 if found else None


def _next(connection: Connection, sign: Sign, since_ms: int) -> int | None:
    moment: int | None = run(connection, _NEXT[sign], {"since": since_ms}).scalar()
    return moment


def _jobs(connection: Connection, jobs: Sequence[str], since_ms: int) -> list[int | None]:
    wanted = {"ids": pack_ids(jobs), "since": since_ms}
    moments: dict[str, int] = {}
    for statement in (
        """SELECT job_id, min(started_ms) FROM attempt
            WHERE job_id IN {IDS} AND started_ms > :since GROUP BY job_id""",
        "SELECT job_id, at_ms FROM outcome WHERE job_id IN {IDS} AND at_ms > :since",
    ):
        for job_id, moment in run(connection, statement, wanted):
            moments[job_id] = min(moment, moments.get(job_id, moment))
    return list(moments.values())
