"""Fresh databases with our tables, SQLite and PostgreSQL, as in a deployment: every commit is durable."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from db.session import make_engine, upgrade
from tests.postgresql import PostgresqlServer

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
DIALECTS = tuple(NAMES)
CONNECTIONS = 400  # of the server: 256 writers, schedulers and ourselves


class Databases:
    """A folder for SQLite files beside one PostgreSQL server."""

    def __init__(self, folder: Path, server: str) -> None:
        """Take a folder, and the URL of a running server's own database."""
        self.folder = folder
        self._server = server

    def fresh(self, dialect: str) -> str:
        """Return the URL of a new database of this dialect, with our tables and no rows."""
        name = f"a{secrets.token_hex(6)}"
        url = f"sqlite+pysqlite:///{self.folder / name}.db"
        if dialect == "postgresql":
            admin = make_engine(self._server)
            with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            admin.dispose()
            url = admin.url.set(database=name).render_as_string(hide_password=False)
        upgrade(url)
        return url


@contextmanager
def databases() -> Iterator[Databases]:
    """Start a PostgreSQL server from its wheel; stop it and delete everything at the end."""
    with tempfile.TemporaryDirectory(prefix="routet2i-allocation-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server runs as another user if we are root
        server = PostgresqlServer(folder / "postgresql", max_connections=CONNECTIONS)
        try:
            yield Databases(folder, server.url)
        finally:
            server.close()
