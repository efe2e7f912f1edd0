"""How long pictures took lately on each tier, and what work the tiers have before them. Read only.

Both questions look at the newest or at a sample of the rows, by an index: they take as long with a million
outcomes as with a thousand. It knows seconds and pictures, no price and no worker (`scheduler.speeds`).
"""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection

from db.dialects import run
from db.pools import unfinished
from routet2i.contracts import Speed, Work

SAMPLE = 200  # unfinished microbatches of a tier whose pictures are counted; the rest are like them


def speeds(connection: Connection, *, newest: int = 1_000) -> tuple[Speed, ...]:
    """Return the seconds per picture of each tier and size; see `Repository.speeds`.

    Args:
        newest: jobs of a tier, and microbatches, that are looked at.
    """
    found = []
    for tier in tiers(connection):
        rates: dict[tuple[int, int], list[tuple[float, int]]] = defaultdict(list)
        for row in run(
            connection,
            """SELECT m.width, m.height, o.seconds, j.n
                FROM (SELECT id, width, height FROM microbatch
                      WHERE tier = :tier AND state = 'done' ORDER BY id DESC LIMIT :newest) AS m
                JOIN job j ON j.microbatch_id = m.id AND j.microbatch_id IS NOT NULL
                JOIN outcome o ON o.job_id = j.id
                WHERE o.state = 'succeeded' AND o.seconds > 0
                ORDER BY m.id DESC LIMIT :newest""",
            {"tier": tier, "newest": newest},
        ):
            rates[row.width, row.height].append((row.seconds / row.n, row.n))
        found += [
            Speed(
                tier=tier,
                width=width,
                height=height,
                seconds=_median(rated),
                pictures=sum(pictures for _, pictures in rated),
            )
            for (width, height), rated in sorted(rates.items())
        ]
    return tuple(found)


def _median(rated: Sequence[tuple[float, int]]) -> float:
    """Return the seconds that at least half of the pictures did not exceed.

    The lower median: of a worker's slow first microbatch and an equal second one it is the second one's.

    Args:
        rated: (seconds per picture, pictures), at least one.
    """
    half, counted = sum(pictures for _, pictures in rated) / 2, 0
    for seconds, pictures in sorted(rated):
        counted += pictures
        if counted >= half:
            return seconds
    raise ValueError("no picture was measured")


def tiers(connection: Connection) -> Sequence[str]:
    """Return the tiers that have microbatches, one jump in the index for each."""
    return (
        run(
            connection,
            """WITH RECURSIVE tiers(tier) AS (
                   SELECT min(tier) FROM microbatch
                   UNION ALL
                   SELECT (SELECT min(m.tier) FROM microbatch m WHERE m.tier > t.tier)
                   FROM tiers t WHERE t.tier IS NOT NULL)
                SELECT tier FROM tiers WHERE tier IS NOT NULL ORDER BY tier""",
        )
        .scalars()
        .all()
    )


def backlog(connection: Connection) -> tuple[Work, ...]:
    """Return the pictures that are not drawn yet, of all batches; see `Repository.backlog`."""
    found = [one for tier in tiers(connection) for one in unfinished(connection, tier, sample=SAMPLE)]
    queued = run(
        connection,
        "SELECT width, height, sum(pictures) AS pictures FROM waiting GROUP BY width, height",
    )
    return (
        *found,
        *(
            Work(
                tier=None,
                width=row.width or None,
                height=row.height or None,
                pictures=int(row.pictures),
            )
            for row in queued
            if row.pictures
        ),
    )


def left(connection: Connection, batch_id: str) -> tuple[Work, ...]:
    """Return the pictures of a batch that are not drawn yet, exactly; see `Repository.work_left`."""
    rows = run(
        connection,
        """SELECT m.tier, COALESCE(m.width, j.width) AS width, COALESCE(m.height, j.height) AS height,
                  sum(j.n) AS pictures
            FROM job j LEFT JOIN microbatch m ON m.id = j.microbatch_id
            WHERE j.batch_id = :batch_id AND j.state <> 'done' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
        {"batch_id": batch_id},
    )
    return tuple(
        Work(tier=row.tier, width=row.width, height=row.height, pictures=int(row.pictures)) for row in rows
    )
