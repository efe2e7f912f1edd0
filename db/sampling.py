"""Some jobs of a batch, spread over its file by chance, so that its mix is known before its last window.

Read only: by line numbers, so it takes as long for a long file as for a short one. It knows rows, not what a
job is worth.
"""

import random

from sqlalchemy import Connection

from db.dialects import pack_ids, run
from routet2i.contracts import SampledJob


def sampled(connection: Connection, batch_id: str, *, jobs: int) -> tuple[SampledJob, ...]:
    """Return about so many jobs of a batch, in file order; see `Repository.sampled_jobs`."""
    lines = run(connection, "SELECT cursor_line FROM batch WHERE id = :id", {"id": batch_id}).scalar_one()
    chosen = list(range(1, lines + 1))
    if lines > jobs:
        chance = random.Random(batch_id)  # noqa: S311 - the same for every leader, no secret
        chosen = [1 + int((part + chance.random()) * lines / jobs) for part in range(jobs)]
    rows = run(
        connection,
        """SELECT prompt, n, width, height, tier FROM job WHERE batch_id = :id
            AND seq IN (SELECT CAST(s.id AS integer) FROM {IDS} AS s) ORDER BY seq""",
        {"id": batch_id, "ids": pack_ids(str(line) for line in chosen)},
    ).all()
    return tuple(
        SampledJob(prompt=row.prompt, n=row.n, width=row.width, height=row.height, tier=row.tier)
        for row in rows
    )
