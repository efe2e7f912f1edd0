"""docs/sql.md and docs/schema.md: every question is asked on both databases, every answer is the page's."""

import re
import shlex
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import typer

from db.asking import reader
from db.audit import check_invariants
from db.models import metadata
from db.schema_page import comments, diagram, meaning, page
from db.views import SECRETS, VIEWS
from scheduler.allocator import REASONS
from scheduler.cli import make_app
from tests.worked_history import make_history

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "sql.md").read_text(encoding="utf-8")
WORKED = re.findall(r"^## (\d+)\. (.+?)$.*?```sql\n(.*?)```\n\n(\|.*?\|)\n\n", PAGE, re.MULTILINE | re.DOTALL)


def as_table(columns, rows):
    """Return an answer as the page shows it; this day is a day of the page."""
    today = datetime.now(UTC).strftime("%Y-%m-%d")

    def shown(value):
        if isinstance(value, float | Decimal):
            return f"{float(value):.6g}"
        return "" if value is None else str(value).replace(today, "2026-11-22")

    lines = [columns, ["---"] * len(columns), *([shown(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def test_there_are_ten_questions():
    assert [int(number) for number, *_ in WORKED] == list(range(1, 11))


def test_every_question_of_the_page_has_the_answer_of_the_page(engine, shop):
    # Given the history that the page tells of
    make_history(shop)
    assert check_invariants(engine) == []
    # When each question is asked as `routet2i sql` asks it
    with reader(engine.url.render_as_string(hide_password=False)) as asked:
        for number, title, query, told in WORKED:
            answer = asked.ask(query)
            # Then the answer is the page's
            assert as_table(answer.columns, answer.rows) == told, f"{number}. {title}"


def test_the_reasons_in_the_page_are_the_allocators():
    assert set(re.findall(r"reason = '(\w+)'", PAGE)) <= set(REASONS)


def test_the_schemas_page_is_what_the_command_writes():
    assert (DOCS / "schema.md").read_text(encoding="utf-8") == page(), (
        "type: routet2i db schema --output docs/schema.md"
    )


def test_every_column_of_every_table_is_explained():
    said = comments()
    missing = [
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.columns
        if not meaning(column, said[table.name])
    ]
    assert missing == []


def test_no_word_of_a_view_is_empty_and_secrets_are_columns():
    assert all(view.row and all(view.columns.values()) for view in VIEWS.values())
    for table, columns in SECRETS.items():
        assert columns <= set(metadata.tables[table].columns.keys())


def test_the_diagram_has_every_table_and_every_reference_in_mermaids_grammar():
    # Given the diagram, line by line
    first, *lines = diagram().splitlines()
    assert first == "erDiagram"
    entity, column, end = r"    (\w+) \{", r"        \w+ \w+ (?:PK|FK)(?:, FK)?", r"    \}"
    reference = r'    (\w+) (?:\|\||\|o)--(?:o\{|o\|) (\w+) : "([\w, ]+)"'
    assert [one for one in lines if not re.fullmatch("|".join((entity, column, end, reference)), one)] == []
    # Then it is the metadata's
    assert {found[1] for one in lines if (found := re.fullmatch(entity, one))} == set(metadata.tables)
    drawn = {found.groups() for one in lines if (found := re.fullmatch(reference, one))}
    assert drawn == {
        (key.referred_table.name, table.name, ", ".join(key.column_keys))
        for table in metadata.sorted_tables
        for key in table.foreign_key_constraints
    }


def test_every_command_of_the_page_exists_with_its_options():
    group = typer.main.get_command(make_app())
    typed = re.findall(r"^routet2i ([^#>\n]*)", PAGE, re.MULTILINE)
    assert len(typed) > 5
    for line in typed:
        words, command = shlex.split(line), group
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context("x", words)


@pytest.mark.parametrize("name", ["sql.md", "schema.md"])
def test_every_link_of_the_pages_leads_somewhere(name):
    for target in re.findall(r"\]\(([^)]+)\)", (DOCS / name).read_text(encoding="utf-8")):
        assert (DOCS / target.partition("#")[0]).exists(), target
