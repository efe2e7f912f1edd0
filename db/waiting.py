"""What waits, counted as it comes and goes: queued jobs and their pictures by batch, size and wanted tier.

A window asks how much more will want money; counting that anew each time takes as long as there are rows. The
caller holds the row of the batch: alone where jobs come or are cancelled, shared with other windows where
they are assigned. So no row comes while another transaction removes it. It knows no job's state.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from sqlalchemy import Connection

from db.dialects import pack_ids, run
from routet2i.contracts import Waiting

# What jobs and this table say of each batch, size, tier, side by side: they differ where a sum is not zero
COUNTED = """(SELECT batch_id, COALESCE(width, 0) AS width, COALESCE(height, 0) AS height,
                     COALESCE(tier, '') AS tier, 1 AS jobs, n AS pictures FROM job WHERE state = 'queued'
              UNION ALL SELECT batch_id, width, height, tier, -jobs, -pictures FROM waiting) AS counted
    GROUP BY batch_id, width, height, tier HAVING sum(jobs) <> 0 OR sum(pictures) <> 0 OR max(jobs) = 0"""


class Queued(NamedTuple):
    """What counts of a job: how many pictures of which size, for whom, on which tier."""

    batch_id: str
    width: int | None  # pixels; None = the tier's own
    height: int | None
    n: int  # pictures
    tier: str | None  # that must draw it; None = any


def _counted(jobs: Iterable[Queued]) -> list[dict[str, object]]:
    """Return one row per batch, size and tier, in the order in which every transaction takes them."""
    number: Counter[tuple[str, int, int, str]] = Counter()
    pictures: Counter[tuple[str, int, int, str]] = Counter()
    for job in jobs:
        key = job.batch_id, job.width or 0, job.height or 0, job.tier or ""
        number[key] += 1
        pictures[key] += job.n
    return [
        {
            "batch_id": batch_id,
            "width": width,
            "height": height,
            "tier": tier,
            "jobs": number[batch_id, width, height, tier],
            "pictures": pictures[batch_id, width, height, tier],
        }
        for batch_id, width, height, tier in sorted(number)
    ]


def come(connection: Connection, jobs: Iterable[Queued]) -> None:
    """Add jobs that were queued."""
    rows = _counted(jobs)
    if rows:
        run(
            connection,
            """INSERT INTO waiting(batch_id, width, height, tier, jobs, pictures)
                VALUES(:batch_id, :width, :height, :tier, :jobs, :pictures)
                ON CONFLICT(batch_id, width, height, tier) DO UPDATE
                SET jobs = waiting.jobs + excluded.jobs, pictures = waiting.pictures + excluded.pictures""",
            rows,
        )


def go(connection: Connection, jobs: Iterable[Queued]) -> None:
    """Subtract jobs that are queued no more; a row without jobs goes with them.

    A row that a hand has made too small stays as it is: the check of the promises tells (I13), no window
    stops for it, and the next leader mends it.
    """
    rows = _counted(jobs)
    if not rows:
        return
    run(
        connection,
        """UPDATE waiting SET jobs = jobs - :jobs, pictures = pictures - :pictures
            WHERE batch_id = :batch_id AND width = :width AND height = :height AND tier = :tier
            AND jobs >= :jobs AND pictures - :pictures >= jobs - :jobs""",
        rows,
    )
    run(
        connection,
        "DELETE FROM waiting WHERE jobs = 0 AND batch_id IN {IDS}",
        {"ids": pack_ids({str(row["batch_id"]) for row in rows})},
    )


def of_batches(connection: Connection, batches: Set[str]) -> Mapping[str, tuple[Waiting, ...]]:
    """Return what waits in each of these batches, by size and tier; nothing where nothing waits."""
    rows = run(
        connection,
        """SELECT batch_id, width, height, tier, jobs, pictures FROM waiting WHERE batch_id IN {IDS}
            ORDER BY batch_id, width, height, tier""",
        {"ids": pack_ids(batches)},
    ).all()
    found: dict[str, list[Waiting]] = {batch: [] for batch in batches}
    for row in rows:
        found[row.batch_id].append(
            Waiting(
                width=row.width or None,
                height=row.height or None,
                jobs=row.jobs,
                pictures=row.pictures,
                tier=row.tier or None,
            )
        )
    return {batch: tuple(groups) for batch, groups in found.items()}


def wrong(connection: Connection) -> Sequence[str]:
    """Return the batches whose rows are not what their jobs say: by a hand or a bug alone."""
    return (
        run(connection, f"SELECT DISTINCT batch_id FROM (SELECT batch_id FROM {COUNTED}) AS one ORDER BY 1")  # noqa: S608
        .scalars()
        .all()
    )


def mend(connection: Connection, batch_id: str) -> None:
    """Count a batch anew; it is locked, so that nothing comes or goes meanwhile."""
    run(connection, "SELECT 1 FROM batch WHERE id = :id {LOCK}", {"id": batch_id}).all()
    run(connection, "DELETE FROM waiting WHERE batch_id = :id", {"id": batch_id})
    run(
        connection,
        """INSERT INTO waiting(batch_id, width, height, tier, jobs, pictures)
            SELECT batch_id, COALESCE(width, 0), COALESCE(height, 0), COALESCE(tier, ''), count(*), sum(n)
            FROM job WHERE state = 'queued' AND batch_id = :id
            GROUP BY batch_id, COALESCE(width, 0), COALESCE(height, 0), COALESCE(tier, '')""",
        {"id": batch_id},
    )


def elsewhere(connection: Connection, batches: Set[str]) -> Mapping[str, tuple[Waiting, ...]]:
    """Return client -> what waits in its other batches, by size and tier; cancelled ones have none."""
    rows = run(
        connection,
        """SELECT b.client, w.width, w.height, w.tier, sum(w.jobs) AS jobs, sum(w.pictures) AS pictures
            FROM waiting w JOIN batch b ON b.id = w.batch_id WHERE w.batch_id NOT IN {IDS}
            GROUP BY b.client, w.width, w.height, w.tier ORDER BY b.client, w.width, w.height, w.tier""",
        {"ids": pack_ids(batches)},
    ).all()
    found: dict[str, list[Waiting]] = {}
    for row in rows:
        found.setdefault(row.client, []).append(
            Waiting(
                width=row.width or None,
                height=row.height or None,
                jobs=int(row.jobs),
                pictures=int(row.pictures),
                tier=row.tier or None,
            )
        )
    return {client: tuple(groups) for client, groups in found.items()}
