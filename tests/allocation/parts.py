"""The parts of the report, and what becomes of the rows of those that are not measured again.

A row names its part before the colon of its figure. It knows rows, not how any is measured.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from routet2i.figures import Figure

PARTS = ("overspend", "preview", "optimality", "speed", "windows", "fairness")  # in the order of the report


def named(part: str, figures: Iterable[Figure]) -> list[Figure]:
    """Return a part's figures with its name before each."""
    return [replace(figure, figure=f"{part}: {figure.figure}") for figure in figures]


def part_of(figure: Figure) -> str:
    """Return the part that a row names."""
    return figure.figure.split(":", 1)[0]


def merged(before: Sequence[Figure], now: Sequence[Figure], *, measured: Sequence[str]) -> list[Figure]:
    """Return the report: new rows of the parts that were measured, former ones of the others.

    Args:
        before: rows of the last report.
        now: rows of the measured parts.
        measured: which parts those are.
    """
    rows = [figure for figure in before if part_of(figure) not in measured] + list(now)
    return [figure for part in PARTS for figure in rows if part_of(figure) == part]
