"""Ctrl-C and SIGTERM as a count and an event, so that a stack can be drained instead of torn down.

It knows signals only.
"""

import signal
import threading
from queue import SimpleQueue
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
        # a signal comes at any time, also while this thread holds the event's own lock: a handler that
        # sets the event would wait for itself, and a queue of this kind is the one thing it may touch
        self._came: SimpleQueue[bool] = SimpleQueue()

    def __enter__(self) -> "Interrupts":
        """Begin to catch."""
        threading.Thread(target=self._tell, name="interrupts", daemon=True).start()
        for one in CAUGHT:
            self._before[one] = signal.signal(one, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the former handlers back."""
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._came.put(False)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
        self._came.put(True)

    def _tell(self) -> None:
        if self._came.get():
            self.stop.set()

    @property
    def hurried(self) -> bool:
        """Whether a second signal came: no patience any more."""
        return self.count > 1
