"""The prompts of a file on their way into a command: good ones are handed on, bad ones told at once.

It knows where a complaint goes, not what a prompt is for.
"""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

import typer

from routet2i.contracts import GenerationRequest, Rejection
from routet2i.settings import Settings
from scheduler.cli.exits import Exit
from scheduler.cli.show import clean, console
from scheduler.hashing_reader import HashingReader
from scheduler.prompt_file import read_prompt_file


class PromptLines:
    """A prompt file read once; what is no prompt goes to standard error with line, reason and remedy."""

    def __init__(
        self,
        path: Path,
        *,
        settings: Settings,
        seed_base: bytes = b"",
        now_ms: int | None = None,
        tiers: Collection[str] | None = None,
    ) -> None:
        """Read nothing yet; see `read_prompt_file`."""
        self._items = read_prompt_file(
            path, settings=settings, seed_base=seed_base, hashed=self._keep, now_ms=now_ms, tiers=tiers
        )
        self._stream: HashingReader | None = None
        self.rejected = 0  # lines so far

    def _keep(self, stream: HashingReader) -> None:
        self._stream = stream

    @property
    def sha256(self) -> str:
        """Return the digest of what was read so far: of the file, once all lines were handed on."""
        return hashlib.sha256().hexdigest() if self._stream is None else self._stream.sha256.hexdigest()

    def __iter__(self) -> Iterator[GenerationRequest]:
        """Yield the requests in file order; raises IntakeError."""
        for item in self._items:
            if isinstance(item, Rejection):
                self.rejected += 1
                console(stderr=True).print(
                    f"line {item.line_no}: {clean(item.reason)}; {clean(item.remedy)}", soft_wrap=True
                )
            else:
                yield item

    def exit_if_rejected(self) -> None:
        """End the command with the exit code of rejected lines, if there were any."""
        if self.rejected:
            raise typer.Exit(Exit.REJECTED)
