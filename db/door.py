"""The door: a file comes in only if all its jobs find room in the queue.

Counted is what is queued and what files that are still being read have announced, so that a file that was let
in is never stopped half-way. It knows counts; what a job is, is `db.intake`'s affair.
"""

from sqlalchemy import Connection

from db.dialects import run
from routet2i.contracts import QueueLimits
from routet2i.errors import QueueFull, UsageError

DOOR_LOCK = 7_302_913  # any constant that no other lock has


def take_turn(connection: Connection) -> None:
    """Wait until nobody else is at the door, and keep it until the transaction ends.

    On PostgreSQL this is an advisory lock. It belongs to the transaction, so a connection pool between us and
    the server does no harm, and unlike a row that every door locks it leaves no dead rows and never makes a
    window wait. On SQLite the writing transaction itself is that lock.
    """
    if connection.dialect.name == "postgresql":
        run(connection, "SELECT pg_advisory_xact_lock(:key)", {"key": DOOR_LOCK})


def require_room(connection: Connection, *, client: str, jobs: int, limits: QueueLimits) -> None:
    """Make sure, after `take_turn`, that a new batch's jobs fit.

    Raises:
        QueueFull: they do not fit now.
        UsageError: they never will: the file alone exceeds a limit.
    """
    queues = (
        ("the queue", "everybody", limits.jobs, "ROUTET2I_QUEUE_JOBS"),
        (f"the queue of client {client}", "own", limits.client_jobs, "ROUTET2I_CLIENT_QUEUE_JOBS"),
    )
    for _, _, limit, setting in queues:
        if limit is not None and jobs > limit:
            raise UsageError(
                f"this file has {jobs:,} jobs, and at most {limit:,} may wait; "
                f"split the file, or raise {setting}"
            )
    found = run(connection, WAITING, {"client": client}).mappings().one()
    for queue, whose, limit, setting in queues:
        waiting, announced = int(found[whose]), int(found[f"{whose}_announced"])
        if limit is not None and waiting + jobs > limit:
            part = f" ({announced:,} of them in files still being read)" if announced else ""
            raise QueueFull(
                f"{queue} is full: {waiting:,} of at most {limit:,} jobs wait{part}, and this file has "
                f"{jobs:,}; type the same command with --wait, or raise {setting}",
                waiting=waiting,
                limit=limit,
            )


# One statement, hence one moment: a job that goes from announced to queued meanwhile is counted once
WAITING = """
    SELECT COALESCE(sum(jobs), 0) AS everybody,
           COALESCE(sum(CASE WHEN client = :client THEN jobs END), 0) AS own,
           COALESCE(sum(announced), 0) AS everybody_announced,
           COALESCE(sum(CASE WHEN client = :client THEN announced END), 0) AS own_announced
    FROM (
        SELECT b.client, w.jobs, 0 AS announced
        FROM waiting w JOIN batch b ON b.id = w.batch_id WHERE b.state <> 'cancelled'
        UNION ALL
        SELECT client, announced - n_accepted, announced - n_accepted FROM batch
        WHERE state = 'ingesting' AND announced > n_accepted
    ) AS q"""
