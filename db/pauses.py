"""Pauses: whose jobs windows leave queued, and which tier they give none, until somebody resumes.

What is assigned already is drawn. It knows rows of `pause`; windows read them in their own statements
(`db.turns`, `db.clients`) and through `of_tiers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection

from db.dialects import run
from db.story import at


class Paused(StrEnum):
    """What can be paused."""

    CLIENT = "client"
    BATCH = "batch"
    TIER = "tier"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """One pause that lasts."""

    kind: Paused
    name: str  # of the client or the tier; the batch's id
    who: str
    reason: str
    since: datetime


def pause(connection: Connection, kind: Paused, name: str, *, who: str, reason: str) -> bool:
    """Begin a pause; False if it lasts already, and stays as it is."""
    made = run(
        connection,
        """INSERT INTO pause(kind, name, who, reason, at_ms) VALUES(:kind, :name, :who, :reason, {NOW})
            ON CONFLICT(kind, name) DO NOTHING""",
        {"kind": kind.value, "name": name, "who": who, "reason": reason},
    )
    return made.rowcount == 1


def resume(connection: Connection, kind: Paused, name: str) -> bool:
    """End a pause; False if there was none."""
    ended = run(
        connection,
        "DELETE FROM pause WHERE kind = :kind AND name = :name",
        {"kind": kind.value, "name": name},
    )
    return ended.rowcount == 1


def rows(connection: Connection) -> Sequence[Pause]:
    """Return all that is paused, the longest first."""
    found = run(connection, "SELECT * FROM pause ORDER BY at_ms, kind, name")
    return [
        Pause(kind=Paused(row.kind), name=row.name, who=row.who, reason=row.reason, since=at(row.at_ms))
        for row in found
    ]


def of_tiers(connection: Connection) -> frozenset[str]:
    """Return the tiers that get no jobs."""
    return frozenset(run(connection, "SELECT name FROM pause WHERE kind = 'tier'").scalars())
