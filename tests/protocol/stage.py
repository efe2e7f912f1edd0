"""Two transactions on PostgreSQL at once: the first one is stopped at a statement while the second one runs.

It knows threads, connections and statements, not what they are about.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, create_engine, event, text

from db.session import make_engine

PATIENCE_SECONDS = 60.0
END = "COMMIT"
TABLE = re.compile(
    r"\b(?:FROM|JOIN|UPDATE|INTO|LOCK TABLE|ANALYZE)\s+(?:\(SKIP_LOCKED\)\s+)?([a-z_]+)", re.IGNORECASE
)
LOCKS = re.compile(
    r"\bFOR (?:NO KEY UPDATE|UPDATE|SHARE)\b|^\s*(?:UPDATE|INSERT|DELETE|LOCK)|advisory", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a transaction, or its commit."""

    text: str

    @property
    def locks(self) -> bool:
        """Whether it writes or takes locks."""
        return self.text == END or LOCKS.search(self.text) is not None

    @property
    def tables(self) -> frozenset[str]:
        """Return every table it names."""
        return frozenset(TABLE.findall(self.text))

    @property
    def written(self) -> frozenset[str]:
        """Return the tables it changes or locks."""
        return self.tables if self.locks else frozenset()


@dataclass
class Player:
    """One connection with its thread; it may be told to stop before its n-th statement."""

    engine: Engine
    stop_at: int | None = None
    said: list[Statement] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    lost: list[str] = field(default_factory=list)  # sqlstates of what it had to repeat

    def hear(self, statement: str) -> None:
        if statement == END and (not self.said or self.said[-1].text == END):
            return
        place = len(self.said)
        self.said.append(Statement(statement))
        if place == self.stop_at:
            self.stopped.set()
            assert self.go_on.wait(PATIENCE_SECONDS)

    def reset(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.said, self.lost = [], []
        self.stopped, self.go_on = threading.Event(), threading.Event()


def make_player(url: str, name: str) -> Player:
    """Return a player with connections of its own, on which a deadlock is found at once."""
    engine = make_engine(url)

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, _args: object, parameters: dict[str, Any]) -> None:
        parameters["options"] += f" -c deadlock_timeout=10ms -c application_name={name}"

    player = Player(engine)
    event.listen(engine, "before_cursor_execute", lambda c, cur, statement, *_: player.hear(statement))
    event.listen(engine, "commit", lambda connection: player.hear(END))

    @event.listens_for(engine, "handle_error")
    def lose(context: Any) -> None:
        if state := getattr(context.original_exception, "sqlstate", None):
            player.lost.append(state)

    return player


@dataclass(frozen=True, slots=True)
class Result:
    """What a call returned or raised."""

    value: object
    error: str | None


def attempt(call: Callable[[], object]) -> Result:
    """Do the call; an error is a result too."""
    try:
        return Result(call(), None)
    except Exception as error:
        return Result(None, f"{type(error).__name__}: {error}")


class Stage:
    """Two players and somebody who sees which of them waits for a lock."""

    def __init__(self, url: str) -> None:
        self.first, self.second = make_player(url, "first"), make_player(url, "second")
        self.watch = create_engine(url, isolation_level="AUTOCOMMIT").connect()
        self.pool = ThreadPoolExecutor(2)

    def close(self) -> None:
        self.pool.shutdown()
        engine = self.watch.engine
        self.watch.close()
        for one in (engine, self.first.engine, self.second.engine):
            one.dispose()

    def play(
        self, first: Callable[[], object], second: Callable[[], object], *, stop_at: int | None
    ) -> tuple[Result, Result]:
        """Run the second call where the first one is stopped: before a statement; None = after its end."""
        self.first.reset(stop_at)
        self.second.reset()
        one = self.pool.submit(attempt, first)
        while not self.first.stopped.is_set() and not one.done():
            self.first.stopped.wait(0.0005)
        other = self.pool.submit(attempt, second)
        if not one.done():
            self._until_done_or_waiting(other)
        self.first.go_on.set()
        return one.result(PATIENCE_SECONDS), other.result(PATIENCE_SECONDS)

    def _until_done_or_waiting(self, other: Future[Result]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not other.done() and not self._waits():
            assert time.monotonic() < end, "the second call neither ends nor waits for a lock"

    def _waits(self) -> bool:
        return bool(
            self.watch.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE application_name = 'second' AND wait_event_type = 'Lock'"
                )
            )
        )


@contextmanager
def stage(url: str) -> Iterator[Stage]:
    """Yield a stage on a database with our tables."""
    made = Stage(url)
    try:
        yield made
    finally:
        made.close()
