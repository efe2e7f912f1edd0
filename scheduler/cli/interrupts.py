"""Ctrl-C and SIGTERM as a count and an event, so that a stack can be drained instead of torn down.

It knows signals only.
"""

import signal
import threading
from types import FrameType
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While open, the first signal sets `stop`; `count` tells how many came. Main thread only."""

    def __init__(self) -> None:
        """Catch nothing yet."""
        self.stop = threading.Event()
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        """Begin to catch."""
        for one in CAUGHT:
            self._before[one] = signal.signal(one, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the former handlers back."""
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.stop.set()

    @property
    def hurried(self) -> bool:
        """Whether a second signal came: no patience any more."""
        return self.count > 1
