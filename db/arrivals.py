"""How many jobs came when: counted per client and slot of five minutes, kept for two weeks.

They are counted as they are written, so that a look takes time in proportion to the slots, not to the jobs.
It knows no budget, and not what is still to come (`scheduler.demand`).
"""

from collections.abc import Iterable

from sqlalchemy import Connection

from db.dialects import run
from routet2i.contracts import SLOT_MS, Account, Arrivals

KEPT_MS = 14 * 86_400_000  # a time of day is then known from each day of the week, twice


def count(connection: Connection, *, client: str, jobs: int, pictures: int) -> None:
    """Add jobs that a client has submitted now."""
    run(
        connection,
        """INSERT INTO arrivals(client, slot_ms, jobs, pictures)
            VALUES(:client, {NOW} / :slot * :slot, :jobs, :pictures)
            ON CONFLICT(client, slot_ms) DO UPDATE
            SET jobs = arrivals.jobs + excluded.jobs, pictures = arrivals.pictures + excluded.pictures""",
        {"client": client, "slot": SLOT_MS, "jobs": jobs, "pictures": pictures},
    )


def of_accounts(
    connection: Connection, accounts: Iterable[Account], *, now_ms: int
) -> dict[Account, Arrivals]:
    """Return what came before the slot that a moment lies in, for each account; see `Repository.arrivals`."""
    end = now_ms // SLOT_MS * SLOT_MS
    return {account: _of_client(connection, account.client, end=end) for account in accounts}


def _of_client(connection: Connection, client: str | None, *, end: int) -> Arrivals:
    """Return what a client has submitted, or all of them, in the complete slots that are kept."""
    chosen = "" if client is None else "client = :client AND"
    rows = run(
        connection,
        f"""SELECT slot_ms, sum(jobs) AS jobs, sum(pictures) AS pictures FROM arrivals
            WHERE {chosen} slot_ms >= :start AND slot_ms < :end
            GROUP BY slot_ms ORDER BY slot_ms""",  # noqa: S608 - a constant
        {"start": end - KEPT_MS, "end": end} | ({} if client is None else {"client": client}),
    ).all()
    if not rows:
        return Arrivals(jobs=(), pictures=0)
    first = rows[0].slot_ms
    jobs = [0] * ((end - first) // SLOT_MS)
    for row in rows:
        jobs[(row.slot_ms - first) // SLOT_MS] = int(row.jobs)
    return Arrivals(jobs=tuple(jobs), pictures=sum(int(row.pictures) for row in rows))


def forget(connection: Connection) -> None:
    """Delete what is too old to tell anything."""
    run(connection, "DELETE FROM arrivals WHERE slot_ms < {NOW} - :kept", {"kept": KEPT_MS})
