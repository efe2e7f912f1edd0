"""The report's numbers, one a row, as CSV: `reports/routing.csv`. All tables of the page are made from it.

It knows how a number is written down and found again, not how any is measured.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from scheduler.intervals import Figure

DIGITS = 5  # significant: more than any interval allows to be told apart


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One number of one router."""

    part: str  # of the report: pocket, rated, drawn or speed
    data: str  # Experiment.key
    judge: str
    router: str
    figure: str
    value: float | None  # None: see note
    low: float | None = None  # 95 % interval; None: none was made, or there is no bound
    high: float | None = None
    note: str = ""  # an Answer of `evaluation`, or empty


def result(figure: Figure, *, part: str, data: str, judge: str, router: str, name: str) -> Result:
    """Return a measured figure as a row, rounded to what is written down."""
    return Result(
        part=part,
        data=data,
        judge=judge,
        router=router,
        figure=name,
        value=rounded(figure.value),
        low=rounded(figure.low),
        high=rounded(figure.high),
        note=figure.note,
    )


def rounded(value: float | None) -> float | None:
    """Return a number with DIGITS significant digits, so that what is stored is what is shown."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write rows as CSV with a header; None is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Result)])
        writer.writerows(["" if cell is None else _text(cell) for cell in astuple(one)] for one in results)


def read_results(path: Path) -> list[Result]:
    """Return the rows of a file; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_result(row) for row in csv.DictReader(file)]


@dataclass(frozen=True, slots=True)
class Results:
    """Rows that can be asked for by name."""

    rows: Sequence[Result]

    def of(self, **wanted: str) -> "Results":
        """Return the rows whose named fields have the wanted values."""
        return Results([row for row in self.rows if all(getattr(row, k) == v for k, v in wanted.items())])

    def names(self, field: str) -> list[str]:
        """Return the different values of a field, in order of first appearance."""
        return list(dict.fromkeys(getattr(row, field) for row in self.rows))

    def one(self, **wanted: str) -> Result | None:
        """Return the first row with the wanted values, or None."""
        found = self.of(**wanted).rows
        return found[0] if found else None


def _text(cell: str | float) -> str:
    return cell if isinstance(cell, str) else f"{cell:.{DIGITS}g}"


def _result(row: dict[str, str]) -> Result:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return Result(
        part=row["part"],
        data=row["data"],
        judge=row["judge"],
        router=row["router"],
        figure=row["figure"],
        value=number("value"),
        low=number("low"),
        high=number("high"),
        note=row["note"],
    )
