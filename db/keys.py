"""Keys of the HTTP interface: whose they are, what they may do, until when; never the keys themselves.

It knows the rows of `api_key`. A key is 256 bits of chance, so that one hash of it is enough: nobody guesses
it, with or without salt.
"""

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row

from db.dialects import run
from routet2i.contracts import new_id
from routet2i.errors import NotFound

PREFIX = "rt2i_"  # so that scanners of secrets find a key that was committed
SHOWN = len(PREFIX) + 6  # characters of a key that lists show
USED_EVERY_MS = 60_000  # how exact `used_ms` is


class Role(StrEnum):
    """What a key may do."""

    SUBMITTER = "submitter"  # its own client's batches
    AUDITOR = "auditor"  # see everything, change nothing
    ADMIN = "admin"  # everything


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRow:
    """A key, without its secret."""

    id: str
    client: str
    role: Role
    name: str  # for people
    shown: str  # how the key begins
    created_ms: int
    expires_ms: int | None  # None = never
    revoked_ms: int | None  # None = it is good
    used_ms: int | None  # about when it was used last; None = never


def digest(secret: str) -> str:
    """Return what is stored of a key: its SHA-256, hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def new_secret() -> str:
    """Return a new key."""
    return PREFIX + secrets.token_urlsafe(32)


def add(
    connection: Connection, secret: str, *, client: str, role: Role, name: str, seconds: int | None
) -> str:
    """Write a key; see `Repository.add_key`."""
    key_id = new_id()
    run(
        connection,
        """INSERT INTO api_key(id, sha256, shown, client, role, name, created_ms, expires_ms)
            VALUES(:id, :sha256, :shown, :client, :role, :name, {NOW}, {NOW} + CAST(:ms AS BIGINT))
            ON CONFLICT(sha256) DO NOTHING""",
        {
            "id": key_id,
            "sha256": digest(secret),
            "shown": secret[:SHOWN],
            "client": client,
            "role": role,
            "name": name,
            "ms": None if seconds is None else seconds * 1000,
        },
    )
    row = run(connection, "SELECT id FROM api_key WHERE sha256 = :sha256", {"sha256": digest(secret)}).one()
    return str(row.id)


def find(connection: Connection, sha256: str) -> KeyRow | None:
    """Return the good key with this hash; see `Repository.find_key`."""
    row = run(
        connection,
        """SELECT * FROM api_key WHERE sha256 = :sha256 AND revoked_ms IS NULL
            AND (expires_ms IS NULL OR expires_ms > {NOW})""",
        {"sha256": sha256},
    ).one_or_none()
    return None if row is None else _key(row)


def touch(connection: Connection, key_id: str) -> None:
    """Note that a key is used, at most once a minute."""
    run(
        connection,
        """UPDATE api_key SET used_ms = {NOW}
            WHERE id = :id AND (used_ms IS NULL OR used_ms < {NOW} - :every)""",
        {"id": key_id, "every": USED_EVERY_MS},
    )


def revoke(connection: Connection, key_id: str) -> bool:
    """End a key; see `Repository.revoke_key`."""
    found = run(connection, "SELECT revoked_ms FROM api_key WHERE id = :id", {"id": key_id}).one_or_none()
    if found is None:
        raise NotFound(f"no key {key_id}; type: routet2i key list")
    ended = run(
        connection,
        "UPDATE api_key SET revoked_ms = {NOW} WHERE id = :id AND revoked_ms IS NULL",
        {"id": key_id},
    )
    return bool(ended.rowcount)


def rows(connection: Connection) -> list[KeyRow]:
    """Return every key, the newest first; see `Repository.keys`."""
    return [_key(row) for row in run(connection, "SELECT * FROM api_key ORDER BY created_ms DESC, id DESC")]


def _key(row: Row[Any]) -> KeyRow:
    return KeyRow(
        id=row.id,
        client=row.client,
        role=Role(row.role),
        name=row.name,
        shown=row.shown,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        revoked_ms=row.revoked_ms,
        used_ms=row.used_ms,
    )
