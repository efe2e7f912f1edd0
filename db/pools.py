"""What each tier's workers have before them: pictures that are assigned and not drawn yet. Read only.

It knows no limit and no seconds. Shadows count like other jobs: they are drawn by the same workers.
"""

from collections.abc import Iterable

from sqlalchemy import Connection

from db import workers
from db.dialects import run
from routet2i.contracts import Pool, Work
from routet2i.heartbeat import LIVE_SECONDS

UNFINISHED = "('ready', 'sent', 'claimed')"


def pools(connection: Connection, tiers: Iterable[str], *, sample: int | None = None) -> dict[str, Pool]:
    """Return the pools of some tiers by name; see `Repository.pools`."""
    live = workers.live_workers(connection, within_seconds=LIVE_SECONDS)
    return {
        tier: Pool(
            tier=tier,
            unfinished=sum(one.pictures for one in unfinished(connection, tier, sample=sample)),
            workers=live.get(tier, 0),
        )
        for tier in tiers
    }


def unfinished(connection: Connection, tier: str, *, sample: int | None = None) -> tuple[Work, ...]:
    """Return the pictures that are assigned to a tier and not drawn yet, by size.

    Walks the unfinished microbatches by an index: with a `sample`, the time does not grow with their number
    but by counting them.

    Args:
        sample: exact up to so many microbatches; beyond, the others are like the newest ones. None = exact.
    """
    microbatches: int = run(
        connection,
        f"SELECT count(*) FROM microbatch WHERE tier = :tier AND state IN {UNFINISHED}",  # noqa: S608 - ours
        {"tier": tier},
    ).scalar_one()
    if not microbatches:
        return ()
    looked_at = microbatches if sample is None else min(sample, microbatches)
    rows = run(
        connection,
        f"""SELECT m.width, m.height, sum(j.n) AS pictures
            FROM (SELECT id, width, height FROM microbatch
                  WHERE tier = :tier AND state IN {UNFINISHED} ORDER BY id DESC LIMIT :sample) AS m
            JOIN job j ON j.microbatch_id = m.id AND j.microbatch_id IS NOT NULL
            WHERE j.state = 'assigned' GROUP BY m.width, m.height ORDER BY m.width, m.height""",  # noqa: S608
        {"tier": tier, "sample": looked_at},
    ).all()
    return tuple(
        Work(
            tier=tier,
            width=row.width,
            height=row.height,
            pictures=round(int(row.pictures) * (microbatches / looked_at)),
        )
        for row in rows
    )
