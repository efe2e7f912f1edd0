"""SQLite's one write lock in other hands: how long a writer waits, and what it is told then."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from db import session
from db.session import make_engine, transaction, write
from routet2i.errors import ServiceUnavailable
from routet2i.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database with one table, and with the log that all of ours have."""
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE thing(id INTEGER)")
    return tmp_path / "a.sqlite"


@pytest.fixture
def engine(file: Path) -> Iterator[Engine]:
    made = make_engine(f"sqlite+pysqlite:///{file}")
    yield made
    made.dispose()


@contextmanager
def held(file: Path) -> Iterator[sqlite3.Connection]:
    """Hold the write lock with a connection that is none of ours."""
    holder = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield holder
    finally:
        holder.close()


def test_a_writer_gives_up_once_its_whole_patience_is_spent_and_says_why(
    file: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a patience of a second, and somebody who never lets go
    monkeypatch.setattr(session, "PATIENCE_SECONDS", 1.0)
    tried = []
    with held(file):
        begun = time.monotonic()
        # When a verb wants to write
        with pytest.raises(ServiceUnavailable, match=r"is locked by another program .*; .*type: fuser"):
            write(engine, tried.append)
        took = time.monotonic() - begun
        # Then all of its tries together took that second, not one second each
        assert 1.0 <= took < session.TRIES
        assert not tried
        # And so did a transaction by itself
        begun = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="is locked"), transaction(engine):
            pass
        assert 1.0 <= time.monotonic() - begun < session.BUSY_MS / 1000


def test_a_writer_goes_on_as_soon_as_the_lock_is_free(file: Path, engine: Engine) -> None:
    # Given somebody who lets go after most of a second
    with held(file) as holder:
        free = threading.Timer(0.7, holder.rollback)
        free.start()
        begun = time.monotonic()
        # When a verb wants to write, then it waits for its turn and writes once
        write(engine, lambda connection: connection.execute(text("INSERT INTO thing VALUES(1)")))
        assert 0.5 < time.monotonic() - begun < session.PATIENCE_SECONDS / 3
        free.join()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM thing")) == 1


def test_readers_do_not_wait_for_the_lock(file: Path, engine: Engine) -> None:
    # Given a file in other hands
    with held(file), engine.connect() as connection:
        # Then reading it takes no patience
        begun = time.monotonic()
        assert connection.scalar(text("SELECT count(*) FROM thing")) == 0
        assert time.monotonic() - begun < session.BUSY_MS / 1000


def test_the_patience_ends_before_a_lease_does() -> None:
    # A worker that waits for its turn to renew knows in time that it has lost its claim
    assert Settings().lease_seconds > session.PATIENCE_SECONDS
