"""A prompt file that is read once, for its prompts alone: nothing is submitted, nothing is written.

It opens the file, tells its format and hands out what `scheduler.intake` finds in each line. It knows neither
batches nor budgets.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

from routet2i.contracts import GenerationRequest, Rejection
from routet2i.errors import IntakeError
from routet2i.settings import Settings
from scheduler.hashing_reader import HashingReader
from scheduler.intake import Format, guess_format, read_requests

STANDARD_INPUT = Path("-")


def prompt_format(path: Path) -> Format:
    """Return what a prompt file is read as; raises IntakeError if its name does not tell."""
    return "jsonl" if path == STANDARD_INPUT else guess_format(path)


def read_prompt_file(
    path: Path,
    *,
    settings: Settings,
    seed_base: bytes = b"",
    hashed: Callable[[HashingReader], None] | None = None,
    now_ms: int | None = None,
    tiers: Collection[str] | None = None,
) -> Iterator[GenerationRequest | Rejection]:
    """Yield one request or rejection per line, in file order, as `submit` would see it.

    Args:
        path: JSON lines, CSV or text, told by its ending; `-` is standard input, JSON lines.
        settings: for the caps of lines and prompts.
        seed_base: of the seeds of lines that name none.
        now_ms: see `read_requests`.
        tiers: see `read_requests`.
        hashed: gets the stream once the file is open: at its end it has the digest of the file.
    Raises:
        IntakeError: the file cannot be read, is no such file, or has no line that could be a prompt.
    """
    source = "standard input" if path == STANDARD_INPUT else str(path)
    fmt = prompt_format(path)
    empty = True
    try:
        with ExitStack() as stack:
            stream = sys.stdin.buffer if path == STANDARD_INPUT else stack.enter_context(path.open("rb"))
            reader = HashingReader(stream)
            if hashed is not None:
                hashed(reader)
            for item in read_requests(
                cast(BinaryIO, reader),
                fmt=fmt,
                max_line_bytes=settings.max_line_bytes,
                max_prompt_chars=settings.max_prompt_chars,
                seed_base=seed_base,
                now_ms=now_ms,
                max_file_bytes=settings.max_file_bytes,
                max_file_lines=settings.max_file_lines,
                tiers=tiers,
            ):
                empty = False
                yield item
    except IntakeError as error:
        raise IntakeError(f"{source}: {error}") from None
    except OSError as error:
        raise IntakeError(f"cannot read {source}: {error.strerror}; check the name") from error
    if empty:
        raise IntakeError(
            f"no prompts in {source}; write one JSON object a line, or one prompt a line in a .txt"
        )
