"""The newest jobs that windows have decided for an account, with what was predicted for each.

Read only, by the leader that begins. It knows rows; what they say about prices is `scheduler.memory`'s
affair.
"""

from collections.abc import Iterable

import orjson
from sqlalchemy import Connection

from db.dialects import pack_ids, run
from routet2i.contracts import Account, DecidedJob, Prediction, Scope

NEWEST = {  # scope -> its microbatches; each has a job, so as many as jobs are wanted are enough
    Scope.BATCH: "WHERE batch_id = :name",
    Scope.CLIENT: """WHERE batch_id IN (
        SELECT id FROM batch WHERE client = :name ORDER BY id DESC LIMIT :limit)""",
    Scope.DEPLOYMENT: "",
}


def newest(
    connection: Connection,
    accounts: Iterable[Account],
    *,
    predictor_name: str,
    predictor_version: str,
    limit: int,
) -> dict[Account, tuple[DecidedJob, ...]]:
    """Return what windows have decided for each account; see `Repository.decided_jobs`."""
    wanted = list(accounts)
    begun = set(
        run(
            connection,
            """SELECT id FROM batch b WHERE id IN {IDS}
                AND EXISTS (SELECT 1 FROM microbatch m WHERE m.batch_id = b.id)""",
            {"ids": pack_ids(one.batch_id for one in wanted if one.batch_id is not None)},
        )
        .scalars()
        .all()
    )
    return {
        account: _newest(connection, account, name=predictor_name, version=predictor_version, limit=limit)
        for account in wanted
        if account.batch_id is None or account.batch_id in begun
    }


def _newest(
    connection: Connection, account: Account, *, name: str, version: str, limit: int
) -> tuple[DecidedJob, ...]:
    """Return the newest jobs of one account, oldest first, without shadows and what previews had decided."""
    rows = run(
        connection,
        # CROSS JOIN: SQLite must begin with the few microbatches
        f"""SELECT j.n, j.width, j.height, j.tier, a.prs, a.scores, w.committed_ms
            FROM (SELECT id, batch_id, window_id FROM microbatch {NEWEST[account.scope]}
                    ORDER BY id DESC LIMIT :limit) m
            CROSS JOIN decision_window w CROSS JOIN batch b CROSS JOIN job j CROSS JOIN assignment a
            WHERE w.id = m.window_id AND w.predictor_name = :predictor AND w.predictor_version = :version
            AND b.id = m.batch_id AND b.preview_id IS NULL
            AND j.microbatch_id = m.id AND j.shadow_of IS NULL AND a.job_id = j.id
            ORDER BY m.window_id DESC, j.priority, j.batch_id DESC, j.seq DESC LIMIT :limit""",  # noqa: S608
        {
            "name": account.batch_id or account.client,
            "predictor": name,
            "version": version,
            "limit": limit,
        },
    ).all()
    return tuple(
        DecidedJob(
            n=row.n,
            width=row.width,
            height=row.height,
            prediction=Prediction(prs=row.prs, scores=orjson.loads(row.scores)),
            decided_ms=row.committed_ms,
            tier=row.tier,
        )
        for row in reversed(rows)
    )
