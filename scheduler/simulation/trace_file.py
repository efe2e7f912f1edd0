"""Read arrivals of the user's own: a CSV of `at_seconds,prompt[,n]` or `at_seconds,prs[,n]`.

Good lines become arrays in the order of time; every bad line is told with its reason and a remedy. It knows
no predictor and no price: what a prompt is worth is somebody else's question.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from routet2i.errors import UsageError
from scheduler.simulation.traces import Counts, Floats
from scheduler.table_lines import table_lines

TIME, PROMPT, PRS, PICTURES = "at_seconds", "prompt", "prs", "n"
MOST_PICTURES = 64  # of one job
LONGEST = 3.2e7  # seconds; a year


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTrace:
    """m arrivals of a file, earliest first; exactly one of `prompts` and `prs` is there."""

    name: str
    at: Floats  # (m,) seconds since the earliest, rising
    pictures: Counts  # (m,) >= 1
    prompts: tuple[str, ...] | None
    prs: Floats | None  # (m,) predicted PRS of the cheapest tier against the dearest, [0, 1]
    rejected: tuple[str, ...]  # one sentence per bad line: file, line, reason, remedy

    def __len__(self) -> int:
        return len(self.at)


def read_trace(path: Path) -> OwnTrace:
    """Read a CSV with a header; columns in any order, lines too, others are ignored.

    Raises:
        UsageError: the file cannot be read, lacks a column, or has no good line.
    """
    rows: list[tuple[float, str | float, int]] = []
    rejected: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(table_lines(file, path=path), strict=True, restkey="", restval="")
            column = _column(path, [name.strip() for name in reader.fieldnames or ()])
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            for row in reader:
                try:
                    rows.append(_parsed(row, column=column))
                except ValueError as error:
                    rejected.append(f"{path}, line {reader.line_num}: {error}")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: {error}; check the quotes of this line") from error
    if not rows:
        raise UsageError(rejected[0] if rejected else f"{path} has no line below its header; write arrivals")
    return _arranged(path.stem, rows, own=column, rejected=tuple(rejected))


def _column(path: Path, header: list[str]) -> str:
    found = [name for name in (PROMPT, PRS) if name in header]
    if TIME not in header or len(found) != 1:
        raise UsageError(
            f"{path}, line 1: write a header with {TIME},{PROMPT} or {TIME},{PRS}, and {PICTURES} if jobs "
            f"have several pictures; it is {','.join(header) or 'empty'}"
        )
    return found[0]


def _parsed(row: dict[str, str], *, column: str) -> tuple[float, str | float, int]:
    """Return time, prompt or PRS, pictures of a line; raises ValueError with reason and remedy."""
    if "" in row:
        raise ValueError("more columns than the header; put a text that contains a comma in double quotes")
    at = _number(row[TIME], name=TIME, low=-LONGEST, high=LONGEST)
    text = row.get(PICTURES, "").strip() or "1"
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= MOST_PICTURES):
        raise ValueError(f"{PICTURES} = {text!r}; write a whole number from 1 to {MOST_PICTURES}")
    if column == PRS:
        return at, _number(row[PRS], name=PRS, low=0.0, high=1.0), int(text)
    prompt = row[PROMPT].strip()
    if not prompt:
        raise ValueError(f"{PROMPT} is empty; write one or remove the line")
    return at, prompt, int(text)


def _number(text: str, *, name: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise ValueError(f"{name} = {text.strip()!r}; write a number from {low:g} to {high:g}")
    return number


def _arranged(
    name: str, rows: list[tuple[float, str | float, int]], *, own: str, rejected: tuple[str, ...]
) -> OwnTrace:
    at = np.array([row[0] for row in rows])
    order: NDArray[np.int64] = np.argsort(at, kind="stable")
    pictures = np.array([row[2] for row in rows], dtype=np.int64)
    values = [rows[i][1] for i in order]
    return OwnTrace(
        name=name,
        at=at[order] - at.min(),
        pictures=pictures[order],
        prompts=tuple(str(value) for value in values) if own == PROMPT else None,
        prs=np.array(values, dtype=np.float64) if own == PRS else None,
        rejected=rejected,
    )
