"""One statement for many rows keeps every value, on SQLite and PostgreSQL."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from db import dialects
from db.dialects import run_rows

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
VALUES = st.tuples(
    st.none() | WORDS,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
INSERT = """INSERT INTO kept(position, name, whole, part)
    SELECT {position:integer}, {name:text}, {whole:bigint}, {part:double precision} {EACH}
    WHERE true ON CONFLICT(position) DO NOTHING"""


@pytest.fixture
def connection(engine):
    """A connection with a table of its own."""
    with engine.connect() as made:
        made.execute(
            text(
                """CREATE TEMPORARY TABLE kept(
                    position integer PRIMARY KEY, name text, whole bigint, part double precision)"""
            )
        )
        yield made


def kept(connection):
    rows = connection.execute(text("SELECT name, whole, part FROM kept ORDER BY position"))
    return [tuple(row) for row in rows]


def rows_of(values):
    return [
        {"position": position, "name": name, "whole": whole, "part": part}
        for position, (name, whole, part) in enumerate(values)
    ]


def test_every_value_comes_back(connection):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(values=st.lists(VALUES, min_size=1, max_size=8))
    def holds(values):
        connection.execute(text("DELETE FROM kept"))
        assert run_rows(connection, INSERT, rows_of(values)) == len(values)
        assert kept(connection) == values

    holds()


def test_what_was_there_is_not_counted(connection):
    # Given two rows, when four come that have both among them, one of the new ones twice
    values = [("a", 1, 0.5), ("b", 2, None), ("c", 3, 1.0), ("d", None, None)]
    run_rows(connection, INSERT, rows_of(values[:2]))
    again = rows_of(values)
    # Then two are new
    assert run_rows(connection, INSERT, [*again, again[2] | {"name": "later"}]) == 2
    assert kept(connection) == values


def test_more_rows_than_fit_one_statement_are_all_changed(connection, monkeypatch):
    # Given seven rows
    run_rows(connection, INSERT, rows_of([("a", 1, None)] * 7))
    # When five are changed, two at a time
    monkeypatch.setattr(dialects, "ROWS_AT_ONCE", 2)
    changed = run_rows(
        connection,
        "UPDATE kept SET name = {name:text} {EACH} WHERE kept.position = {position:integer}",
        [{"position": position, "name": f"new {position}"} for position in range(5)],
    )
    # Then each has its own value
    assert changed == 5
    assert [name for name, _, _ in kept(connection)] == [*(f"new {n}" for n in range(5)), "a", "a"]
