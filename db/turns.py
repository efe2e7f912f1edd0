"""Whose turn it is: which queued jobs a window takes, in time that grows with its places, not with the queue.

Clients share the places by virtual time (`db.fairness`). A client's own jobs come in this order: those whose
time is half gone, the most urgent first; then by priority, oldest batch first, in file order. But every
eighth place is for its oldest job, whatever its priority. It knows neither money nor what a job is worth.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from db import clients
from db.clients import RUNS, TIER_RUNS
from db.dialects import pack_ids, run
from db.fairness import AGED, Client, aged, in_turn, quotas

ROUNDS = 4  # of sharing: what a client leaves because its jobs are deferred is offered to the others

# No join with batch, which planners begin with by old statistics: each job's batch is looked up by its key
_TAKEABLE = """FROM job j WHERE j.client = {client} AND j.state = 'queued' AND j.not_before_ms <= {NOW}
    AND (SELECT b.state FROM batch b WHERE b.id = j.batch_id) = 'open'
    AND NOT EXISTS (SELECT 1 FROM pause p WHERE p.kind = 'batch' AND p.name = j.batch_id)
    AND (j.tier IS NULL OR j.tier NOT IN {NAMES}
        AND NOT EXISTS (SELECT 1 FROM pause p WHERE p.kind = 'tier' AND p.name = j.tier))"""
_OF_CLIENT = _TAKEABLE.replace("{client}", "c.id")
URGENT = f"""SELECT j.id {_OF_CLIENT} AND j.jump_ms <= {{NOW}}
    ORDER BY j.jump_ms, j.priority DESC, j.batch_id, j.seq LIMIT :most"""
RANKED = f"""SELECT j.id {_OF_CLIENT}
    ORDER BY j.priority DESC, j.batch_id, j.seq LIMIT :most"""
FIRST = f"""SELECT c.id AS client,
        CAST((SELECT {{ROWS}}(q.id) FROM ({URGENT}) AS q) AS text) AS urgent,
        CAST((SELECT {{ROWS}}(q.id) FROM ({RANKED}) AS q) AS text) AS ranked
    FROM {{IDS}} AS c"""  # noqa: S608 - constants
# Priorities are few: the next lower one is looked up from each, and of each its oldest jobs are read.
# A range, for an equal priority is no part of the order: then the index of (batch, line) has that order too
_LEVEL = """SELECT j.priority FROM job j WHERE j.client = {client} AND j.state = 'queued' {below}
    ORDER BY j.priority DESC LIMIT 1"""
OLDEST = f"""WITH RECURSIVE level(client, priority) AS (
        SELECT c.id, ({_LEVEL.format(client="c.id", below="")}) FROM {{IDS}} AS c
        UNION ALL
        SELECT l.client, ({_LEVEL.format(client="l.client", below="AND j.priority < l.priority")})
        FROM level l WHERE l.priority IS NOT NULL
    )
    SELECT v.client, CAST((SELECT {{ROWS}}({{ROW}}(q.batch_id, q.seq, q.id)) FROM (
        SELECT j.batch_id, j.seq, j.id {_TAKEABLE.replace("{client}", "v.client")}
            AND j.priority >= v.priority AND j.priority <= v.priority
        ORDER BY j.priority DESC, j.batch_id, j.seq LIMIT :most) AS q) AS text) AS oldest
    FROM level v WHERE v.priority IS NOT NULL"""  # noqa: S608 - constants

RUNS_OF_JOB = (
    f"{RUNS} AND {TIER_RUNS}".replace("b.id", "j.batch_id")
    .replace("b.client", "j.client")
    .replace("w.tier", "j.tier")
)
COUNT = f"""SELECT (SELECT COALESCE(sum(w.jobs), 0) FROM waiting w JOIN batch b ON b.id = w.batch_id
        WHERE b.state = 'open' AND w.jobs > 0 AND {RUNS} AND {TIER_RUNS})
    - (SELECT count(*) FROM job j
        WHERE j.state = 'queued' AND not_before_ms > 0 AND not_before_ms > {{NOW}} AND {RUNS_OF_JOB})"""  # noqa: S608 - constants


def take(connection: Connection, *, limit: int, full: Set[str] = frozenset()) -> list[Row[Any]]:
    """Return at most `limit` jobs that may be decided now, in the order of their turns.

    The turns of clients alternate, so that money which they share is shared too where it runs short.

    Args:
        full: tiers; the jobs that ask for one of them stay as they are, and hold up none behind them.
    """
    line = clients.line(connection)
    able = dict(line.waiting)  # client -> jobs it can use a place for
    found: dict[str, list[str]] = {}
    for _ in range(ROUNDS):
        given = quotas(line.clients, waiting=able, places=limit)
        asked = {name: places for name, places in given.items() if places > len(found.get(name, ()))}
        if not asked:
            break
        found |= _next(connection, {name: line.clients[name] for name in asked}, asked, full)
        able |= {name: len(found[name]) for name, places in asked.items() if len(found[name]) < places}
    if not any(found.values()):
        return []
    rows = {
        row.id: row
        for row in run(
            connection,
            """SELECT j.id, j.batch_id, j.prompt, j.width, j.height, j.n, j.deadline_ms, j.tier, b.preview_id
                FROM job j JOIN batch b ON b.id = j.batch_id WHERE j.id IN {IDS}""",
            {"ids": pack_ids(job for jobs in found.values() for job in jobs)},
        )
    }
    next_of = {name: iter(jobs) for name, jobs in found.items()}
    turns = in_turn(line.clients, given={name: len(jobs) for name, jobs in found.items()})
    return [rows[next(next_of[name])] for name in turns]


def _next(
    connection: Connection, asking: Mapping[str, Client], places: Mapping[str, int], full: Set[str]
) -> dict[str, list[str]]:
    """Return the jobs each client would have decided next, at most so many, the first first."""
    names = pack_ids(full)
    jobs: dict[str, list[str]] = {}
    aging: dict[str, int] = {}  # client -> places for its oldest jobs, if not all of them are taken anyway
    for most, theirs in _alike(places):
        for row in run(connection, FIRST, {"most": most, "ids": pack_ids(theirs), "names": names}):
            ranked = _list(row.ranked)
            jobs[row.client] = [*_list(row.urgent), *ranked]
            share = _share(asking[row.client], places[row.client])
            if share and len(ranked) >= places[row.client]:
                aging[row.client] = share
    oldest: dict[str, list[tuple[str, int, str]]] = {name: [] for name in asking}
    for most, theirs in _alike(aging):
        for row in run(connection, OLDEST, {"most": most, "ids": pack_ids(theirs), "names": names}):
            oldest[row.client] += map(tuple, _list(row.oldest))
    return {
        name: aged(
            iter(own),
            (job for *_, job in sorted(oldest[name])),
            first=asking[name].place,
            places=places[name],
        )
        for name, own in jobs.items()
    }


def _share(client: Client, places: int) -> int:
    """Return how many of a client's next places are for its oldest jobs."""
    return (client.place + places) // AGED - client.place // AGED


def _alike(numbers: Mapping[str, int]) -> Iterable[tuple[int, list[str]]]:
    """Yield (largest, names) of names with numbers of one size: SQLite has one LIMIT for all rows."""
    groups: dict[int, list[str]] = {}
    for name, number in numbers.items():
        groups.setdefault(number.bit_length(), []).append(name)
    for names in groups.values():
        yield max(numbers[name] for name in names), names


def _list(text: str | None) -> list[Any]:
    found: list[Any] = [] if text is None else orjson.loads(text)
    return found


def waiting(connection: Connection, *, limit: int) -> int:
    """Count the jobs that a window could take now, up to a limit; see `Repository.waiting_jobs`."""
    count = int(run(connection, COUNT).scalar_one())
    return max(0, min(limit, count))
