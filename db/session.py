"""Engines, transactions and the schema's version, for SQLite and PostgreSQL.

It knows how to connect, to begin, to try again and to translate a database's silence into our own errors. It
knows no table: statements stand in the modules beside it. Nothing here prints an address or a parameter.
"""

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)

from routet2i.errors import RouteT2IError, SchemaMismatch, ServiceUnavailable
from routet2i.exposure import DRIVERS

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")

BUSY_MS = 5_000  # how long one statement waits for another transaction: SQLite's lock, PostgreSQL's rows
PATIENCE_SECONDS = 30.0  # how long a whole verb waits for its turn to write, all tries together
TURN_SECONDS = 0.001  # mean pause between two tries to become SQLite's writer
STATEMENT_MS = 30_000  # longest statement on PostgreSQL: ten times the slowest we measured, rows in millions
TRIES = 5  # of a transaction that lost against another one (busy, deadlock, serialization)
AGAIN_SECONDS = 0.2  # between two looks for a database that went away in the middle of a commit
AGAIN = ("40001", "40P01", "55P03")  # PostgreSQL: serialization failure, deadlock, lock not available
AWAY = (  # PostgreSQL, as errors that are called internal
    "25006",  # read-only: a standby, or a server that was switched for a while
    "25P03",  # the session was idle in a transaction for too long: this process was stopped
)
UNDEFINED_TABLE = "42P01"
MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_LOCK = 7_302_912  # any constant: one upgrade at a time on PostgreSQL
ADDRESSES = "sqlite+pysqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
REMEDY = "type: routet2i db upgrade"
NEWER = "a newer program made it: update routet2i"


def make_engine(url: str) -> Engine:
    """Return an engine for a SQLAlchemy URL that names its driver; nothing is opened yet.

    Raises:
        ServiceUnavailable: the URL names no driver of ours or has an option that is on no list, the driver is
            not installed, or SQLite is older than 3.35 (no RETURNING).
    """
    try:
        target = make_url(url)
    except (ArgumentError, ValueError):  # its text may hold the password
        raise ServiceUnavailable(
            f"ROUTET2I_DATABASE_URL is no address of a database; write {ADDRESSES}"
        ) from None
    if target.drivername not in DRIVERS or (target.get_backend_name() == "sqlite" and target.host):
        raise ServiceUnavailable(f"ROUTET2I_DATABASE_URL names no database that is served; write {ADDRESSES}")
    if set(target.query) - DRIVERS[target.drivername]:  # unnamed: it may be the rest of a password
        raise ServiceUnavailable("ROUTET2I_DATABASE_URL has an option that is not allowed; remove it")
    if target.get_backend_name() == "sqlite":
        if sqlite3.sqlite_version_info < (3, 35):
            raise ServiceUnavailable(f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or newer is needed")
        engine = create_engine(target, connect_args={"timeout": BUSY_MS / 1000}, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    options = {
        "statement_timeout": STATEMENT_MS,
        "lock_timeout": BUSY_MS,
        "idle_in_transaction_session_timeout": 2 * STATEMENT_MS,
        "jit": "off",  # guessed costs of `db.turns` would start a compiler for milliseconds of work
    }
    try:
        return create_engine(
            target,
            connect_args={
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "keepalives_interval": 5,  # libpq leaves these to the kernel: eleven minutes
                "keepalives_count": 3,
                "tcp_user_timeout": 15_000,  # ms without an answer to what was sent: a network that swallows
                "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            },
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except ModuleNotFoundError as error:
        raise ServiceUnavailable(f"{error}; type: pip install 'routet2i[postgres]'") from error


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Give the driver's transactions to us, and set what reliability.md section 16 asks for."""
    connection.isolation_level = None
    _use_log(connection)
    for pragma in (
        "synchronous=FULL",
        f"busy_timeout={BUSY_MS}",
        "foreign_keys=ON",
        # trusted_schema stays on: before SQLite 3.41 it forbids json_extract, which the view needs
        "cache_size=-65536",  # KiB: the indexes of a million jobs' hot end
    ):
        connection.execute(f"PRAGMA {pragma}")


def _use_log(connection: sqlite3.Connection) -> None:
    """Let the file have a write-ahead log; while it is new, another program may be making it."""
    until = _patience()
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "database is locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(random.uniform(0.5, 1.5) * TURN_SECONDS)  # noqa: S311 - jitter, not a secret


def _begin_sqlite(connection: Connection) -> None:
    deadline = connection.get_execution_options().get("writes_until")
    if deadline is None:
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite's own waiting looks again after 1, 2, 5 ... 100 ms: two busy workers then mostly sleep
    connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except OperationalError as error:
                if not _may_repeat(error) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.5, 1.5) * TURN_SECONDS)  # noqa: S311 - jitter, not a secret
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_MS}")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Yield a connection inside one write transaction; commit at the end, roll back on any error.

    Raises:
        ServiceUnavailable: the database does not answer, or another program holds SQLite's lock for
            longer than `PATIENCE_SECONDS`.
        SchemaMismatch: it has not our tables.
    """
    with _transaction(engine, until=_patience()) as connection:
        yield connection


@contextmanager
def _transaction(engine: Engine, *, until: float) -> Iterator[Connection]:
    """As `transaction`, waiting for its turn until a time of the monotonic clock."""
    with _translated(engine), engine.connect() as connection:
        connection.execution_options(writes_until=until)
        with connection.begin():
            yield connection


def _patience() -> float:
    """Return until when whoever begins now waits for its turn, seconds of the monotonic clock."""
    return time.monotonic() + PATIENCE_SECONDS


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection that only reads, in one transaction: on SQLite, one consistent state.

    Raises:
        ServiceUnavailable, SchemaMismatch: as in `transaction`.
    """
    with _translated(engine), engine.connect() as connection, connection.begin():
        yield connection


def write(
    engine: Engine,
    work: Callable[[Connection], T],
    *,
    stands: Callable[[Connection, T], bool] | None = None,
    seconds: float = 0.0,
) -> T:
    """Run `work` in one write transaction, again from its start if another transaction won.

    Args:
        work: must be safe to repeat after a rollback, that is, change nothing but the database.
        stands: whether what `work` returned was committed, read by primary key. It is asked where the answer
            to a COMMIT was lost; if not, `work` runs again. None = the caller hears of the lost answer.
        seconds: how long such a database is waited for.
    Raises:
        ServiceUnavailable, SchemaMismatch: as in `transaction`; the patience is that of all tries together.
    """
    tries, deadline, until = TRIES, 0.0, _patience()
    while True:
        results: list[T] = []  # empty until only the commit is missing
        try:
            with _transaction(engine, until=until) as connection:
                results.append(work(connection))
            return results[0]
        except ServiceUnavailable as error:
            if _merely_lost(error):
                tries -= 1
                if tries == 0 or time.monotonic() > until:
                    raise
                _pause(tries)
                continue
            if not results or stands is None:
                raise
            deadline = deadline or time.monotonic() + seconds
            if _stands(engine, results[0], stands, deadline=deadline):
                return results[0]
            until = _patience()


def _merely_lost(error: ServiceUnavailable) -> bool:
    return isinstance(error.__cause__, DBAPIError) and _may_repeat(error.__cause__)


def _stands(engine: Engine, result: T, stands: Callable[[Connection, T], bool], *, deadline: float) -> bool:
    while True:
        try:
            with reading(engine) as connection:
                return stands(connection, result)
        except ServiceUnavailable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(AGAIN_SECONDS)


def _pause(left: int) -> None:
    time.sleep(random.uniform(0.005, 0.05) * (TRIES - left))  # noqa: S311 - jitter, not a secret


def _may_repeat(error: DBAPIError) -> bool:
    """Whether the transaction merely lost against another one."""
    return getattr(error.orig, "sqlstate", None) in AGAIN or _is_locked(error)


def _is_locked(error: DBAPIError) -> bool:
    """Whether another writer has SQLite's lock."""
    return "database is locked" in str(error.orig)


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, ProgrammingError, InternalError) as error:
        if "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == UNDEFINED_TABLE:
            raise SchemaMismatch(f"the database has not our tables; {REMEDY}") from error
        if isinstance(error, ProgrammingError):
            raise
        if isinstance(error, InternalError) and getattr(error.orig, "sqlstate", None) not in AWAY:
            raise
        if _is_locked(error):
            raise ServiceUnavailable(
                f"database {_address(engine)} is locked by another program for longer than we wait; "
                f"end that program, type: fuser {_address(engine)}"
            ) from error
        raise ServiceUnavailable(
            f"database {_address(engine)} does not answer: {_first_line(error)}; "
            "check ROUTET2I_DATABASE_URL, or type: routet2i doctor"
        ) from error


def _address(engine: Engine) -> str:
    """Return where the database is, without user, password or options."""
    url = engine.url
    return str(url.database) if url.host is None else f"{url.host}/{url.database}"


def _first_line(error: DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def upgrade(engine_or_url: Engine | str) -> None:
    """Bring the schema to this program's version; nothing to do is fine, and so are several at once.

    Raises:
        ServiceUnavailable: the database does not answer.
        SchemaMismatch: it was made by a newer program.
    """
    from alembic import command

    engine = make_engine(engine_or_url) if isinstance(engine_or_url, str) else engine_or_url
    if engine.dialect.name == "sqlite" and engine.url.database:
        file = Path(engine.url.database)
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.touch(
                mode=0o600
            )  # a new one is its owner's alone: it holds prompts, and what signs webhooks
    try:
        _migrate(engine, lambda config: command.upgrade(config, "head"))
    finally:
        if engine is not engine_or_url:
            engine.dispose()


def downgrade(engine: Engine) -> None:
    """Remove every table, view and trigger of ours, with all data."""
    from alembic import command

    _migrate(engine, lambda config: command.downgrade(config, "base"))


@contextmanager
def _keys_unchecked(engine: Engine) -> Iterator[Connection]:
    """As `transaction`, but SQLite looks at foreign keys only before the commit: a table may be made anew."""
    with _translated(engine), engine.connect() as connection:
        connection.execution_options(writes_until=_patience())
        if engine.dialect.name != "sqlite":
            with connection.begin():
                yield connection
            return
        raw: Any = connection.connection.dbapi_connection  # outside any transaction, else it is ignored
        raw.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                yield connection
                if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
                    raise RouteT2IError(
                        f"{len(broken)} references point nowhere, so the migration was undone; "
                        "ask the file for them: PRAGMA foreign_key_check"
                    )
        finally:
            raw.execute("PRAGMA foreign_keys=ON")


def upgrade_alone(connection: Connection) -> "Callable[[], None]":
    """Keep everybody else from changing a PostgreSQL schema until this transaction ends.

    Returns:
        What brings the schema to this program's version within the transaction; it raises as `upgrade` does.
    """
    from alembic import command

    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
    return lambda: _change(connection, lambda config: command.upgrade(config, "head"))


def _migrate(engine: Engine, run: "Callable[[Config], Any]") -> None:
    with _keys_unchecked(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        _change(connection, run)


def _change(connection: Connection, run: "Callable[[Config], Any]") -> None:
    config = _alembic()
    revision = _revision(connection)
    if revision is not None and revision not in _known(config):
        raise SchemaMismatch(f"the database has schema {revision}, made by a newer program; update routet2i")
    config.attributes["connection"] = connection
    run(config)


def check_schema(engine: Engine) -> None:
    """Make sure that the schema is this program's.

    Raises:
        SchemaMismatch: it is older, newer, or missing; the text says what to type.
        ServiceUnavailable: the database does not answer.
    """
    head = newest_revision()
    with reading(engine) as connection:
        revision = _revision(connection)
    if revision == head:
        return
    if revision is None:
        raise SchemaMismatch(f"the database has not our tables; {REMEDY}")
    if revision in _known(_alembic()):
        raise SchemaMismatch(f"the database has schema {revision}, this program needs {head}; {REMEDY}")
    raise SchemaMismatch(f"the database has schema {revision}; {NEWER}")


def newest_revision() -> str:
    """Return this program's schema, from the names of the migrations: alembic takes a while to import."""
    return max(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]


def _alembic() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _known(config: "Config") -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision
