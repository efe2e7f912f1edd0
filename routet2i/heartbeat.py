"""A worker's sign of life: one thread that writes the worker's row every few seconds, and notices deafness.

A worker that hears no message for long, though its tier has work, has lost its broker without noticing: it
asks to be started again. It knows a store and a state. It does not know Celery: `routet2i.worker` tells it
when to begin, to drain and to stop.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

import structlog

from routet2i import __version__

HEARTBEAT_SECONDS = 5.0  # a worker silent for three of them is lost (reliability.md, section 5)
LIVE_SECONDS = 3 * HEARTBEAT_SECONDS  # a worker silent for longer is not counted
State = Literal["idle", "busy", "draining", "stopped"]
_log = structlog.get_logger(__name__)


class Beats(Protocol):
    """Where a sign of life is written."""

    def beat(self, *, worker: str, tier: str, device: str, version: str, state: str) -> None:
        """Upsert the worker's row by the database's clock."""

    def has_old_work(self, *, tier: str, seconds: float) -> bool:
        """Whether work of the tier was sent, and waits for so long that nobody claimed it."""

    def progress(self, microbatch_id: str) -> tuple[int, int]:
        """Return how many jobs of a microbatch have their outcome, and how many it has."""


class Heartbeat:
    """Beats from `start` to `stop`; a database that does not answer is logged and tried again."""

    def __init__(
        self,
        *,
        open_store: Callable[[], Beats],
        worker: str,
        tier: str,
        device: str,
        is_busy: Callable[[], bool],
        seconds: float = HEARTBEAT_SECONDS,
        on_turn: Callable[[], None] = lambda: None,
        on_busy: Callable[[Beats], None] = lambda _: None,
        on_deaf: Callable[[], None] = lambda: None,
        deaf_seconds: float = math.inf,
    ) -> None:
        """Prepare; `open_store` is called in the thread, which needs connections of its own.

        Args:
            on_turn: called at each turn, whatever the database does.
            on_busy: called at each beat of a worker at work, with the store.
            on_deaf: called once, when the worker was idle for `deaf_seconds` while work waited as long.
        """
        self._open_store = open_store
        self._who = {"worker": worker, "tier": tier, "device": device, "version": __version__}
        self._is_busy = is_busy
        self._seconds = seconds
        self._on_turn = on_turn
        self._on_busy = on_busy
        self._on_deaf = on_deaf
        self._deaf_seconds = deaf_seconds
        self._idle_since = time.monotonic()
        self._draining = False
        self._stopped = False
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; the first beat is written at once."""
        self._thread.start()

    def hear(self) -> None:
        """Say that a message has come, or can come from now on: between two beats nobody else notices."""
        self._idle_since = time.monotonic()

    def drain(self) -> None:
        """Say that no new work is taken; safe in a signal handler."""
        self._draining = True
        self._changed.set()

    def stop(self) -> None:
        """Write the last beat and end the thread; returns when it has ended, after a few seconds at most."""
        self._stopped = True
        self._changed.set()
        self._thread.join(timeout=self._seconds)

    def _state(self) -> State:
        if self._stopped:
            return "stopped"
        if self._draining:
            return "draining"
        return "busy" if self._is_busy() else "idle"

    def _run(self) -> None:
        store: Beats | None = None
        state: State = "idle"
        while state != "stopped":
            self._changed.clear()
            state = self._state()
            self._on_turn()
            try:
                store = store or self._open_store()
                store.beat(**self._who, state=state)
                self._listen(store, state=state)
                if self._is_busy():
                    self._on_busy(store)
            except Exception as error:  # a lost database must not silence the worker for good
                _log.warning("beat_failed", state=state, error=type(error).__name__)
            if state != "stopped":
                self._changed.wait(self._seconds)

    def _listen(self, store: Beats, *, state: State) -> None:
        if state != "idle":
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > self._deaf_seconds and store.has_old_work(
            tier=self._who["tier"], seconds=self._deaf_seconds
        ):
            _log.critical("worker_deaf", idle_seconds=round(time.monotonic() - self._idle_since))
            self._deaf_seconds = math.inf
            self._on_deaf()
