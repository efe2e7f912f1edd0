"""Pictures and previews that nobody wants any more: which they are, and that they are deleted.

A deletion is a row, written before its file goes, so that a crash between both is found and finished by the
next run; rows of jobs, outcomes, scores and money stay for ever. It knows names of pictures, no file.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from db.dialects import pack_ids, run

# Pictures (p) older than a moment, of one batch or of any, whose name no other living picture bears.
UNWANTED = """
FROM picture p JOIN outcome o ON o.job_id = p.job_id JOIN job j ON j.id = p.job_id
WHERE o.at_ms < :before AND (CAST(:batch_id AS text) IS NULL OR j.batch_id = :batch_id)
  AND NOT EXISTS (SELECT 1 FROM picture_deletion d WHERE d.job_id = p.job_id AND d.idx = p.idx)
  AND NOT EXISTS (
      SELECT 1 FROM picture q JOIN outcome r ON r.job_id = q.job_id JOIN job k ON k.id = q.job_id
      WHERE q.sha256 = p.sha256
        AND (r.at_ms >= :before OR (CAST(:batch_id AS text) IS NOT NULL AND k.batch_id <> :batch_id))
        AND NOT EXISTS (SELECT 1 FROM picture_deletion e WHERE e.job_id = q.job_id AND e.idx = q.idx))
"""


def moment_before(connection: Connection, *, seconds: float) -> int:
    """Return the database's time so many seconds ago, in milliseconds."""
    now: int = run(connection, "SELECT {NOW}").scalar_one()
    return now - round(seconds * 1000)


def unwanted(
    connection: Connection, *, before_ms: int, batch_id: str | None, after: str, limit: int
) -> Sequence[str]:
    """Return names of pictures that may go, in order, beginning behind `after`."""
    return (
        run(
            connection,
            f"SELECT DISTINCT p.sha256 {UNWANTED} AND p.sha256 > :after ORDER BY p.sha256 LIMIT :limit",
            {"before": before_ms, "batch_id": batch_id, "after": after, "limit": limit},
        )
        .scalars()
        .all()
    )


def delete(
    connection: Connection, names: Sequence[str], *, before_ms: int, batch_id: str | None, who: str
) -> int:
    """Write that pictures of these names are deleted, unless one has become wanted; return how many.

    What another run is deleting at the same time is left to it.
    """
    return run(
        connection,
        f"""INSERT INTO picture_deletion(job_id, idx, sha256, who, at_ms)
            SELECT p.job_id, p.idx, p.sha256, CAST(:who AS text), {{NOW}} {UNWANTED}
            AND p.sha256 IN {{IDS}} ORDER BY p.job_id, p.idx ON CONFLICT DO NOTHING""",
        {"before": before_ms, "batch_id": batch_id, "who": who, "ids": pack_ids(names)},
    ).rowcount


def unfinished(connection: Connection, *, after: str, limit: int) -> Sequence[tuple[str, bool]]:
    """Return names of deleted pictures whose files may be there, and whether a living one has the name."""
    rows = run(
        connection,
        """SELECT d.sha256, EXISTS (
                SELECT 1 FROM picture q WHERE q.sha256 = d.sha256 AND NOT EXISTS (
                    SELECT 1 FROM picture_deletion e WHERE e.job_id = q.job_id AND e.idx = q.idx)) AS wanted
            FROM (SELECT DISTINCT sha256 FROM picture_deletion WHERE done_ms IS NULL AND sha256 > :after
                  ORDER BY sha256 LIMIT :limit) d
            ORDER BY d.sha256""",
        {"after": after, "limit": limit},
    )
    return [(row.sha256, bool(row.wanted)) for row in rows]


def finish(connection: Connection, names: Sequence[str]) -> None:
    """Write that the files of these deleted pictures are gone, or stay for another picture's sake."""
    run(
        connection,
        "UPDATE picture_deletion SET done_ms = {NOW} WHERE sha256 IN {IDS} AND done_ms IS NULL",
        {"ids": pack_ids(names)},
    )


def forget_previews(connection: Connection, *, before_ms: int) -> int:
    """Delete previews of before a moment that no batch was submitted from; return how many.

    A batch that is submitted from one of them right now either keeps it, or is refused by its foreign key.
    """
    unused = "NOT EXISTS (SELECT 1 FROM batch b WHERE b.preview_id = preview.id)"
    locked = run(
        connection,
        f"SELECT id FROM preview WHERE created_ms < :before AND {unused} ORDER BY id {{ALONE}}",  # noqa: S608
        {"before": before_ms},
    )
    # from one of them a batch may have been submitted just before its lock; from now on none can be
    ids = {"ids": pack_ids(locked.scalars())}
    which = f"id IN {{IDS}} AND {unused}"
    run(
        connection,
        f"DELETE FROM preview_line WHERE preview_id IN (SELECT id FROM preview WHERE {which})",  # noqa: S608
        ids,
    )
    return run(connection, f"DELETE FROM preview WHERE {which}", ids).rowcount  # noqa: S608


def old_previews(connection: Connection, *, before_ms: int) -> int:
    """Count the previews that `forget_previews` would delete."""
    found: int = run(
        connection,
        """SELECT count(*) FROM preview p WHERE created_ms < :before
            AND NOT EXISTS (SELECT 1 FROM batch b WHERE b.preview_id = p.id)""",
        {"before": before_ms},
    ).scalar_one()
    return found


def known(connection: Connection, names: Sequence[str]) -> frozenset[str]:
    """Return those of these names that a picture has which nobody deleted, or that was bought."""
    return frozenset(
        run(
            connection,
            """SELECT p.sha256 FROM picture p WHERE p.sha256 IN {IDS} AND NOT EXISTS (
                SELECT 1 FROM picture_deletion d WHERE d.job_id = p.job_id AND d.idx = p.idx)
               UNION SELECT image_sha256 FROM call WHERE image_sha256 IN {IDS}""",
            {"ids": pack_ids(names)},
        ).scalars()
    )


def living(connection: Connection, *, after: str, limit: int) -> Sequence[str]:
    """Return names that pictures have which nobody deleted, in order, beginning behind `after`."""
    return (
        run(
            connection,
            """SELECT DISTINCT p.sha256 FROM picture p WHERE p.sha256 > :after AND NOT EXISTS (
                    SELECT 1 FROM picture_deletion d WHERE d.job_id = p.job_id AND d.idx = p.idx)
                ORDER BY p.sha256 LIMIT :limit""",
            {"after": after, "limit": limit},
        )
        .scalars()
        .all()
    )
