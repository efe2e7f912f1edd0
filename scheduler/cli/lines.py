"""Questions typed at a terminal: edited, kept for the next time, complete at a semicolon.

It knows lines and a file of history, not what is asked.
"""

import contextlib
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

PROMPT, MORE = "routet2i> ", "      ..> "
KEPT = 1_000  # lines of history


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What is typed, one question or backslash word at a time."""

    history: Path

    def __iter__(self) -> Iterator[str]:
        """Yield what is typed until Ctrl-D; Ctrl-C forgets what was begun, and between two lines nothing."""
        with self._remembered(), _ctrl_c(signal.SIG_IGN):
            begun = ""
            while True:
                try:
                    with _ctrl_c(signal.default_int_handler):
                        line = input(MORE if begun else PROMPT)
                except KeyboardInterrupt:
                    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where it came at the block's end
                    print()
                    begun = ""
                    continue
                except EOFError:
                    print()
                    return
                if not begun and line.strip() in ("\\q", "exit", "quit"):
                    return
                if not begun and line.lstrip().startswith("\\"):
                    yield line.strip()
                    continue
                begun += f"{line}\n" if begun or line.strip() else ""
                if begun and sqlite3.complete_statement(begun):
                    yield begun
                    begun = ""

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        """Edit lines with what was typed before, and keep it for its owner alone."""
        import readline  # it takes over the terminal: not before somebody sits at one

        with contextlib.suppress(OSError):
            self.history.touch(mode=0o600)
            readline.read_history_file(self.history)
        readline.set_history_length(KEPT)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                readline.write_history_file(self.history)
                self.history.chmod(0o600)


@contextlib.contextmanager
def _ctrl_c(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
