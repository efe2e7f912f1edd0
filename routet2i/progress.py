"""How far the microbatches in hand have come, for Flower: read at the heartbeat, told as Celery events.

SQL is where it stands; an event may get lost, and nothing depends on one. Two threads of a worker share this:
Celery's says what is in hand and sends what is known, the heartbeat's asks the store, so that a slow database
keeps no message waiting. It knows neither what a message looks like nor how an event travels.
"""

from collections.abc import Mapping
from typing import Protocol

EVENT = "task-progress"  # Celery makes a state of what it does not know: Flower shows PROGRESS
EVENT_SECONDS = 2.0  # between two looks at what is known, as often as Celery's own heartbeat


class Counts(Protocol):
    """Where it stands how far a microbatch is."""

    def progress(self, microbatch_id: str) -> tuple[int, int]:
        """Return how many jobs of a microbatch have their outcome, and how many it has."""


class Telling(Protocol):
    """A Celery request."""

    def send_event(self, type: str, **fields: object) -> None:
        """Tell whoever watches the workers."""


class Progress:
    """What one worker knows of the microbatches it has in hand."""

    def __init__(self) -> None:
        """Begin with nothing in hand."""
        self._in_hand: tuple[str, ...] = ()
        self._known: Mapping[str, tuple[int, int]] = {}

    def look(self, store: Counts) -> None:
        """Ask how far each microbatch in hand is; whatever the store raises comes through."""
        self._known = {one: store.progress(one) for one in self._in_hand}

    def tell(self, requests: Mapping[str, Telling]) -> None:
        """Say what is in hand, by microbatch, and send what is known of it."""
        self._in_hand = tuple(requests)
        for microbatch_id, (done, jobs) in self._known.items():
            if microbatch_id in requests and jobs:
                requests[microbatch_id].send_event(EVENT, result=f"{done} of {jobs} jobs")
