"""Measured figures beside their targets: `reports/<name>.json`, and the tables in documents made from it.

A document holds a table between `<!-- figures: reports/NAME.json -->` and `<!-- end of figures -->`;
`python -m routet2i.figures DOCUMENT ...` writes it anew. It knows how a figure is written down, not how any
is measured.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MARKED = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured number."""

    figure: str  # what was measured
    value: float
    unit: str
    baseline: str  # what it is compared with, and that one's value
    target: str  # what was wanted; empty where nothing was
    holds: bool | None  # whether the target is met; None without a target
    command: str  # prints it again


def write_report(path: Path, figures: Sequence[Figure]) -> None:
    """Write figures as JSON, one list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


def read_report(path: Path) -> list[Figure]:
    """Return the figures of a report."""
    return [Figure(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def as_table(figures: Sequence[Figure]) -> str:
    """Return figures as a Markdown table."""
    lines = ["| figure | value | baseline | target | holds |", "|---|---|---|---|---|"]
    for f in figures:
        verdict = {True: "yes", False: "**no**", None: ""}[f.holds]
        lines.append(f"| {f.figure} | {f.value:.4g} {f.unit} | {f.baseline} | {f.target} | {verdict} |")
    return "\n".join(lines)


def refreshed(text: str, *, root: Path) -> str:
    """Return a document with its marked tables made anew from the reports under `root`.

    Each table is followed by the command that prints it.
    """

    def table(match: re.Match[str]) -> str:
        figures = read_report(root / match[2])
        if not figures:
            return f"{match[1]}{match[3]}"
        command = figures[0].command
        return f"{match[1]}{as_table(figures)}\n\nPrinted by `{command}`.\n{match[3]}"

    return MARKED.sub(table, text)


def main() -> None:
    """Refresh the documents named on the command line."""
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(refreshed(path.read_text(encoding="utf-8"), root=Path.cwd()), encoding="utf-8")


if __name__ == "__main__":
    main()
