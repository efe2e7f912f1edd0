"""Secrets that sign addresses which open without a key: one per purpose, made when it is first needed.

In clear, for each signature needs it, and in a table of its own, as those of webhooks are. It knows no
address (`scheduler.picture_links`).
"""

import secrets

from sqlalchemy import Connection

from db.dialects import run

SECRET_BYTES = 32


def find(connection: Connection, purpose: str) -> str | None:
    """Return the secret of a purpose, None if nobody has needed it yet."""
    found: str | None = run(
        connection, "SELECT secret FROM link_secret WHERE purpose = :purpose", {"purpose": purpose}
    ).scalar()
    return found


def new_secret() -> str:
    """Return a secret that nobody guesses."""
    return secrets.token_hex(SECRET_BYTES)


def make(connection: Connection, purpose: str, *, secret: str) -> str:
    """Return the secret of a purpose, this one if there is none; see `Repository.link_secret`."""
    run(
        connection,
        """INSERT INTO link_secret(purpose, secret, created_ms) VALUES(:purpose, :secret, {NOW})
            ON CONFLICT(purpose) DO NOTHING""",
        {"purpose": purpose, "secret": secret},
    )
    found = find(connection, purpose)
    assert found is not None
    return found
