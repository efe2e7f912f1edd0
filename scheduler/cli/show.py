"""How values look on a terminal, in JSON and in CSV; strangers' texts are made harmless here.

It knows forms, not where a value comes from.
"""

import csv
import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import IO, Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from routet2i.contracts import JobState
from scheduler.findings import Finding, Level

PIPED_WIDTH = 160  # a file or a pipe has no width: enough for a row of `results`
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins with one of them
STYLES = {
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
    JobState.RUNNING: "cyan",
}
LEVELS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def console(*, stderr: bool = False) -> Console:
    """Return a console of this moment's standard output or error; square brackets mean nothing to it."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(stderr=stderr, markup=False, highlight=False, width=width)


def money(micro_usd: int | None) -> str:
    """Return micro-dollars as dollars, with as many decimals as they need and at least two."""
    if micro_usd is None:
        return "no limit"
    whole, rest = divmod(micro_usd, 1_000_000)
    return f"${whole}.{f'{rest:06d}'.rstrip('0'):0<2}"


def span(seconds: float) -> str:
    """Return a time in one unit, as whole as it is known: an estimate needs no more."""
    for unit, length, until in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3_600, 36 * 3_600)):
        if seconds < until:
            return f"{max(1, round(seconds / length))} {unit}"
    return f"{round(seconds / 86_400)} days"


def clean(text: str) -> str:
    """Return a text in one line that cannot move a terminal's cursor or reorder what is read."""
    kept = _CONTROL.sub(" ", text)
    return "".join(
        "\ufffd" if unicodedata.category(one) in ("Cf", "Cs", "Co", "Zl", "Zp") else one for one in kept
    )


def shortened(text: str, *, width: int) -> str:
    """Return the beginning of a text, harmless, with an ellipsis if it is longer."""
    text = clean(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def table(title: str | None, *, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table of harmless texts; numbers stand to the right."""
    body = [list(row) for row in rows]
    made = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = any(_is_number(row[index]) for row in body)
        made.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=index == 0)
    for row in body:
        made.add_row(*(_cell(value) for value in row))
    return made


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and value.startswith("$"))


def _cell(value: Any) -> Text:
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, JobState):
        return Text(value.value, style=STYLES.get(value, ""))
    return Text(f"{value:.3f}" if isinstance(value, float) else clean(str(value)))


def as_json(value: Any, *, lines: bool = False) -> str:
    """Return a value (dataclasses, times, decimals included) as JSON, indented or on one line."""
    option = orjson.OPT_NON_STR_KEYS | (0 if lines else orjson.OPT_INDENT_2)
    return orjson.dumps(value, default=_plain, option=option).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def write_csv(rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str], stream: IO[str]) -> None:
    """Write rows as CSV that no spreadsheet runs: all cells quoted, formula signs behind an apostrophe."""
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([safe_cell(row[column]) for column in columns])


def safe_cell(value: Any) -> Any:
    """Return a value that a spreadsheet shows and does not run."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return json.dumps(value) if isinstance(value, dict | list) else value


def print_finding(finding: Finding, *, out: Console) -> None:
    """Print a finding in one line, and what to type in another."""
    line = Text(f"{finding.level.value:<5}", style=LEVELS[finding.level])
    line.append(f"{finding.name:<10} {clean(finding.detail)}", style="default")
    if finding.remedy:
        line.append(f"\n{'':<15} type: {clean(finding.remedy)}", style="bold default")
    out.print(line, soft_wrap=True)


def write_line(text: str) -> None:
    """Write a line for programs: no colours, no wrapping."""
    sys.stdout.write(text + "\n")
