"""Every pair of write transactions, one stopped in its middle while the other one runs.

Both must end, without a deadlock, with all promises kept, and with what one of the two orders one after the
other would have left and answered.
"""

import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from db.audit import Violation, check_invariants
from db.models import metadata
from db.repository import Repository
from db.session import make_engine
from tests.protocol import copies, world
from tests.protocol.stage import Result, Stage, Statement, attempt, stage
from tests.protocol.transactions import CALLS, HOW_TO_ADD, names

DEADLOCK = "40P01"
CALLED = list(CALLS)
# It counts and takes tier by tier, without a lock between: a message more or less in flight harms nobody
LOOSE = "dispatching.mark_sent"
WATCHED = (  # pairs that once went wrong
    {"pruning.forget_previews", "intake.open_batch promised"},
)


def test_every_write_transaction_of_the_repository_is_called() -> None:
    called = {label.split()[0] for label in CALLS}
    assert called == names(), HOW_TO_ADD.format(names=", ".join(sorted(called ^ names())))


# ---------------------------------------------------------------- PostgreSQL


@dataclass(frozen=True, slots=True)
class Left:
    """What two calls answered, and what they left in the database."""

    answers: tuple[Result, Result]
    rows: dict[str, list[Any]]


@dataclass
class Theatre:
    """The world in PostgreSQL, and two players on it."""

    engine: Engine
    world: world.World
    broken: frozenset[Violation]  # by the hand that made the world
    stage: Stage
    shop_of: type
    serial: dict[tuple[str, str], Left] = field(default_factory=dict)
    solo: dict[str, tuple[Statement, ...]] = field(default_factory=dict)
    sound: set[str] = field(default_factory=set)  # rows that keep all promises
    plays: int = 0

    def play(self, first: str, second: str, *, stop_at: int | None) -> Left:
        copies.put_back(self.engine)
        self.plays += 1
        if self.plays % 100 == 0:
            copies.sweep_up(self.engine)
        one, two = Repository(self.stage.first.engine), Repository(self.stage.second.engine)
        answers = self.stage.play(
            lambda: CALLS[first](one, self.world, self.shop_of),
            lambda: CALLS[second](two, self.world, self.shop_of),
            stop_at=stop_at,
        )
        return Left(answers, copies.comparable(self.engine))

    def one_after_the_other(self, first: str, second: str) -> Left:
        if (first, second) not in self.serial:
            left = self.play(first, second, stop_at=None)
            assert not self.broken_by(left), (first, second)
            self.serial[first, second] = left
        return self.serial[first, second]

    def broken_by(self, left: Left) -> frozenset[Violation]:
        """Return the promises that what is in the database now breaks."""
        rows = repr(left.rows)
        if rows in self.sound:
            return frozenset()
        broken = frozenset(check_invariants(self.engine)) - self.broken
        if not broken:
            self.sound.add(rows)
        return broken

    def statements(self, label: str) -> tuple[Statement, ...]:
        """Return what a call says when it is alone."""
        if label not in self.solo:
            copies.put_back(self.engine)
            self.stage.first.reset()
            attempt(lambda: CALLS[label](Repository(self.stage.first.engine), self.world, self.shop_of))
            self.solo[label] = tuple(self.stage.first.said)
        return self.solo[label]

    def points(self, first: str, second: str) -> list[int]:
        """Return before which statements of the first call it matters that the second one runs."""
        theirs = self.statements(second)
        read = frozenset().union(*(one.tables for one in theirs))
        written = frozenset().union(*(one.written for one in theirs))
        touches = [
            place
            for place, one in enumerate(self.statements(first))
            if one.written & read or one.tables & written
        ]
        if not touches:
            return []
        end = len(self.statements(first)) - 1
        return [place for place in sorted({*touches, end}) if place > touches[0]]


@pytest.fixture(scope="module")
def theatre(migrated_postgresql: str, shop_of: type) -> Iterator[Theatre]:
    engine = make_engine(migrated_postgresql)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY CASCADE"))
    made = world.build(shop_of(Repository(engine)))
    with copies.kept(engine), stage(migrated_postgresql) as players:
        yield Theatre(
            engine=engine,
            world=made,
            broken=frozenset(check_invariants(engine)),
            stage=players,
            shop_of=shop_of,
        )
    engine.dispose()


def check(theatre: Theatre, first: str, second: str, places: list[int]) -> list[str]:
    """Return what goes wrong when the second call runs at these places of the first one."""
    wrong = []
    for place in places:
        left = theatre.play(first, second, stop_at=place)
        lost = theatre.stage.first.lost + theatre.stage.second.lost
        where = f"{first} stopped before {theatre.statements(first)[place].text[:60]!r}, {second}: "
        if DEADLOCK in lost:
            wrong.append(where + "a deadlock")
        broken = theatre.broken_by(left)  # before it is put back
        if same(left, theatre.one_after_the_other(second, first), turned=True):
            continue
        if same(left, theatre.one_after_the_other(first, second), turned=False):
            continue
        if LOOSE not in (first, second) or broken:
            orders = theatre.serial[first, second], theatre.serial[second, first]
            wrong.append(where + told(left, orders) + f"\n  breaks {sorted(one.detail for one in broken)}")
    return wrong


def same(left: Left, order: Left, *, turned: bool) -> bool:
    answers = order.answers[::-1] if turned else order.answers
    return left.rows == order.rows and left.answers == answers


def told(left: Left, orders: tuple[Left, Left]) -> str:
    """Return how the outcome differs from each order."""
    lines = [f"answers {left.answers}, not {orders[0].answers} or {orders[1].answers[::-1]}"]
    for order in orders:
        lines += [
            f"  {table}: {sorted(set(rows) ^ set(order.rows[table]))}"[:600]
            for table, rows in left.rows.items()
            if rows != order.rows[table]
        ]
        lines.append("  or")
    return "\n".join(lines[:-1])


def one_place(first: str, second: str, places: list[int]) -> list[int]:
    """Return one of the places, another one for each pair; of the two ways to play a pair, one has none.

    `WATCHED` pairs are played at every place.
    """
    if {first, second} in WATCHED:
        return places
    if not places or not is_drawn(first, second):
        return []
    return [places[chance(first, second) // 3 % len(places)]]


def chance(first: str, second: str) -> int:
    return zlib.crc32(f"{first}|{second}".encode())


def is_drawn(first: str, second: str) -> bool:
    """Whether a pair is played: each call with itself, and a third of the others, in one of the two ways."""
    if CALLED.index(first) > CALLED.index(second):
        return False
    return first == second or chance(first, second) % 3 == 0


def every_place(_first: str, _second: str, places: list[int]) -> list[int]:
    return places


def play_all(theatre: Theatre, first: str, choose: Callable[[str, str, list[int]], list[int]]) -> str:
    """Return what goes wrong with any second call."""
    wrong = []
    for second in CALLS:
        if places := choose(first, second, theatre.points(first, second)):
            wrong += check(theatre, first, second, places)
    return "\n".join(wrong)


@pytest.mark.parametrize("first", CALLS)
def test_a_pair_of_transactions_is_as_one_after_the_other(first: str, theatre: Theatre) -> None:
    if wrong := play_all(theatre, first, one_place):
        pytest.fail(wrong)


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("first", CALLS)
def test_a_pair_stopped_at_any_statement_is_as_one_after_the_other(first: str, theatre: Theatre) -> None:
    if wrong := play_all(theatre, first, every_place):
        pytest.fail(wrong)


# ---------------------------------------------------------------- SQLite


@dataclass(frozen=True, slots=True)
class Files:
    """The world in an SQLite file, which is copied for each pair."""

    world: world.World
    content: bytes
    broken: frozenset[str]  # by the hand that made the world
    shop_of: type


@pytest.fixture(scope="module")
def files(sqlite_template: bytes, shop_of: type, tmp_path_factory: pytest.TempPathFactory) -> Files:
    path = tmp_path_factory.mktemp("world") / "world.db"
    path.write_bytes(sqlite_template)
    engine = make_engine(f"sqlite+pysqlite:///{path}")
    made = world.build(shop_of(Repository(engine)))
    broken = frozenset(one.detail for one in check_invariants(engine))
    engine.dispose()  # its last connection writes the log back into the file
    return Files(made, path.read_bytes(), broken, shop_of)


REFUSED = {"claims.finish early"}  # calls that the world is not ready for


@pytest.mark.parametrize("label", CALLS)
def test_a_call_alone_is_no_mistake_of_this_test(label: str, files: Files, tmp_path: Path) -> None:
    path = tmp_path / "alone.db"
    path.write_bytes(files.content)
    engine = make_engine(f"sqlite+pysqlite:///{path}")
    found = attempt(lambda: CALLS[label](Repository(engine), files.world, files.shop_of))
    engine.dispose()
    assert bool(found.error) == (label in REFUSED), found.error


@pytest.mark.parametrize("first", CALLS)
def test_on_sqlite_the_second_of_two_writers_waits_and_then_does_its_work(
    first: str, files: Files, tmp_path: Path
) -> None:
    waits = 0
    for second in (one for one in CALLED if is_drawn(first, one)):
        # Given the world, and the first call stopped in its write transaction
        path = tmp_path / "pair.db"
        for old in tmp_path.glob("pair.db*"):
            old.unlink()
        path.write_bytes(files.content)
        one, two = (make_engine(f"sqlite+pysqlite:///{path}") for _ in range(2))
        began, go_on = threading.Event(), threading.Event()

        def stop(_connection: object, began: threading.Event = began, go_on: threading.Event = go_on) -> None:
            if not began.is_set():
                began.set()
                assert go_on.wait(10)

        event.listen(one, "commit", stop)
        for engine in (one, two):
            event.listen(engine, "connect", lambda raw, _record: raw.execute("PRAGMA synchronous = OFF"))
        with ThreadPoolExecutor(2) as pool:
            ours = pool.submit(attempt, partial(CALLS[first], Repository(one), files.world, files.shop_of))
            while not began.wait(0.001) and not ours.done():
                pass
            # When the second one comes
            theirs = pool.submit(attempt, partial(CALLS[second], Repository(two), files.world, files.shop_of))
            wait([theirs], timeout=0.005)
            waited = not theirs.done()
            go_on.set()
            answers = ours.result(10), theirs.result(10)
        # Then nobody is told that the file is locked, and all is sound
        assert not any("locked" in (one.error or "") for one in answers), (first, second, answers)
        assert {one.detail for one in check_invariants(two)} <= files.broken, (first, second)
        waits += waited
        one.dispose()
        two.dispose()
    assert waits or first in REFUSED
