"""Processes that are started again when they end, as systemd or a container runtime would do it.

It knows argv, signals and process groups. It knows nothing of what the processes do, nor why they end.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

import scheduler.sentinel

RESTART_SECONDS = 1.0  # between an end and the next start


class Member:
    """One process that is kept alive, each start with a number."""

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        environment: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        """Start nothing yet; `command` returns the argv of the start with this number, from 1."""
        self.name = name
        self.starts = 0
        self.ends: list[tuple[float, int]] = []  # Unix time and exit code of every end
        self.process: subprocess.Popen[bytes] | None = None
        self.stays_down = False  # as long as a fault lasts
        self._command = command
        self._environment = dict(environment)
        self._once: dict[str, str] = {}
        self._cwd = cwd
        self._due = 0.0

    @property
    def pid(self) -> int | None:
        """The process's id, None while it is down."""
        process = self.process
        return None if process is None else process.pid

    def arm(self, **environment: str) -> None:
        """Add variables to the environment of the next start, and of that one only."""
        self._once = environment

    def children(self) -> list[psutil.Process]:
        """Return the live processes below it."""
        try:
            return [] if self.pid is None else psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def signal(self, number: int, *, everyone: bool = False) -> bool:
        """Send a signal to the process, or to its whole group; False if it is down."""
        pid = self.pid
        try:
            if pid is None:
                return False
            (os.killpg if everyone else os.kill)(pid, number)
        except ProcessLookupError:
            return False
        return True

    def tend(self, log: int, tell: Callable[[str], None]) -> None:
        """Start it if it is down and due; note its end."""
        if self.process is None:
            if self.stays_down or time.monotonic() < self._due:
                return
            self.starts += 1
            self.process = subprocess.Popen(
                list(self._command(self.starts)),
                env=self._environment | self._once,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self._once = {}
            tell(f"+{self.process.pid}")
            return
        code = self.process.poll()
        if code is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        tell(f"-{self.process.pid}")
        self.ends.append((time.time(), code))
        self._due = time.monotonic() + RESTART_SECONDS
        self.process = None


class Crew:
    """Members, the thread that tends them, and the sentinel that ends them if we are killed."""

    def __init__(self, log: Path) -> None:
        """Begin without members; all of them write to one log."""
        self.members: dict[str, Member] = {}
        self._log = log.open("ab")
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sentinel = subprocess.Popen(
            [sys.executable, "-I", "-S", str(scheduler.sentinel.__file__)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._tend, name="crew", daemon=True)
        self._thread.start()

    def add(self, member: Member) -> Member:
        """Take a member; it is started at once."""
        with self._lock:
            self.members[member.name] = member
        return member

    def stop(self, names: Sequence[str], *, seconds: float) -> None:
        """Ask members to end with SIGTERM; kill those that take longer."""
        chosen = [self.members[name] for name in names]
        for member in chosen:
            member.stays_down = True
            member.signal(signal.SIGCONT, everyone=True)
            member.signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(member.process for member in chosen) and time.monotonic() < deadline:
            time.sleep(0.05)
        for member in chosen:
            member.signal(signal.SIGKILL, everyone=True)

    def close(self) -> None:
        """Kill everything that is left."""
        self._stop.set()
        self._thread.join()
        for member in self.members.values():
            member.signal(signal.SIGKILL, everyone=True)
            if member.process is not None:
                member.process.wait()
        assert self._sentinel.stdin is not None
        self._sentinel.stdin.close()
        self._sentinel.wait()
        self._log.close()

    def _tend(self) -> None:
        while not self._stop.wait(0.05):
            with self._lock:
                members = list(self.members.values())
            for member in members:
                member.tend(self._log.fileno(), self._tell)

    def _tell(self, line: str) -> None:
        assert self._sentinel.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self._sentinel.stdin, flush=True)
