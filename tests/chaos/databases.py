"""The database of one run: an SQLite file, or a PostgreSQL server of its own, and what can befall it.

It knows servers and files, not rows. PostgreSQL comes from its wheel and listens on a Unix socket; the stack
reaches it through a relay.
"""

import contextlib
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from db.session import make_engine, upgrade
from tests.chaos.relay import Relay
from tests.postgresql import PostgresqlServer

Kind = Literal["sqlite", "postgresql"]
CONNECTIONS = 120
TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = 'chaos' AND pid <> pg_backend_pid()"""


class Database(Protocol):
    """What a world needs of its database."""

    kind: Kind
    url: str  # as the stack reaches it
    direct: str  # as we reach it, whatever befalls the way


class SqliteDatabase:
    """A file."""

    kind: Kind = "sqlite"

    def __init__(self, folder: Path) -> None:
        """Make the file with our tables; the folder exists."""
        self.file = folder / "routet2i.db"
        self.url = self.direct = f"sqlite+pysqlite:///{self.file}"
        upgrade(self.url)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be a writer that does not end its transaction."""
        connection = sqlite3.connect(self.file, isolation_level=None, timeout=20)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
        finally:
            connection.close()

    def is_whole(self) -> bool:
        """Ask SQLite whether the file is whole."""
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


class PostgresqlDatabase:
    """A server."""

    kind: Kind = "postgresql"

    def __init__(self, folder: Path) -> None:
        """Initialise and start a server, and make our tables."""
        self._server = PostgresqlServer(folder / "postgresql", max_connections=CONNECTIONS, autovacuum="off")
        self._socket = str(make_url(self._server.url).query["host"])
        self._admin = f"postgresql+psycopg://postgres@/postgres?host={self._socket}"
        self.direct = f"postgresql+psycopg://postgres@/chaos?host={self._socket}"
        self.execute("CREATE DATABASE chaos")
        upgrade(self.direct)
        self.ways: list[Relay] = []
        self.url, _ = self.another_way()

    def another_way(self) -> tuple[str, Relay]:
        """Return a URL of its own with the relay that it leads through, to be cut alone."""
        way = Relay(self._connect)
        self.ways.append(way)
        return f"postgresql+psycopg://postgres@127.0.0.1:{way.port}/chaos", way

    def _connect(self) -> socket.socket:
        way = socket.socket(socket.AF_UNIX)
        try:
            way.connect(f"{self._socket}/.s.PGSQL.5432")
        except OSError:
            way.close()
            raise
        return way

    def execute(self, *statements: str) -> None:
        """Execute statements as the administrator, each by itself."""
        engine = make_engine(self._admin)
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                for statement in statements:
                    connection.execute(text(statement))
        finally:
            engine.dispose()

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Yield a connection of the administrator's, of no pool; raises OperationalError if none is free."""
        engine = create_engine(self._admin, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with contextlib.closing(engine.connect()) as connection:
            yield connection

    def terminate_backends(self, *, through: Connection | None = None) -> None:
        """End every connection to our tables, over a connection that is open already or a new one."""
        if through is None:
            self.execute(TERMINATE)
        else:
            through.execute(text(TERMINATE))

    def crash(self) -> None:
        """Stop the server as a crash does: nothing is written, nobody is told."""
        pid = self._server.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + 20
        while _exists(pid) and time.monotonic() < deadline:
            time.sleep(0.02)

    def restart(self) -> None:
        """Start the server, if it does not run, and wait until it has recovered."""
        self._server.start_again()

    def close(self) -> None:
        """Stop the server and delete its files."""
        for way in self.ways:
            way.close()
        self._server.close()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def opened(kind: Kind, folder: Path) -> Iterator[SqliteDatabase | PostgresqlDatabase]:
    """Yield a fresh database of a kind."""
    if kind == "sqlite":
        yield SqliteDatabase(folder)
        return
    server = PostgresqlDatabase(folder)
    try:
        yield server
    finally:
        server.close()
