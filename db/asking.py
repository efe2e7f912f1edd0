"""Anybody's question to the database, in SQL, which can change nothing; rows come as they are read.

An SQLite file is opened read only and every action but reading is refused; on PostgreSQL each question has a
READ ONLY transaction of its own, and no text can hold two statements. It knows no table, but for the columns
that nobody is shown (`db.views.SECRETS`).
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from db.session import make_engine
from db.views import SECRETS
from routet2i.errors import RouteT2IError, ServiceUnavailable, UsageError

QUESTION_SECONDS = 60  # a question may take, until its first row and from one fetch to the next
FETCHED = 1_000  # rows read at a time: an answer of any length in the same memory
STEPS = 20_000  # of SQLite's machine between two looks at the clock: about a millisecond
FIRST_WORDS = ("SELECT", "WITH", "VALUES", "TABLE", "EXPLAIN", "SHOW")
PRAGMAS = ("table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list")
READ_ONLY = "it only reads: SELECT, WITH, VALUES, EXPLAIN"


class Cancelled(RouteT2IError):
    """The question was cancelled by whoever asked it."""

    exit_code = 130


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The columns of an answer, and its rows as they are read."""

    columns: Sequence[str]
    rows: Iterator[Sequence[Any]]


class Reader(Protocol):
    """A connection that only reads; one question at a time."""

    def ask(self, question: str) -> Answer:
        """Run one statement.

        Raises:
            UsageError: it is no question, is wrong, would write, or takes longer than `QUESTION_SECONDS`.
            Cancelled: `cancel` was called meanwhile; rows raise it, too.
            ServiceUnavailable: the database went away.
        """
        ...

    def cancel(self) -> None:
        """End the question that runs now; from another thread or a signal's handler."""
        ...


@contextmanager
def reader(url: str) -> Iterator[Reader]:
    """Open a database of ours for questions.

    Args:
        url: as `db.session.make_engine` takes it.
    Raises:
        ServiceUnavailable: it does not answer, or there is no such file.
    """
    engine = make_engine(url)  # refuses what is no address of ours
    if engine.dialect.name == "sqlite":
        engine.dispose()
        with closing(_open_file(Path(str(make_url(url).database)))) as connection:
            yield SqliteReader(connection)
        return
    try:
        session = engine.connect()
    except DBAPIError as error:
        raise ServiceUnavailable(
            "the database does not answer; check ROUTET2I_DATABASE_URL, or type: routet2i doctor"
        ) from error
    try:
        yield PostgresqlReader(session.connection.driver_connection)
    finally:
        session.invalidate()  # whatever was asked of it, nobody else gets it
        engine.dispose()


def _open_file(file: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise ServiceUnavailable(f"cannot read {file}: {error}; type: routet2i db upgrade") from error
    return connection


class SqliteReader:
    """See `Reader`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take a connection on a file that was opened read only."""
        self._connection = connection
        self._cancelled = False  # no event: setting one takes a lock, and signals come at any time
        self._deadline = 0.0
        self._refused: str | None = None
        connection.set_authorizer(self._judge)
        connection.set_progress_handler(self._must_stop, STEPS)

    def ask(self, question: str) -> Answer:
        """See `Reader`."""
        self._begin()
        with self._told():
            cursor = self._connection.execute(_question(question))
        if cursor.description is None:
            raise UsageError(f"that is no question; {READ_ONLY}")
        return Answer(columns=[one[0] for one in cursor.description], rows=self._rows(cursor))

    def cancel(self) -> None:
        """See `Reader`."""
        self._cancelled = True
        self._connection.interrupt()

    def _rows(self, cursor: sqlite3.Cursor) -> Iterator[Sequence[Any]]:
        with closing(cursor):
            while True:
                self._deadline = time.monotonic() + QUESTION_SECONDS
                with self._told():
                    fetched = cursor.fetchmany(FETCHED)
                yield from fetched
                if self._cancelled:
                    raise Cancelled("cancelled")
                if len(fetched) < FETCHED:
                    return

    def _begin(self) -> None:
        self._cancelled = False
        self._refused = None
        self._deadline = time.monotonic() + QUESTION_SECONDS

    def _must_stop(self) -> bool:
        return self._cancelled or time.monotonic() > self._deadline

    def _judge(
        self, action: int, first: str | None, second: str | None, _where: str | None, _by: str | None
    ) -> int:
        if action == sqlite3.SQLITE_READ and second in SECRETS.get(first or "", ()):
            self._refused = f"column {first}.{second} is shown to nobody"
            return sqlite3.SQLITE_DENY
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and second != "load_extension":
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and first in PRAGMAS:
            return sqlite3.SQLITE_OK
        self._refused = f"that would change something; {READ_ONLY}"
        return sqlite3.SQLITE_DENY

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the library's errors into ours."""
        try:
            yield
        except sqlite3.Error as error:
            if self._refused is not None:
                raise UsageError(self._refused) from error
            if self._cancelled:
                raise Cancelled("cancelled") from error
            if "interrupted" in str(error):
                raise UsageError(_too_long()) from error
            if "readonly" in str(error):
                raise UsageError(f"that would change something; {READ_ONLY}") from error
            raise UsageError(f"{error}; the columns stand in docs/schema.md") from error


class PostgresqlReader:
    """See `Reader`."""

    def __init__(self, connection: Any) -> None:
        """Take a psycopg connection that nobody else uses."""
        self._connection = connection
        # a superuser may read the server's files and end sessions: he asks as one who reads all tables
        self._commands_all = connection.info.parameter_status("is_superuser") == "on"
        self._cancelled = False  # no event: setting one takes a lock, and signals come at any time
        connection.autocommit = True  # transactions are begun here, by their own words

    def ask(self, question: str) -> Answer:
        """See `Reader`."""
        self._cancelled = False
        statement = _question(question)
        if _first_word(statement) not in FIRST_WORDS:
            raise UsageError(f"{_first_word(statement)[:20]} is refused; {READ_ONLY}")
        with self._told():
            self._connection.execute("ROLLBACK")
            self._connection.execute(
                "SELECT pg_advisory_unlock_all()"
            )  # a question may take what our verbs need
            self._connection.execute("BEGIN READ ONLY")
            if self._commands_all:
                self._connection.execute("SET LOCAL ROLE pg_read_all_data")
            self._connection.execute(f"SET LOCAL statement_timeout = {QUESTION_SECONDS * 1000}")
            self._connection.execute("SELECT 1")  # from the first question on nothing makes it writable
        columns, rows = self._declared(statement) if _can_be_fetched(statement) else self._whole(statement)
        return Answer(columns=columns, rows=rows)

    def cancel(self) -> None:
        """See `Reader`."""
        self._cancelled = True
        self._connection.cancel_safe(timeout=5)

    def _declared(self, statement: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
        """Return an answer that is fetched in parts."""
        with self._told():
            # prepared: PostgreSQL itself refuses a text with two statements
            self._connection.execute(f"DECLARE answer NO SCROLL CURSOR FOR {statement}", prepare=True)
        with self._told():
            cursor = self._connection.execute(f"FETCH {FETCHED} FROM answer")
            fetched = cursor.fetchall()
        return [one.name for one in cursor.description], self._parts(fetched)

    def _parts(self, fetched: list[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        while True:
            yield from fetched
            if self._cancelled:
                raise Cancelled("cancelled")
            if len(fetched) < FETCHED:
                return
            with self._told():
                fetched = self._connection.execute(f"FETCH {FETCHED} FROM answer").fetchall()

    def _whole(self, statement: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
        """Return an answer that comes at once: EXPLAIN and SHOW have few rows."""
        with self._told():
            cursor = self._connection.execute(statement, prepare=True)
            if cursor.description is None:
                raise UsageError(f"that is no question; {READ_ONLY}")
            fetched = cursor.fetchall()
        return [one.name for one in cursor.description], iter(fetched)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the driver's errors into ours, and do no more of what was cancelled between two statements."""
        import psycopg

        if self._cancelled:
            raise Cancelled("cancelled")
        try:
            yield
        except psycopg.errors.QueryCanceled as error:
            if self._cancelled:
                raise Cancelled("cancelled") from error
            raise UsageError(_too_long()) from error
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise UsageError(f"that would change something; {READ_ONLY}") from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if self._connection.closed:
                raise ServiceUnavailable("the database went away; ask again") from error
            raise UsageError(_first_line(error)) from error
        except psycopg.Error as error:
            raise UsageError(f"{_first_line(error)}; the columns stand in docs/schema.md") from error


def split(text: str) -> Iterator[str]:
    """Yield the statements of a text, without the semicolons at their ends; comments alone are none."""
    begun = ""
    for part in text.split(";"):
        begun += part
        if sqlite3.complete_statement(begun + ";"):
            if _first_word(begun):
                yield begun.strip()
            begun = ""
        else:
            begun += ";"
    rest = begun.removesuffix(";")
    if _first_word(rest):
        yield rest.strip()


def _question(text: str) -> str:
    """Return one statement without its semicolon; raises UsageError for none or several."""
    statements = list(split(text))
    if len(statements) != 1:
        raise UsageError("type one question at a time" if statements else f"that is no question; {READ_ONLY}")
    return statements[0]


def _first_word(text: str) -> str:
    """Return the first word behind spaces, comments and opening brackets, in capitals."""
    rest = text
    while True:
        rest = rest.lstrip("( \t\r\n\f\ufeff")
        if rest.startswith("--"):
            rest = rest.partition("\n")[2]
        elif rest.startswith("/*"):
            rest = rest.partition("*/")[2]
        else:
            break
    word = ""
    for letter in rest:
        if not (letter.isalpha() or letter == "_"):
            break
        word += letter
    return word.upper() or rest[:1]


def _can_be_fetched(statement: str) -> bool:
    return _first_word(statement) not in ("EXPLAIN", "SHOW")


def _too_long() -> str:
    return f"it takes longer than {QUESTION_SECONDS} s; ask for fewer rows, or for a view's batch_id"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
