"""What a running stack holds at one moment, as numbers by name: `edge worker, pool process: private`.

It knows processes, files and servers, and says nothing about what is much.
"""

import contextlib
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from tests.soak.stack import Stack


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One look."""

    at: float  # seconds since the first
    time: float  # Unix time
    done: int  # jobs that have an outcome
    unfinished: int
    values: Mapping[str, float]  # `subject: measure`


class Sampler:
    """Looks at a stack."""

    def __init__(self, stack: Stack) -> None:
        """Begin the clock."""
        self.pids: dict[str, set[int]] = defaultdict(set)  # of each process, to see replaced ones
        self._stack = stack
        self._began = time.monotonic()

    def look(self) -> Sample:
        """Return what there is now."""
        values: Counter[str] = Counter()
        for name, process in self._stack.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                held = process.memory_full_info()
                found = {"rss": held.rss, "private": held.uss, "shared": held.pss - held.uss}
                found |= {"open_files": process.num_fds(), "threads": process.num_threads(), "processes": 1}
                if self._stack.server is None:
                    found["database_files"] = sum(
                        file.path.endswith("routet2i.db") for file in process.open_files()
                    )
                values.update({f"{name}: {measure}": number for measure, number in found.items()})
                self.pids[name].add(process.pid)
        broker = self._stack.client.info()
        values["broker: used_memory"] = broker["used_memory"]
        values["broker: clients"] = broker["connected_clients"]
        values["broker: keys"] = self._stack.client.dbsize()
        if (connections := self._stack.connections()) is not None:
            values["PostgreSQL: connections"] = connections
        size, write_ahead = self._stack.database_bytes()
        values["database: bytes"] = size
        if write_ahead is not None:
            values["database: wal_bytes"] = write_ahead
        values["log: bytes"] = self._stack.log.stat().st_size
        values["home: files"] = _files(self._stack.home, without=("images", "prompts", "tmp"))
        values["home: temporary"] = _files(self._stack.temporary)
        counts = self._stack.counts()
        done = counts.get("done", 0)
        return Sample(
            at=time.monotonic() - self._began,
            time=time.time(),
            done=done,
            unfinished=sum(counts.values()) - done,
            values=dict(values),
        )

    def replaced(self) -> list[str]:
        """Return the processes that are not those of the beginning any more."""
        return [name for name, pids in self.pids.items() if len(pids) > 1 and name != "PostgreSQL"]


class Ears:
    """Hears what workers tell about their tasks, as Flower would; counts it."""

    def __init__(self, client: redis.Redis) -> None:
        """Start to listen."""
        self.heard: Counter[str] = Counter()  # kind of event, e.g. task.succeeded
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe("*celeryev*")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="ears", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.is_set():
            message = self._pubsub.get_message(timeout=0.5)
            if message is not None:
                self.heard[message["channel"].decode().rsplit("/", 1)[-1]] += 1

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self._thread.join()
        self._pubsub.close()


def series(samples: Sequence[Sample]) -> Mapping[str, tuple[list[float], list[float]]]:
    """Return name -> times and values, of what was there in at least one sample."""
    found: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for sample in samples:
        for name, value in sample.values.items():
            times, values = found[name]
            times.append(sample.at)
            values.append(value)
    return dict(found)


def pictures(folder: Path) -> tuple[list[tuple[float, int]], int]:
    """Return time and bytes of every picture, oldest first, and how many temporary files lie beside them."""
    found, temporary = [], 0
    for path in folder.glob("*/*/*"):
        if path.suffix == ".png":
            told = path.stat()
            found.append((told.st_mtime, told.st_size))
        else:
            temporary += 1
    return sorted(found), temporary


def _files(folder: Path, *, without: Sequence[str] = ()) -> int:
    count = 0
    for path, folders, names in os.walk(folder):
        if Path(path) == folder:
            folders[:] = [name for name in folders if name not in without]
        count += len(names)
    return count
