"""The outbox: ready microbatches become sent, a few per live worker.

It knows no broker: publishing what was marked is `scheduler.dispatch`'s affair, after the commit.
"""

from collections.abc import Mapping

from sqlalchemy import Connection

from db.dialects import pack_ids, run
from routet2i.contracts import SentMicrobatch


def mark_sent(connection: Connection, *, limits: Mapping[str, int]) -> tuple[SentMicrobatch, ...]:
    """Mark the oldest ready microbatches of each tier sent; see `Repository.mark_sent`."""
    sent: list[SentMicrobatch] = []
    for tier, limit in sorted(limits.items()):
        waiting = run(
            connection,
            "SELECT count(*) FROM microbatch WHERE tier = :tier AND state = 'sent'",
            {"tier": tier},
        ).scalar_one()
        if waiting >= limit:
            continue
        # two statements: inside an UPDATE, PostgreSQL may run a limited sub-select once per row
        oldest = run(
            connection,
            """SELECT id FROM microbatch WHERE tier = :tier AND state = 'ready'
                ORDER BY id LIMIT :room {SKIP_LOCKED}""",
            {"tier": tier, "room": limit - waiting},
        ).scalars()
        ids = run(
            connection,
            """UPDATE microbatch SET state = 'sent', sent_at_ms = {NOW}, deliveries = deliveries + 1
                WHERE id IN {IDS} AND state = 'ready' RETURNING id""",
            {"ids": pack_ids(oldest)},
        ).scalars()
        sent += [SentMicrobatch(microbatch_id=id_, tier=tier) for id_ in sorted(ids)]
    return tuple(sent)
