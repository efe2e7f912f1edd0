"""Slow work of which one piece is done at a time; few may wait, so that threads are left for others.

It knows no work.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from scheduler.api.answers import Refused

MOST = 4  # that have their turn or wait for it: of the forty threads of a web process


class Turn:
    """Of one process."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(MOST)
        self._turn = threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for the turn and have it; raises Refused with 503 if too many wait."""
        if not self._places.acquire(blocking=False):
            raise Refused(503, "others are asking for the same just now; try again in a while", code="busy")
        try:
            with self._turn:
                yield
        finally:
            self._places.release()
