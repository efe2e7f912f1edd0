"""The processes that a measurement needs: a real broker, a real scheduler, real workers; ended together."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

from db.repository import Repository
from db.session import make_engine, upgrade
from routet2i.settings import Settings
from routet2i.worker import worker_command
from scheduler.broker import prepare

DEADLINE_SECONDS = 600.0


class Stack:
    """One home with its broker and database; processes are added one by one."""

    def __init__(self, home: Path, **settings: Any) -> None:
        """Start the broker and migrate the database."""
        home.mkdir(parents=True)
        broker = prepare(home / "run")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = (home / "log").open("ab")
        self.popen(broker.command, cwd=home / "run")
        self.settings = Settings(home=home, broker_url=SecretStr(broker.url)).with_changes(**settings)
        self.client = redis.Redis.from_url(broker.url)
        wait_until(self._answers, what="broker")
        self.engine = make_engine(self.settings.database)
        upgrade(self.engine)
        self.repository = Repository(self.engine)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def popen(self, command: Sequence[str], **options: Any) -> None:
        """Start a process of this stack."""
        process = subprocess.Popen(command, stdout=self._log, stderr=self._log, **options)
        self._processes.append(process)

    def add(self, command: Sequence[str], **settings: Any) -> None:
        """Start a process that reads this stack's settings."""
        chosen = self.settings.with_changes(**settings)
        self.popen(command, env=chosen.child_environment(defaults={}))

    def add_scheduler(self) -> None:
        """Start a scheduler."""
        self.add([sys.executable, "-m", "scheduler.cli", "scheduler"])

    def add_workers(self) -> None:
        """Start one worker per routed tier and wait until both are heard of."""
        tiers = self.settings.read_tiers()
        for name in (tiers.edge, tiers.cloud):
            self.add(worker_command(tiers[name], name=f"{name}-1@bench"), tier=name)
        wait_until(lambda: len(self.repository.live_workers(within_seconds=60)) == 2, what="workers")

    def waiting_messages(self) -> int:
        """Return how many messages lie in the broker, delivered but unacknowledged ones included."""
        keys = [key for key in self.client.keys("*") if self.client.type(key) in (b"list", b"hash")]
        counted = 0
        for key in keys:
            if b"unacked" in key and self.client.type(key) == b"hash":
                counted += int(self.client.hlen(key))
            elif self.client.type(key) == b"list":
                counted += int(self.client.llen(key))
        return counted

    def close(self) -> None:
        """End every process, the broker last."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
        self.engine.dispose()
        self.client.close()
        self._log.close()


@contextmanager
def stack(home: Path, **settings: Any) -> Iterator[Stack]:
    """Yield a running stack and end it."""
    running = Stack(home, **settings)
    try:
        yield running
    finally:
        running.close()


def wait_until(condition: Callable[[], bool], *, what: str, pause: float = 0.02) -> None:
    """Wait for a condition; raises TimeoutError after ten minutes."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {DEADLINE_SECONDS:.0f} s")
        time.sleep(pause)
