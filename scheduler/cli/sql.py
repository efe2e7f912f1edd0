"""`sql`: questions to the results database, which can change nothing; one, a file of them, or a shell.

It reads what was typed and prints answers; asking is `db.asking`. Ctrl-C ends the question, not the shell.
"""

import csv as spreadsheet
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from db.asking import Answer, Reader, reader, split
from routet2i.errors import RouteT2IError, SchemaMismatch, UsageError
from scheduler.cli.batches import Json
from scheduler.cli.lines import Lines
from scheduler.cli.session import read_settings
from scheduler.cli.show import as_json, clean, console, safe_cell, table

SHOWN = 1_000  # rows of a table: more is for programs
HISTORY = "sql_history"  # below the home
HELP = """\
A question ends with a semicolon.  \\d  lists views and tables,  \\d NAME  a view's or table's columns,
\\q  or Ctrl-D leaves, Ctrl-C ends a question that runs. Ten questions to begin with: docs/sql.md"""


def sql(
    ctx: typer.Context,
    query: Annotated[
        str | None, typer.Argument(help="One SELECT. Without it: standard input, or a shell on a terminal.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Run the queries of this file, one after the other.")
    ] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV that no spreadsheet runs.")] = False,
) -> None:
    """Ask the results database in SQL; nothing can be changed. Views: batch_summary, tier_daily, job_audit.

    Example: routet2i sql "SELECT tier, sum(charged_usd) FROM tier_daily GROUP BY tier"
    """
    if json and csv:
        raise UsageError("choose one of --json and --csv")
    if query is not None and file is not None:
        raise UsageError("give a query or --file, not both")
    settings = read_settings(ctx)
    if not settings.has_database:
        raise SchemaMismatch(f"no database in {settings.home}; type: routet2i up or routet2i db upgrade")
    with reader(settings.database) as asked:
        if query is None and file is None and sys.stdin.isatty():
            _converse(asked, history=settings.home / HISTORY, json=json, csv=csv)
            return
        questions = list(split(_text(query, file)))
        if not questions:
            raise UsageError('there is no query; type: routet2i sql "SELECT * FROM batch_summary"')
        if len(questions) > 1 and (json or csv):
            raise UsageError("--json and --csv take one query: two answers are no document")
        for question in questions:
            _answer(asked, question, json=json, csv=csv)


def _text(query: str | None, file: Path | None) -> str:
    if query is not None:
        return query
    try:
        return sys.stdin.read() if file is None else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {file or 'standard input'}: {error}; give a text file in UTF-8"
        ) from error


def _answer(asked: Reader, question: str, *, json: bool, csv: bool) -> None:
    with _ctrl_c_cancels(asked):
        answer = asked.ask(question)
        if csv:
            _print_csv(answer)
        elif json:
            _print_json(answer)
        else:
            _print_table(answer)


@contextmanager
def _ctrl_c_cancels(asked: Reader) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda *_: asked.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _print_csv(answer: Answer) -> None:
    writer = spreadsheet.writer(sys.stdout, quoting=spreadsheet.QUOTE_ALL, lineterminator="\n")
    writer.writerow([safe_cell(name) for name in answer.columns])
    writer.writerows([safe_cell(_value(one)) for one in row] for row in answer.rows)


def _print_json(answer: Answer) -> None:
    twice = {name for name in answer.columns if list(answer.columns).count(name) > 1}
    if twice:
        raise UsageError(f"two columns are called {min(twice)}; name them apart with AS")
    sys.stdout.write("[")
    for number, row in enumerate(answer.rows):
        line = as_json(dict(zip(answer.columns, map(_value, row), strict=True)), lines=True)
        sys.stdout.write((",\n" if number else "\n") + line)
    sys.stdout.write("\n]\n")


def _print_table(answer: Answer) -> None:
    rows = [[_shown(one) for one in row] for row in islice(answer.rows, SHOWN)]
    console().print(table(None, columns=[clean(name) for name in answer.columns], rows=rows))
    if len(rows) == SHOWN and next(answer.rows, None) is not None:
        console(stderr=True).print(f"these are the first {SHOWN} rows; --csv and --json print all")


def _value(value: Any) -> Any:
    """Return a value in a form that JSON and CSV have."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return float(value)
    return value if value is None or isinstance(value, int | float | str | list | dict) else str(value)


def _shown(value: Any) -> Any:
    return f"{len(value)} bytes" if isinstance(value, bytes) else _value(value)


def _converse(asked: Reader, *, history: Path, json: bool, csv: bool) -> None:
    """Ask what is typed until the end of input."""
    console().print(HELP)
    for typed in Lines(history=history):
        try:
            if typed.startswith("\\"):
                _describe(typed)
            else:
                _answer(asked, typed, json=json, csv=csv)
        except RouteT2IError as error:
            console(stderr=True).print(f"error: {clean(str(error))}", soft_wrap=True)


def _describe(typed: str) -> None:
    from db.schema_page import columns_of, names

    words = typed.split()
    if words[0] != "\\d" or len(words) > 2:
        console().print(HELP)
        return
    rows: Iterable[Sequence[str]] = names() if len(words) == 1 else columns_of(words[1])
    console().print(table(None, columns=("name", "meaning"), rows=list(rows)))
