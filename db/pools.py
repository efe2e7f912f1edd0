"""What each tier's workers have before them: pictures that are assigned and not drawn yet. Read only.

It knows no limit and no seconds. Shadows count like other jobs: they are drawn by the same workers.
"""

from collections.abc import Iterable

from sqlalchemy import Connection

from db import workers
from db.dialects import run
from routet2i.contracts import Pool
from routet2i.heartbeat import LIVE_SECONDS

UNFINISHED = "('ready', 'sent', 'claimed')"


def pools(connection: Connection, tiers: Iterable[str], *, sample: int | None = None) -> dict[str, Pool]:
    """Return the pools of some tiers by name; see `Repository.pools`.

    Walks the unfinished microbatches of each tier by an index: with a `sample`, the time does not grow with
    their number but by counting them.
    """
    live = workers.live_workers(connection, within_seconds=LIVE_SECONDS)
    return {
        tier: Pool(
            tier=tier,
            unfinished=_unfinished(connection, tier, sample=sample),
            workers=live.get(tier, 0),
        )
        for tier in tiers
    }


def _unfinished(connection: Connection, tier: str, *, sample: int | None) -> int:
    microbatches: int = run(
        connection,
        f"SELECT count(*) FROM microbatch WHERE tier = :tier AND state IN {UNFINISHED}",  # noqa: S608 - ours
        {"tier": tier},
    ).scalar_one()
    if not microbatches:
        return 0
    looked_at = microbatches if sample is None else min(sample, microbatches)
    pictures = run(
        connection,
        f"""SELECT COALESCE(sum(j.n), 0)
            FROM (SELECT id FROM microbatch
                  WHERE tier = :tier AND state IN {UNFINISHED} LIMIT :sample) AS m
            JOIN job j ON j.microbatch_id = m.id AND j.microbatch_id IS NOT NULL
            WHERE j.state = 'assigned'""",  # noqa: S608 - ours
        {"tier": tier, "sample": looked_at},
    ).scalar_one()
    return round(int(pictures) * (microbatches / looked_at))
