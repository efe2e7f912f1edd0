"""Clients: what share of the windows each has, how far it was served, and who waits.

It knows the rows of `client` and counts of what waits; which jobs a window takes is `db.turns`, arithmetic is
`db.fairness`. A client without a row has weight 1 and was never served.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from db.dialects import pack_ids, run
from db.fairness import Client, served, started, starting_before
from routet2i.contracts import SHADOW_CLIENT

RUNS = """NOT EXISTS (SELECT 1 FROM pause p
    WHERE p.kind = 'batch' AND p.name = b.id OR p.kind = 'client' AND p.name = b.client)"""
# Of jobs that ask for a tier, as `waiting` says it: '' asks for none, and no pause has that name
TIER_RUNS = "NOT EXISTS (SELECT 1 FROM pause p WHERE p.kind = 'tier' AND p.name = w.tier)"
WAITING = f"""SELECT b.client, sum(w.jobs) AS jobs, count(DISTINCT w.batch_id) AS batches
    FROM waiting w JOIN batch b ON b.id = w.batch_id WHERE b.state = 'open' AND w.jobs > 0 AND {RUNS}
        AND {TIER_RUNS}
    GROUP BY b.client"""  # noqa: S608 - constants
REACHED = "SELECT COALESCE(max(reached), 0) FROM decision_window"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Who has jobs waiting in open batches."""

    clients: Mapping[str, Client]  # nobody behind the virtual time that service has reached
    waiting: Mapping[str, int]  # client -> jobs, deferred ones included


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientRow:
    """A client, for people."""

    name: str
    weight: int
    queued: int  # jobs that wait in open batches, without those that a pause holds
    batches: int  # open, with jobs that wait
    share: float | None  # of a window's places, while those wait who wait now; None = it has no job waiting
    jobs_before: int | None  # of others, that start before its next one; None = it has no job waiting


def line(connection: Connection) -> Line:
    """Return who waits, in time that grows with open batches, not with jobs."""
    rows = run(
        connection,
        f"""SELECT q.client, q.jobs, c.weight, c.virtual, ({REACHED}) AS reached
            FROM ({WAITING}) AS q LEFT JOIN client c ON c.name = q.client""",  # noqa: S608 - constants
    ).all()
    known = {
        row.client: Client() if row.weight is None else Client(weight=row.weight, virtual=row.virtual)
        for row in rows
    }
    return Line(
        clients=started(known, reached=max((row.reached for row in rows), default=0)),
        waiting={row.client: int(row.jobs) for row in rows},
    )


def lock(connection: Connection, names: Iterable[str]) -> dict[str, Client]:
    """Lock the rows of clients in the order of their names, and make those that are missing."""
    packed = pack_ids(names)
    run(
        connection,
        """INSERT INTO client(name, weight, virtual) SELECT c.id, 1, 0 FROM {IDS} AS c
            WHERE NOT EXISTS (SELECT 1 FROM client k WHERE k.name = c.id) ORDER BY c.id
            ON CONFLICT(name) DO NOTHING""",
        {"ids": packed},
    )
    rows = run(
        connection,
        "SELECT name, weight, virtual FROM client WHERE name IN {IDS} ORDER BY name {LOCK}",
        {"ids": packed},
    )
    return {row.name: Client(weight=row.weight, virtual=row.virtual) for row in rows}


def charge(connection: Connection, locked: Mapping[str, Client], jobs: Mapping[str, int]) -> int:
    """Write that clients were given places; return the virtual time that service has reached now, ticks.

    What others were given since the window was opened counts: two schedulers charge one after the other.

    Args:
        locked: of `lock`, in this transaction.
        jobs: client -> jobs that were decided. A deferred one has used a place too: if it were free, clients
            without money would be behind for ever and take the places of those that can pay.
    """
    reached = int(run(connection, REACHED).scalar_one())
    given = {name: count for name, count in sorted(jobs.items()) if count}
    if not given:
        return reached
    now = started({name: locked[name] for name in given}, reached=reached)
    run(
        connection,
        "UPDATE client SET virtual = :virtual WHERE name = :name",
        [{"name": name, "virtual": served(now[name], jobs=count).virtual} for name, count in given.items()],
    )
    return max(reached, *(now[name].start(count - 1) for name, count in given.items()))


def set_weight(connection: Connection, name: str, *, weight: int) -> None:
    """Set a client's weight, known or not; see `Repository.set_weight`."""
    run(
        connection,
        """INSERT INTO client(name, weight, virtual) VALUES(:name, :weight, 0)
            ON CONFLICT(name) DO UPDATE SET weight = excluded.weight""",
        {"name": name, "weight": weight},
    )


def rows(connection: Connection) -> list[ClientRow]:
    """Return every client that was served, waits or has a weight; see `Repository.clients`."""
    known = {row.name: row.weight for row in run(connection, "SELECT name, weight FROM client")}
    waiting = {row.client: row for row in run(connection, WAITING)}
    queue = line(connection)
    now = queue.clients
    total = sum(one.weight for one in now.values())
    found = []
    for name in sorted((known.keys() | waiting.keys()) - {SHADOW_CLIENT}):
        row, mine = waiting.get(name), now.get(name)
        found.append(
            ClientRow(
                name=name,
                weight=known.get(name, 1),
                queued=0 if row is None else int(row.jobs),
                batches=0 if row is None else row.batches,
                share=None if mine is None else mine.weight / total,
                jobs_before=None
                if mine is None
                else sum(starting_before(mine.virtual, now, queue.waiting).values()),
            )
        )
    return found
