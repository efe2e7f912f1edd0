"""A table of scores that grows while pictures are drawn, and goes on where it was left.

The long CSV `prompt,group,tier,metric,value` that `scheduler.datasets.read_table` reads, written a few
pictures at a time. It knows rows and what is missing of them; it knows neither models nor routers.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from routet2i.errors import UsageError
from scheduler.datasets import TABLE_COLUMNS

HEADER = (",".join(TABLE_COLUMNS) + "\n").encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rating:
    """What one tier's picture of one prompt was worth."""

    prompt: str
    tier: str
    scores: Mapping[str, float]  # metric -> value


class Ratings:
    """One table; whoever opens it repairs its end and learns what it has."""

    def __init__(self, path: Path) -> None:
        """Read the table, or make an empty one; a last row that was written in part is cut off.

        Raises:
            UsageError: the file cannot be opened, or is no such table.
        """
        self._path = path
        self._known: dict[tuple[str, str], set[str]] = {}  # prompt, tier -> metrics
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_bytes() if path.exists() else b""
            whole = text[: _end_of_last_record(text)]
            if HEADER.startswith(text):  # new, or cut off in its first line
                path.write_bytes(HEADER)
                return
            self._learn(whole)
            with path.open("r+b") as file:
                file.truncate(len(whole))
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}; name another --output") from error

    def lacks(self, prompt: str, tier: str, *, metrics: Sequence[str]) -> bool:
        """Return whether a metric of a tier's picture of a prompt is not in the table."""
        return not self._known.get((prompt, tier), set()).issuperset(metrics)

    def add(self, ratings: Sequence[Rating]) -> None:
        """Append the scores that are not there yet; they are with the operating system when this returns."""
        rows = [
            (one.prompt, "", one.tier, metric, repr(float(value)))
            for one in ratings
            for metric, value in one.scores.items()
            if metric not in self._known.get((one.prompt, one.tier), set())
        ]
        block = io.StringIO()
        csv.writer(block, lineterminator="\n").writerows(rows)  # read back by `train` as they are: no export
        with self._path.open("ab") as file:
            file.write(block.getvalue().encode())
        for one in ratings:
            self._known.setdefault((one.prompt, one.tier), set()).update(one.scores)

    def _learn(self, whole: bytes) -> None:
        try:
            rows = csv.reader(io.StringIO(whole.decode(), newline=""), strict=True)
            if tuple(next(rows)) != TABLE_COLUMNS:
                raise ValueError
            for prompt, _, tier, metric, _ in rows:
                self._known.setdefault((prompt, tier), set()).add(metric)
        except (ValueError, csv.Error, StopIteration):
            raise UsageError(
                f"{self._path} is no table of {','.join(TABLE_COLUMNS)}; name another --output"
            ) from None


def _end_of_last_record(text: bytes) -> int:
    """Return the place behind the last line end that is outside quotes."""
    end = place = 0
    quoted = False
    for line in text.splitlines(keepends=True):
        place += len(line)
        quoted ^= bool(line.count(b'"') % 2)
        if line.endswith(b"\n") and not quoted:
            end = place
    return end
