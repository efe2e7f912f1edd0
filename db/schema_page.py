"""The schema as a page: an entity diagram of all tables, and every column of tables and views in words.

It reads `db.models`, whose comments are the words, and `db.views`; it opens no database.
"""

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy import CheckConstraint, Column, Index, Table, UniqueConstraint

from db import models
from db.views import VIEWS
from routet2i.errors import UsageError

HEAD = """# The schema

Written by `routet2i db schema --output docs/schema.md` from `db/models.py` and `db/views.py`.
Ids are UUID text, money in tables is integer micro-dollars, times are integer milliseconds since 1970 by the
database's own clock; views show dollars and ISO 8601 in UTC. [Ten questions](sql.md) to begin with.

Whoever only reads should ask the views: they keep their columns, tables may change with any version.
`ledger`, `outcome` and `assignment` are append-only: triggers refuse every change.
"""
OFTEN = {  # columns that mean the same in every table
    "id": "its name for ever",
    "created_ms": "when it was made",
    "started_ms": "when it began",
    "at_ms": "when it was done",
    "who": "did it",
    "height": "pixels",
    "model_id": "the model that drew it",
    "model_revision": "of that model",
    "predictor_name": "the predictor that decided",
    "predictor_version": "of that predictor",
}


def page() -> str:
    """Return the page as Markdown."""
    parts = [HEAD, "## Tables and how they hang together", f"```mermaid\n{diagram()}\n```", "## Views"]
    for name, view in VIEWS.items():
        rows = [f"| `{column}` | {meaning} |" for column, meaning in view.columns.items()]
        parts.append(f"### {name}\n{view.row}\n\n| column | meaning |\n|---|---|\n" + "\n".join(rows))
    parts.append("## Tables")
    words = comments()
    for table in models.metadata.sorted_tables:
        rows = [
            f"| `{column.name}` | {_kind(column)} | {meaning(column, words[table.name])} |"
            for column in table.columns
        ]
        listed = f"### {table.name}\n\n| column | type | meaning |\n|---|---|---|\n" + "\n".join(rows)
        parts.append(listed + "".join(f"\n\n{line}" for line in _rules(table)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def names() -> list[tuple[str, str]]:
    """Return (name, what it is) of every view, then of every table."""
    shown = [(name, view.row) for name, view in VIEWS.items()]
    return shown + [(name, "table") for name in sorted(models.metadata.tables)]


def columns_of(name: str) -> list[tuple[str, str]]:
    """Return (column, meaning) of a view or a table; raises UsageError if there is none of this name."""
    if name in VIEWS:
        return list(VIEWS[name].columns.items())
    if name not in models.metadata.tables:
        raise UsageError(f"there is no view or table {name!r}; type \\d")
    said = comments()[name]
    return [(column.name, meaning(column, said)) for column in models.metadata.tables[name].columns]


def diagram() -> str:
    """Return the entity diagram in mermaid's words: every table with its keys, every reference."""
    lines = ["erDiagram"]
    for table in models.metadata.sorted_tables:
        lines.append(f"    {table.name} {{")
        for column in table.columns:
            marks = [
                mark for mark, is_so in (("PK", column.primary_key), ("FK", column.foreign_keys)) if is_so
            ]
            if marks:
                lines.append(f"        {_type(column)} {column.name} {', '.join(marks)}")
        lines.append("    }")
    for table in models.metadata.sorted_tables:
        for key in sorted(table.foreign_key_constraints, key=lambda one: tuple(one.column_keys)):
            columns = [table.columns[name] for name in key.column_keys]
            parent = "|o" if any(column.nullable for column in columns) else "||"
            child = "o|" if _is_unique(table, set(key.column_keys)) else "o{"
            names = ", ".join(key.column_keys)
            lines.append(f'    {key.referred_table.name} {parent}--{child} {table.name} : "{names}"')
    return "\n".join(lines)


def meaning(column: Column[object], said: Mapping[str, str]) -> str:
    """Return what a column means in words, given its table's comments; empty if nobody says."""
    keys = ["key"] if column.primary_key else []
    keys += [f"→ `{one.target_fullname}`" for one in column.foreign_keys]
    words = _escaped(said.get(column.name) or OFTEN.get(column.name, ""))
    return "; ".join(part for part in (", ".join(sorted(keys)), words) if part)


def comments() -> dict[str, dict[str, str]]:
    """Return table -> column -> its comment in the source of `db.models`."""
    source = Path(models.__file__).read_text(encoding="utf-8")
    said = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, dict[str, str]] = {}
    for call in ast.walk(ast.parse(source)):
        if _called(call) == "Table":
            assert isinstance(call, ast.Call)
            columns = {_text(one): one for one in call.args if _called(one) == "Column"}
            found[_text(call)] = {
                name: said[line]
                for name, one in columns.items()
                for line in range(one.lineno, (one.end_lineno or one.lineno) + 1)
                if line in said
            }
    return found


def _called(node: ast.AST) -> str | None:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return node.func.id if is_call else None  # type: ignore[attr-defined]  # the line above has looked


def _text(node: ast.AST) -> str:
    assert isinstance(node, ast.Call)
    assert isinstance(node.args[0], ast.Constant)
    return str(node.args[0].value)


def _type(column: Column[object]) -> str:
    return column.type.__visit_name__


def _kind(column: Column[object]) -> str:
    return _type(column).replace("_", " ") + ("" if column.nullable else ", not null")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _is_unique(table: Table, columns: set[str]) -> bool:
    keys = [set(table.primary_key.columns.keys())]
    keys += [set(index.columns.keys()) for index in table.indexes if index.unique]
    return columns in keys


def _rules(table: Table) -> Iterator[str]:
    """Yield one line for each kind of rule: unique columns, checks, indexes."""
    unique = [one.columns.keys() for one in table.constraints if isinstance(one, UniqueConstraint)]
    if unique:
        yield (
            "Unique: " + "; ".join(sorted(", ".join(f"`{name}`" for name in names) for names in unique)) + "."
        )
    checks = [one for one in table.constraints if isinstance(one, CheckConstraint)]
    if checks:
        told = sorted(" ".join(str(one.sqltext).split()) for one in checks)
        yield "Holds: " + "; ".join(f"`{text}`" for text in told) + "."
    if table.indexes:
        yield "Indexes: " + "; ".join(sorted(map(_index, table.indexes))) + "."


def _index(index: Index) -> str:
    parts = ", ".join(str(one).removeprefix(f"{index.table}.") for one in index.expressions)
    where = index.dialect_options["sqlite"]["where"]
    return (
        f"`{parts}`" + (" (unique)" if index.unique else "") + ("" if where is None else f" where `{where}`")
    )
