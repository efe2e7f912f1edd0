"""The lines of somebody's table, as `csv.reader` wants them, within bounds: no line and no file without end.

It knows lengths, no columns.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from routet2i.errors import UsageError

MAX_LINE_CHARS = 1 << 20
MAX_CHARS = 2_000_000_000  # of a table: far more than anybody has rated, or can be held


def table_lines(file: TextIO, *, path: Path) -> Iterator[str]:
    """Yield a text file's lines, with their ends; raises UsageError for one too long, or for too many."""
    left = MAX_CHARS
    number = 0
    while line := file.readline(MAX_LINE_CHARS + 1):
        number += 1
        left -= len(line)
        if len(line) > MAX_LINE_CHARS:
            raise UsageError(f"{path}, line {number} has more than {MAX_LINE_CHARS} characters; shorten it")
        if left < 0:
            raise UsageError(f"{path} has more than {MAX_CHARS} characters; split it")
        yield line
