"""A real stack (`routet2i up`) in a temporary home, driven from outside as a person would."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine

from db.session import make_engine
from scheduler.broker import LOOPBACK
from scheduler.local import FLOWER_PORT

READY_SECONDS = 120  # cold interpreters on busy cores


def wait_for(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Return the condition's first true value."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        pause.wait(0.05)
    return found


class Home:
    """One home, its environment, and the stack that runs there."""

    def __init__(self, path: Path, **settings: str) -> None:
        self.path = path
        self.up: subprocess.Popen[str] | None = None
        self.output: list[str] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ROUTET2I_")},
            "ROUTET2I_HOME": str(path),
            "ROUTET2I_FAKE_MODELS": "1",
            "ROUTET2I_PREDICTOR": "prompt_length",
            **{f"ROUTET2I_{name.upper()}": value for name, value in settings.items()},
        }

    def routet2i(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "scheduler.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self) -> "Home":
        """Run `up` and wait until it says that it is ready."""
        return self.run("up", until="ready")

    def run(self, *arguments: str, until: str) -> "Home":
        """Run a command that stays, and wait until it has printed a text."""
        self.up = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(
            lambda: self.up.poll() is not None or until in self.text(),
            seconds=READY_SECONDS,
            what=f"it says {until!r}",
        )
        assert self.up.poll() is None, self.text()
        return self

    def _read(self) -> None:
        with self.up.stdout as lines:
            self.output.extend(lines)

    def text(self) -> str:
        """Return what `up` has printed."""
        return "".join(self.output)

    def stack(self) -> dict[str, Any]:
        """Return HOME/run/stack.json."""
        return json.loads((self.path / "run" / "stack.json").read_text())

    def engine(self) -> Engine:
        """Return an engine on the home's database."""
        return make_engine(f"sqlite+pysqlite:///{self.path / 'routet2i.db'}")

    def interrupt(self) -> int:
        """Press Ctrl-C, read what it prints to its end, and return the exit code."""
        self.up.send_signal(signal.SIGINT)
        code = self.up.wait(timeout=120)
        self._reader.join(60)
        return code

    def processes(self) -> list[psutil.Process]:
        """Return every live process that was started with this home in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("ROUTET2I_HOME") == str(self.path):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def end(self) -> None:
        """Stop whatever is left."""
        if self.up is not None and self.up.poll() is None:
            self.interrupt()


@pytest.fixture(scope="session", autouse=True)
def _no_two_flowers_on_one_port() -> Iterator[None]:
    """Hold Flower's well-known port: stacks that start at once would all find it free and want it."""
    with socket.socket() as held:
        with contextlib.suppress(OSError):  # another test process holds it
            held.bind((LOOPBACK, FLOWER_PORT))
            held.listen()
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home whose stack is running, shared by a module's tests."""
    made = Home(tmp_path_factory.mktemp("home"), window_jobs="24")
    yield made.start()
    made.end()


@pytest.fixture
def fresh_home(tmp_path: Path) -> Iterator[Callable[..., Home]]:
    """Make homes that nothing runs in yet: `fresh_home(lease_seconds="2")`."""
    made: list[Home] = []

    def make(**settings: str) -> Home:
        made.append(Home(tmp_path / f"home-{len(made)}", **settings))
        return made[-1]

    yield make
    for one in made:
        one.end()
