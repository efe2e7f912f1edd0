"""Measured figures beside their targets: the rows of `reports/<name>.json` and of the tables made from them.

It knows how a figure is written down, not how any is measured.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


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


def as_table(figures: Sequence[Figure]) -> str:
    """Return figures as a Markdown table."""
    lines = ["| figure | value | baseline | target | holds |", "|---|---|---|---|---|"]
    for f in figures:
        verdict = {True: "yes", False: "**no**", None: ""}[f.holds]
        lines.append(f"| {f.figure} | {f.value:.4g} {f.unit} | {f.baseline} | {f.target} | {verdict} |")
    return "\n".join(lines)
