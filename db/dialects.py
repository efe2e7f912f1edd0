"""One text per statement for both databases: what differs is named in braces and filled in here.

    {NOW}          the database's clock, integer milliseconds
    {IDS}          the ids in parameter `ids` (from `pack_ids`) as a sub-select of a column `id`
    {NAMES}        the same, of parameter `names`
    {PAIRS}        the pairs in parameter `pairs` (from `pack_pairs`) as a sub-select of two columns
    {ROWS}         an aggregate of {ROW}(column, ...) values: all of them as one JSON array
    {ROW}          some columns as a JSON array
    {BYTES}        sorts text as Python does, whatever the database's language
    {LOCK}         row locks to the end of the transaction; on SQLite BEGIN IMMEDIATE has locked already
    {SKIP_LOCKED}  the same, but rows that another transaction holds are left out
    {ALONE}        the same as {LOCK}, but no new row may refer to these either
    {SHARE}        lets others read and lock alike, but not change

And for `run_rows`, one statement for many rows of values:

    {name:type}    a row's value, with its type in PostgreSQL
    {EACH}         where the rows come from: PostgreSQL takes them all as one JSON text, SQLite one by one

It knows no table.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import Connection, CursorResult

# Not unixepoch('subsec'): NULL before SQLite 3.42. Not now(): that is when the transaction began
NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM statement_timestamp()) * 1000 AS bigint)",
}
WORDS = {
    "sqlite": {
        "NOW": NOW["sqlite"],
        "IDS": "(SELECT value AS id FROM json_each(:ids))",
        "NAMES": "(SELECT value AS id FROM json_each(:names))",
        "PAIRS": "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:pairs))",
        "ROWS": "json_group_array",
        "ROW": "json_array",
        "BYTES": "",
        "LOCK": "",
        "SKIP_LOCKED": "",
        "ALONE": "",
        "SHARE": "",
    },
    "postgresql": {
        "NOW": NOW["postgresql"],
        "IDS": "(SELECT jsonb_array_elements_text(CAST(:ids AS jsonb)) AS id)",
        "NAMES": "(SELECT jsonb_array_elements_text(CAST(:names AS jsonb)) AS id)",
        "PAIRS": "(SELECT e ->> 0, e ->> 1 FROM jsonb_array_elements(CAST(:pairs AS jsonb)) AS e)",
        "ROWS": "json_agg",
        "ROW": "json_build_array",
        "BYTES": 'COLLATE "C"',
        "LOCK": "FOR NO KEY UPDATE",  # weaker than FOR UPDATE: foreign keys may still point at the row
        "SKIP_LOCKED": "FOR NO KEY UPDATE SKIP LOCKED",
        "ALONE": "FOR UPDATE",
        "SHARE": "FOR SHARE",
    },
}


ROWS_AT_ONCE = 10_000  # seconds at most: far from the longest statement that PostgreSQL lets us run
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]\w*)")


@lru_cache(maxsize=512)
def _driver_statement(dialect: str, statement: str) -> str:
    """Return the statement as the driver itself wants it: `sqlite3` takes :name, `psycopg` %(name)s."""
    filled = _filled(dialect, statement)
    if dialect == "sqlite":
        return filled
    return _PARAMETER.sub(r"%(\1)s", filled.replace("%", "%%"))


def _filled(dialect: str, statement: str) -> str:
    for word, meaning in WORDS[dialect].items():
        statement = statement.replace("{" + word + "}", meaning)
    return statement


_VALUE = re.compile(r"\{([a-z]\w*):([a-z ]+)\}")


@lru_cache(maxsize=64)
def _rows_statement(dialect: str, statement: str) -> str:
    """Return the statement with the rows' values filled in; `run` fills in the rest."""
    if dialect == "sqlite":
        return _VALUE.sub(r":\1", statement).replace("{EACH}", "")
    columns = ", ".join(f"{name} {kind}" for name, kind in dict(_VALUE.findall(statement)).items())
    rows = f"FROM json_to_recordset(CAST(:rows AS json)) AS r({columns})"
    return _VALUE.sub(r"r.\1", statement).replace("{EACH}", rows)


def run(
    connection: Connection,
    statement: str,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
) -> CursorResult[Any]:
    """Execute one statement; a list of parameters, at least one, executes it once for each.

    The text goes straight to the driver: with SQLAlchemy's own processing it takes up to a fifth longer.
    """
    filled = _driver_statement(connection.dialect.name, statement)
    if parameters is None or isinstance(parameters, Mapping):
        return connection.exec_driver_sql(filled, dict(parameters or {}))
    rows = list(parameters)
    # psycopg opens a pipeline for many, which one alone need not pay
    return connection.exec_driver_sql(filled, rows[0] if len(rows) == 1 else rows)


def run_rows(connection: Connection, statement: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Execute a statement with `{EACH}` for all rows, at least one; return how many it changed.

    PostgreSQL gets thousands at once, for a message to and fro is most of what a row costs; SQLite is in this
    process, and reading JSON would cost it more.

    Args:
        rows: column -> text without NUL, integer, finite float or None.
    """
    dialect = connection.dialect.name
    filled = _rows_statement(dialect, statement)
    if dialect == "sqlite":
        return run(connection, filled, rows).rowcount
    return sum(
        run(connection, filled, {"rows": orjson.dumps(rows[start : start + ROWS_AT_ONCE]).decode()}).rowcount
        for start in range(0, len(rows), ROWS_AT_ONCE)
    )


def pack_ids(ids: Iterable[str]) -> str:
    """Return ids as the parameter `ids` that `{IDS}` unpacks, or names as `names` for `{NAMES}`."""
    return orjson.dumps(sorted(ids)).decode()


def pack_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """Return pairs as the parameter `pairs` that `{PAIRS}` unpacks."""
    return orjson.dumps(sorted(pairs)).decode()
