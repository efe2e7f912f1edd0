"""The pulse of a process: a small file that it touches while its loop turns, for probes of the same machine.

It asks no database and no broker, so that an outage of theirs lets nobody restart healthy processes. It knows
nothing of what the process does. Ages are by the machine's monotonic clock, which nobody sets.
"""

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

FRESH_SECONDS = 120.0  # longer than any one step of a loop: a window, five tries of a statement


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """The last sign of one process of this machine."""

    service: str  # scheduler, worker
    name: str
    pid: int
    age_seconds: float

    @property
    def is_fresh(self) -> bool:
        """Whether its loop turned lately."""
        return 0 <= self.age_seconds < FRESH_SECONDS


class Pulse:
    """One process's file in HOME/run/alive."""

    def __init__(self, home: Path, *, service: str, name: str) -> None:
        """Write nothing yet."""
        self._path = _folder(home) / f"{service}-{socket.gethostname()}-{os.getpid()}.json"
        self._what = {"service": service, "name": name, "host": socket.gethostname(), "pid": os.getpid()}

    def beat(self) -> None:
        """Say that the loop turns; a home that cannot be written is no reason to stop."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(self._what | {"at": time.monotonic()}), encoding="utf-8")
            new.replace(self._path)

    def end(self) -> None:
        """Say that the process ends."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def beats(home: Path, *, service: str) -> list[Beat]:
    """Return the signs of a service's processes on this machine, the freshest first."""
    found = []
    for path in _folder(home).glob(f"{service}-*.json"):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["host"] != socket.gethostname():
                continue
            age = time.monotonic() - float(told["at"])
            found.append(Beat(service=service, name=str(told["name"]), pid=int(told["pid"]), age_seconds=age))
        except (OSError, ValueError, KeyError, TypeError):  # written by no program of ours, or just deleted
            continue
    return sorted(found, key=lambda beat: (not beat.is_fresh, abs(beat.age_seconds)))


def _folder(home: Path) -> Path:
    return home.resolve() / "run" / "alive"
