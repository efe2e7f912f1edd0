"""Copies of the whole database while everything runs, and their way back into an empty one.

SQLite is copied by its own online backup, PostgreSQL by pg_dump and pg_restore. A restored database is made
quiet before anybody sees it: claims are over, calls that were out count as spent, fences and leader's term
leap beyond all that the old world ever saw. Until all of that is done the place is as empty as before: a file
gets its name last, PostgreSQL commits once. It knows no picture: those lie in files that never change.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.engine import URL

from db import archive, sweeping
from db.dialects import run
from db.session import check_schema, make_engine, transaction, upgrade, upgrade_alone
from routet2i import failpoints
from routet2i.errors import Conflict, RouteT2IError, ServiceUnavailable, UsageError

LEAP = 1_000_000  # more claims than a microbatch has between a backup and its return
MAGIC = {"sqlite": b"SQLite format 3\0", "postgresql": b"PGDMP"}
CLIENT_SECONDS = 6 * 3600.0  # longest dump
BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a file


def backup(engine: Engine, target: Path) -> None:
    """Write the database's state of one moment to a new file; nobody is kept from working meanwhile.

    Raises:
        Conflict: the file exists.
        UsageError: it cannot be written.
        ServiceUnavailable: the database does not answer, pg_dump is missing, or it failed.
        SchemaMismatch: the schema is not this program's.
    """
    check_schema(engine)
    if target.exists():
        raise Conflict(f"{target} exists; name another file")
    new = target.with_name(f"{target.name}.new")
    try:
        _remove(new)
        new.touch(mode=0o600)  # prompts are private
        if engine.dialect.name == "sqlite":
            _copy(_file(engine), new)
            _check_file(new)
        else:
            _client("pg_dump", engine.url, "--format=custom", "--no-owner", f"--file={new}")
        _sync(new)
        new.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}; name another file") from error
    finally:
        with contextlib.suppress(OSError):
            _remove(new)


def restore(url: str, source: Path) -> None:
    """Bring a backup back into a database that is empty, up to this program's schema, and make it quiet.

    All of it or nothing: whenever this is cut off, the place is as empty as before, and it may be repeated.

    Raises:
        Conflict: there is a database already.
        UsageError: the file is no backup of this kind of database.
        ServiceUnavailable: the database does not answer, pg_restore is missing, or it failed.
        SchemaMismatch: a newer program made the backup.
    """
    engine = make_engine(url)
    try:
        _check_kind(source, dialect=engine.dialect.name)
        if engine.dialect.name == "sqlite":
            _restore_file(_file(engine), source)
            return
        with transaction(engine) as connection:
            _restore_archive(connection, source)
    finally:
        engine.dispose()


def _restore_archive(connection: Connection, source: Path) -> None:
    """Play an archive into the transaction, bring it up to date there and make it quiet."""
    run(connection, "SET LOCAL statement_timeout = 0")
    bring_up_to_date = upgrade_alone(connection)
    url = connection.engine.url
    if inspect(connection).get_table_names():
        raise Conflict(
            f"database {url.database} has tables; make an empty one: createdb NAME, and name it in "
            "ROUTET2I_DATABASE_URL"
        )
    archive.play(connection, source, program=_installed("pg_restore"))
    bring_up_to_date()
    failpoints.reach("mid_restore")
    _quieten(connection)
    failpoints.reach("mid_restore")


def _restore_file(target: Path, source: Path) -> None:
    """Prepare a copy beside the target; only when it is whole, current and quiet it gets the name."""
    _refuse_taken(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f"{target.name}.new")
    _remove(new)
    try:
        _copy(source, new)
        _check_file(new)
        engine = make_engine(f"sqlite+pysqlite:///{new}")
        try:
            upgrade(engine)
            failpoints.reach("mid_restore")
            with transaction(engine) as connection:
                _quieten(connection)
        finally:
            engine.dispose()  # its last connection writes the log back into the file
        failpoints.reach("mid_restore")
        _check_file(new)
        _sync(new)
        _refuse_taken(target)
        new.replace(target)
        _sync(target.parent)
    finally:
        _remove(new)


def _refuse_taken(target: Path) -> None:
    for there in (target, *(Path(f"{target}{part}") for part in BESIDE)):
        if there.exists():
            raise Conflict(f"{there} exists; move it away, or restore into another ROUTET2I_HOME")


def _remove(path: Path) -> None:
    """Delete what a backup or a restore that was cut off has left: an old log must not meet a new file."""
    for left in (path, *(Path(f"{path}{part}") for part in BESIDE)):
        left.unlink(missing_ok=True)


def _quieten(connection: Connection) -> None:
    """End every claim without counting a death, and make all that the old world may still say void."""
    run(connection, "UPDATE worker SET state = 'stopped'")
    run(connection, "UPDATE microbatch SET lease_until_ms = 1 WHERE state = 'claimed'")
    for microbatch_id in sweeping.expired_claims(connection):
        sweeping.expire(connection, microbatch_id, max_deaths=LEAP, innocent=True)
    run(
        connection,
        f"""UPDATE microbatch SET fence = fence + {LEAP}, state = 'ready' WHERE state IN ('ready', 'sent')""",  # noqa: S608
    )
    run(connection, f"UPDATE leader SET term = term + {LEAP}, expires_ms = 1")  # noqa: S608 - a constant


def _file(engine: Engine) -> Path:
    if not engine.url.database:
        raise UsageError("a database in memory cannot be backed up or restored; name a file")
    return Path(engine.url.database)


def _copy(source: Path, target: Path) -> None:
    """Copy an SQLite database in one step: in several, each writer would make it begin anew."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
    except sqlite3.Error as error:
        raise ServiceUnavailable(
            f"cannot copy {source}: {error}; look at the disk, then try again"
        ) from error


def _check_file(path: Path) -> None:
    """Raise RouteT2IError if an SQLite file is damaged."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
        except sqlite3.DatabaseError as error:
            found = [str(error)]
    if found != ["ok"]:
        raise RouteT2IError(f"{path} is damaged: {found[0]}; take an older backup: routet2i restore FILE")


def _check_kind(source: Path, *, dialect: str) -> None:
    try:
        with source.open("rb") as file:
            begins = file.read(16)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}; name a backup") from error
    if not begins.startswith(MAGIC[dialect]):
        raise UsageError(f"{source} is no backup of a {dialect} database; see ROUTET2I_DATABASE_URL")


def _client(program: str, url: URL, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs; the password travels in its environment, never in its arguments.

    Raises:
        ServiceUnavailable: it is not installed, or failed.
    """
    path = _installed(program)
    host = url.query.get("host") or url.host
    where = {"--host": host, "--port": url.port, "--username": url.username, "--dbname": url.database}
    flags = [f"{flag}={value}" for flag, value in where.items() if value is not None]
    try:
        done = subprocess.run(
            [path, *flags, "--no-password", *arguments],
            env=_environment(url),
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceUnavailable(
            f"{program} did not end in {CLIENT_SECONDS:.0f} s; run it by hand"
        ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ServiceUnavailable(f"{program} failed: {lines[0]}; see docs/operations.md")


def _installed(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ServiceUnavailable(
            f"{program} is not installed; install PostgreSQL's client programs (postgresql-client), or run "
            f"{program} where the database is: see docs/operations.md"
        )
    return path


def _environment(url: URL) -> Mapping[str, str]:
    """Return what a client program needs of the environment, and the password."""
    ssl = url.query.get("sslmode")
    extra = {"PGPASSWORD": url.password, "PGSSLMODE": ssl if isinstance(ssl, str) else None}
    return {"PATH": os.defpath, "LC_ALL": "C"} | {name: value for name, value in extra.items() if value}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
