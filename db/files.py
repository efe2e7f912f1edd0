"""Files of the HTTP interface: what was uploaded, and what is made of rows when somebody reads it.

It knows the rows of `file`; the bytes of uploads lie in HOME/files (`scheduler.file_store`), the lines of
what is made of rows are `db.lines`' affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row

from db.dialects import run
from routet2i.contracts import new_id
from routet2i.errors import NotFound

PREFIX = "file-"


class Purpose(StrEnum):
    """What a file is for."""

    BATCH = "batch"  # uploaded: lines of a batch
    OUTPUT = "batch_output"  # what a batch has left


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRow:
    """A file that is there."""

    id: str
    client: str
    purpose: Purpose
    filename: str
    bytes: int
    sha256: str | None  # None = it is made of rows
    created_ms: int
    expires_ms: int | None


def add(
    connection: Connection,
    *,
    client: str,
    purpose: Purpose,
    filename: str,
    size: int,
    sha256: str | None,
    seconds: int | None,
) -> FileRow:
    """Write a file; see `Repository.add_file`."""
    file_id = PREFIX + new_id().replace("-", "")
    run(
        connection,
        """INSERT INTO file(id, client, purpose, filename, bytes, sha256, created_ms, expires_ms)
            VALUES(:id, :client, :purpose, :filename, :bytes, :sha256, {NOW}, {NOW} + CAST(:ms AS BIGINT))""",
        {
            "id": file_id,
            "client": client,
            "purpose": purpose,
            "filename": filename,
            "bytes": size,
            "sha256": sha256,
            "ms": None if seconds is None else seconds * 1000,
        },
    )
    return _file(run(connection, "SELECT * FROM file WHERE id = :id", {"id": file_id}).one())


THERE = "deleted_ms IS NULL AND (expires_ms IS NULL OR expires_ms > {NOW})"


def find(connection: Connection, file_id: str) -> FileRow:
    """Return a file; see `Repository.find_file`."""
    row = run(
        connection,
        f"SELECT * FROM file WHERE id = :id AND {THERE}",  # noqa: S608 - a constant
        {"id": file_id},
    ).one_or_none()
    if row is None:
        raise gone(file_id)
    return _file(row)


def gone(file_id: str) -> NotFound:
    """Return what is said of a file that is not there, or that is not the asker's."""
    return NotFound(f"no file {file_id}; upload it, or look what is there: GET /v1/files")


def rows(
    connection: Connection,
    *,
    client: str | None,
    purpose: Purpose | None,
    after: str | None,
    ascending: bool,
    limit: int,
) -> list[FileRow]:
    """Return a page of files; see `Repository.files`."""
    beyond, order = (">", "ASC") if ascending else ("<", "DESC")
    where = [THERE]
    if client is not None:
        where.append("client = :client")
    if purpose is not None:
        where.append("purpose = :purpose")
    if after is not None:
        where.append(f"id {beyond} :after")
    found = run(
        connection,
        f"SELECT * FROM file WHERE {' AND '.join(where)} ORDER BY id {order} LIMIT :limit",  # noqa: S608
        {"client": client, "purpose": purpose, "after": after, "limit": limit},
    )
    return [_file(row) for row in found]


def held(connection: Connection, *, client: str) -> int:
    """Return how many bytes of a client's uploads lie there; see `Repository.held_bytes`."""
    total = run(
        connection,
        """SELECT COALESCE(sum(bytes), 0) FROM file
            WHERE client = :client AND sha256 IS NOT NULL AND removed_ms IS NULL""",
        {"client": client},
    )
    return int(total.scalar_one())


def delete(connection: Connection, file_id: str) -> None:
    """Let nobody see a file any more; see `Repository.delete_file`."""
    deleted = run(
        connection,
        f"UPDATE file SET deleted_ms = {{NOW}} WHERE id = :id AND {THERE}",  # noqa: S608 - a constant
        {"id": file_id},
    )
    if not deleted.rowcount:
        raise gone(file_id)


# A file (f) whose bytes nobody will read again: it went, and what it went with was read
UNWANTED = """
    f.sha256 IS NOT NULL AND f.removed_ms IS NULL
    AND (f.deleted_ms IS NOT NULL OR f.expires_ms <= {NOW})
    AND NOT EXISTS (SELECT 1 FROM api_batch b WHERE b.sha256 = f.sha256 AND b.state = 'validating')"""


def unwanted(connection: Connection, *, limit: int) -> Sequence[tuple[str, bool]]:
    """Return names of bytes and whether other files need them; see `Repository.unwanted_files`."""
    found = run(
        connection,
        f"""SELECT DISTINCT f.sha256, EXISTS (
                SELECT 1 FROM file o WHERE o.sha256 = f.sha256
                    AND o.deleted_ms IS NULL AND (o.expires_ms IS NULL OR o.expires_ms > {{NOW}})
            ) AS needed
            FROM file f WHERE {UNWANTED} LIMIT :limit""",  # noqa: S608 - a constant
        {"limit": limit},
    )
    return [(row.sha256, bool(row.needed)) for row in found]


def needed(connection: Connection, sha256: str) -> bool:
    """Whether a file or an unread order needs bytes; see `Repository.file_is_needed`."""
    return (
        run(
            connection,
            f"""SELECT 1 FROM file WHERE sha256 = :sha256 AND {THERE}
                UNION ALL
                SELECT 1 FROM api_batch WHERE sha256 = :sha256 AND state = 'validating' LIMIT 1""",  # noqa: S608
            {"sha256": sha256},
        ).scalar()
        is not None
    )


def forget(connection: Connection, sha256: str) -> None:
    """Write that a deleted file's bytes are gone, or stay; see `Repository.forget_file`."""
    run(
        connection,
        """UPDATE file SET removed_ms = {NOW} WHERE sha256 = :sha256 AND removed_ms IS NULL
            AND (deleted_ms IS NOT NULL OR expires_ms <= {NOW})""",
        {"sha256": sha256},
    )


def _file(row: Row[Any]) -> FileRow:
    return FileRow(
        id=row.id,
        client=row.client,
        purpose=Purpose(row.purpose),
        filename=row.filename,
        bytes=row.bytes,
        sha256=row.sha256,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
    )
