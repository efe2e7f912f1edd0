"""A PostgreSQL archive, played into a transaction that somebody else commits, so that it comes whole or not.

pg_restore writes the archive as SQL and opens no connection of its own. It knows neither our tables nor what
is done with them before the commit.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from routet2i.errors import ServiceUnavailable

ROWS_FOLLOW = re.compile(rb"COPY [^;]+ FROM stdin;\n")
END_OF_ROWS = b"\\.\n"
BLOCK = 1 << 20  # bytes of rows that are sent at once


def play(connection: Connection, archive: Path, *, program: str) -> None:
    """Execute all that an archive in pg_dump's own format holds.

    Afterwards the session is not what it was: it has no time limits and checks no function bodies.

    Args:
        program: path of pg_restore.
    Raises:
        ServiceUnavailable: pg_restore failed, or the database refused something; roll back.
    """
    driver: Any = connection.connection.dbapi_connection
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            [program, "--no-owner", "--file=-", str(archive)],
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        ) as reader,
        driver.cursor() as cursor,
    ):
        assert reader.stdout is not None
        try:
            _execute(cursor, reader.stdout)
            cursor.execute("RESET search_path")
        except connection.dialect.loaded_dbapi.Error as error:
            raise ServiceUnavailable(
                f"the database refuses the backup: {_first(str(error))}; see docs/operations.md"
            ) from error
        if reader.wait():
            said.seek(0)
            told = _first(said.read().decode(errors="replace")) or f"exit code {reader.returncode}"
            raise ServiceUnavailable(f"pg_restore failed: {told}; see docs/operations.md")


def _execute(cursor: Any, lines: Iterable[bytes]) -> None:
    """Execute a script: statements as they come, rows of a table through COPY."""
    lines = iter(lines)
    statements = b""
    for line in lines:
        if ROWS_FOLLOW.fullmatch(line):
            cursor.execute(statements)
            statements = b""
            _copy(cursor, line, lines)
        elif not line.startswith(b"\\"):  # a word to psql
            statements += line
    cursor.execute(statements)


def _copy(cursor: Any, statement: bytes, lines: Iterable[bytes]) -> None:
    block = bytearray()
    with cursor.copy(statement) as copy:
        for line in lines:
            if line == END_OF_ROWS:
                break
            block += line
            if len(block) >= BLOCK:
                copy.write(bytes(block))
                block.clear()
        copy.write(bytes(block))


def _first(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else ""
