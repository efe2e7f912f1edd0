"""The stack of a soak: broker, database, two schedulers and a worker per tier, as a deployment runs them.

It knows how the parts are started and which processes belong to which. It knows neither load nor what is
measured. Nothing stands between the parts: no relay, no stand-in but the models.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import redis
from pydantic import SecretStr
from sqlalchemy import text

from db.repository import Repository
from db.session import make_engine, reading, upgrade
from routet2i.settings import Settings
from routet2i.worker import worker_command
from scheduler.broker import prepare
from tests.chaos.crew import Crew, Member
from tests.folders import stack_folder
from tests.postgresql import PostgresqlServer

Database = Literal["sqlite", "postgresql"]
Renderer = Literal["fast", "pocket"]
READY_SECONDS = 120.0
CLOUD_SHARES: Mapping[Renderer, float] = {"fast": 0.5, "pocket": 0.06}  # so that both tiers are busy
FIRST_RATES: Mapping[Renderer, float] = {"fast": 20.0, "pocket": 2.0}  # jobs/s, of the search
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What is started."""

    database: Database = "sqlite"
    renderer: Renderer = "fast"
    schedulers: int = 2
    leak: str = ""  # of the edge worker


class Stack:
    """A running stack."""

    def __init__(self, home: Path, shape: Shape, server: PostgresqlServer | None) -> None:
        """Start everything and wait until all are heard of."""
        self.home = home
        self.shape = shape
        self.server = server
        self.temporary = home / "tmp"
        self.temporary.mkdir(parents=True)
        self.prompts = home / "prompts"
        self.prompts.mkdir()
        broker = prepare(home / "run")
        fast = shape.renderer == "fast"
        self.settings = Settings(home=home).with_changes(
            broker_url=SecretStr(broker.url),
            fake_models=fast,
            predictor="noun_count" if fast else "pocket",
            shadow_share=0.02,
            budget_micro_usd=10**12,
            log_format="json",
        )
        if server is not None:
            self.settings = self.settings.with_changes(database_url=SecretStr(server.url))
        upgrade(self.settings.database)
        self.engine = make_engine(self.settings.database)
        self.repository = Repository(self.engine)
        self.log = home / "log"
        self.crew = Crew(self.log)
        self.client = redis.Redis.from_url(broker.url)
        self.crew.add(
            Member("broker", lambda _: broker.command, environment=dict(os.environ), cwd=home / "run")
        )
        self._wait(self._broker_answers, "broker")
        tiers = self.settings.read_tiers()
        for name in (tiers.edge, tiers.cloud):
            command = worker_command(tiers[name], name=f"{name}-1@soak")
            leaks = bool(shape.leak) and name == tiers.edge
            if leaks:
                command = ["tests.soak.worker" if part == "worker_edge.app" else part for part in command]
            self._add(f"{name} worker", command, SOAK_LEAK=shape.leak if leaks else "", tier=name)
        for number in range(1, shape.schedulers + 1):
            self._add(f"scheduler {number}", [sys.executable, "-m", "scheduler.cli", "scheduler"])

        def all_there() -> bool:
            return len(self.repository.live_workers(within_seconds=60)) == 2 and self._is_led()

        self._wait(all_there, "stack")

    def _add(self, name: str, command: list[str], *, SOAK_LEAK: str = "", **settings: str) -> None:
        environment = self.settings.with_changes(**settings).child_environment(defaults={})
        environment |= {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "SOAK_LEAK": SOAK_LEAK,
            "TMPDIR": str(self.temporary),
        }
        self.crew.add(Member(name, lambda _: command, environment=environment))

    def _broker_answers(self) -> bool:
        with contextlib.suppress(redis.RedisError, OSError):
            return bool(self.client.ping())
        return False

    def _is_led(self) -> bool:
        with reading(self.engine) as connection:
            return bool(connection.scalar(text("SELECT count(*) FROM leader")))

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} after {READY_SECONDS:.0f} s; see {self.log}")
            time.sleep(0.1)

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Yield every live process with the name of what it does; PostgreSQL's all have one name."""
        for member in list(self.crew.members.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                if member.pid is not None:
                    yield member.name, psutil.Process(member.pid)
            for child in member.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    tracker = any("_tracker import" in part for part in child.cmdline())
                    yield f"{member.name}, {'tracker' if tracker else 'pool process'}", child
        if self.server is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                main = psutil.Process(self.server.pid)
                for one in (main, *main.children(recursive=True)):
                    yield "PostgreSQL", one

    def counts(self) -> Mapping[str, int]:
        """Return job state -> how many."""
        with reading(self.engine) as connection:
            rows = connection.execute(text("SELECT state, count(*) FROM job GROUP BY state"))
            return {str(state): int(count) for state, count in rows}

    def unfinished(self) -> int:
        """Return how many jobs have no outcome; quick at any size."""
        with reading(self.engine) as connection:
            found = connection.scalar(text("SELECT count(*) FROM job WHERE state IN ('queued', 'assigned')"))
            return int(found or 0)

    def connections(self) -> int | None:
        """Return how many connections the database server has; None for SQLite."""
        if self.server is None:
            return None
        with reading(self.engine) as connection:
            found = connection.scalar(
                text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            )
            return int(found or 0)

    def database_bytes(self) -> tuple[int, int | None]:
        """Return the size of the database, and that of SQLite's write-ahead log beside it."""
        if self.server is None:
            file = self.home / "routet2i.db"
            log = file.with_name(file.name + "-wal")
            return file.stat().st_size, log.stat().st_size if log.exists() else 0
        with reading(self.engine) as connection:
            return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0), None

    def restarts(self) -> int:
        """Return how often a process had to be started again."""
        return sum(member.starts - 1 for member in self.crew.members.values())

    def stop(self) -> None:
        """Ask everybody to end: schedulers, then workers."""
        names = [name for name in self.crew.members if name != "broker"]
        self.crew.stop([name for name in names if name.startswith("scheduler")], seconds=20)
        self.crew.stop([name for name in names if not name.startswith("scheduler")], seconds=30)

    def close(self) -> None:
        """Kill what is left."""
        self.client.close()
        self.crew.close()
        self.engine.dispose()


@contextmanager
def running(shape: Shape, *, keep: Path | None = None) -> Iterator[Stack]:
    """Yield a stack and end it; its files are deleted unless `keep` names a folder for them."""
    with contextlib.ExitStack() as closing:
        folder = stack_folder(closing, keep=keep, prefix="routet2i-soak-")
        server = None
        if shape.database == "postgresql":
            server = PostgresqlServer(folder / "postgresql")
            closing.callback(server.close)
        stack = Stack(folder / "home", shape, server)
        closing.callback(stack.close)
        yield stack


def pin(cores: int) -> int:
    """Leave this process, and all that it starts, so many cores; return how many it has."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, allowed)
    return len(allowed)
