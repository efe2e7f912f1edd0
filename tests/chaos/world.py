"""One run's stack: broker, database, schedulers and workers on private ports, reached through relays.

It knows how the parts are started and where they are; the faults ask it for whom to strike. It knows neither
what a fault is nor what must hold afterwards.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine, text

from db.repository import Repository
from db.session import make_engine, reading
from routet2i.settings import Settings
from routet2i.tiers import packaged
from scheduler.broker import prepare
from tests.chaos.cloud import API_KEY, MIX, CloudKind, PaidCloud
from tests.chaos.crew import Crew, Member
from tests.chaos.databases import Kind, PostgresqlDatabase, SqliteDatabase, opened
from tests.chaos.disks import Disk, Place, own_disk
from tests.chaos.hands import Hands
from tests.chaos.load import Load
from tests.chaos.relay import Relay
from tests.folders import stack_folder

Broker = Literal["none", "aof"]
TIERS = ("edge", "cloud")
READY_SECONDS = 90.0
SOFT_STOP_SECONDS = 3.0  # that SIGQUIT leaves a worker to finish: the product's would outlast a run
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How large a world is and how patient its stack."""

    database: Kind = "sqlite"
    broker: Broker = "none"
    cloud: CloudKind = "own"
    misbehave: str = MIX  # of a paid cloud, all the while
    workers: int = 2  # per tier
    schedulers: int = 2
    lease_seconds: float = 2.0
    resend_seconds: float = 2.0
    picture_seconds: float = 0.0  # 0: so that workers are busy half of the time
    max_deaths: int = 4
    microbatch_jobs: int = 4
    double: str = ""  # the control that is in place
    double_in: tuple[str, ...] = ("worker", "scheduler")
    disks: tuple[Place, ...] = ()  # small file systems of their own, which can be filled
    full: bool = False  # kinds of faults that take long strike, too


class World:
    """A running stack."""

    def __init__(
        self,
        home: Path,
        shape: Shape,
        database: SqliteDatabase | PostgresqlDatabase,
        *,
        seed: int,
        disks: Mapping[str, Disk],
    ) -> None:
        """Start everything; `ready` waits for it."""
        self.home = home
        self.shape = shape
        self.database = database
        self.seed = seed
        self.hands = Hands(home)
        self.hands.make()
        self.ended = threading.Event()  # nothing is struck any more
        self.disks = disks  # by place
        prepared = prepare(home / "run")
        self._configure(home / "run" / "valkey.conf")
        self.broker_url = prepared.url
        port = int(prepared.url.rsplit(":", 1)[1].split("/")[0])
        self.broker_relay = Relay(lambda: socket.create_connection(("127.0.0.1", port), timeout=5))
        tiers = home / "tiers.toml"
        self.cloud = self._paid_cloud()
        tiers.write_text(
            packaged("pocket")
            .read_text(encoding="utf-8")
            .replace("microbatch_size = 16", "microbatch_size = 2")
            if self.cloud is None
            else self.cloud.tier_file()
        )
        self.settings = Settings(home=home).with_changes(
            database_url=SecretStr(database.url),
            broker_url=SecretStr(prepared.url.replace(f":{port}/", f":{self.broker_relay.port}/")),
            tiers=tiers,
            predictor="noun_count",
            log_format="json",
            lease_seconds=shape.lease_seconds,
            resend_seconds=shape.resend_seconds,
            max_deaths=shape.max_deaths,
            microbatch_jobs=shape.microbatch_jobs,
            window_jobs=64,
            window_seconds=0.3,
            sent_per_slot=1,
            budget_micro_usd=10**9,
            api_keys=SecretStr(json.dumps({"cloud": API_KEY})),
        )
        self.engine: Engine = make_engine(database.direct)
        self.repository = Repository(self.engine)
        self.log = home / "log"
        self.crew = Crew(self.log)
        self.broker = self.crew.add(
            Member("broker", lambda _: prepared.command, environment=dict(os.environ), cwd=home / "run")
        )
        self._wait(self._broker_answers, "broker")
        if self.cloud is not None:
            self.crew.add(Member("provider", self.cloud.command, environment=self.environment("provider")))
            self._wait(self.cloud.answers, "provider")
        self.workers = [
            self._worker(tier, number) for tier in TIERS for number in range(1, shape.workers + 1)
        ]
        self.scheduler_ways: dict[str, Relay] = {}  # to PostgreSQL, each its own
        self.schedulers = [self._scheduler(number) for number in range(1, shape.schedulers + 1)]
        files = home / "prompts"
        files.mkdir()
        self.load = Load(files, self.settings, seed=seed)

    def _paid_cloud(self) -> PaidCloud | None:
        if self.shape.cloud == "own":
            return None
        return PaidCloud(
            self.home / "provider",
            kind=self.shape.cloud,
            seed=self.seed,
            draw_seconds=self.shape.picture_seconds,
            misbehave=self.shape.misbehave,
        )

    @property
    def provider(self) -> Member:
        """The paid cloud's process; only in a run that has one."""
        return self.crew.members["provider"]

    def _configure(self, path: Path) -> None:
        if self.shape.broker == "aof":
            told = path.read_text().replace("appendonly no", "appendonly yes\nappendfsync everysec")
            path.write_text(told)

    def environment(self, role: str, **settings: object) -> dict[str, str]:
        """Return the environment of a process of this world."""
        environment = self.settings.with_changes(**settings).child_environment(defaults={})
        environment |= {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "CHAOS_PICTURE_SECONDS": str(self.shape.picture_seconds),
            "CHAOS_SOFT_STOP_SECONDS": str(SOFT_STOP_SECONDS),
        }
        if role in self.shape.double_in:
            environment["CHAOS_DOUBLE"] = self.shape.double
        return environment

    def _worker(self, tier: str, number: int) -> Member:
        name = f"{tier}-{number}"
        return self.crew.add(
            Member(
                name,
                lambda start: [
                    *(sys.executable, "-m", "celery", "-A", "tests.chaos.worker", "worker"),
                    *("-P", "prefork", "-c", "1", "-n", f"{name}.{start}@chaos"),
                    *("--without-gossip", "--without-mingle"),
                ],
                environment=self.environment("worker", tier=tier),
            )
        )

    def _scheduler(self, number: int) -> Member:
        name = f"scheduler-{number}"
        settings = {}
        if isinstance(self.database, PostgresqlDatabase):
            url, self.scheduler_ways[name] = self.database.another_way()
            settings["database_url"] = SecretStr(url)
        return self.crew.add(
            Member(
                name,
                lambda _: [sys.executable, "-m", "tests.chaos.scheduler", "scheduler"],
                environment=self.environment("scheduler", **settings),
            )
        )

    def client(self) -> redis.Redis:
        """Return a client that reaches the broker whatever befalls the way; fails at once if it is down."""
        return redis.Redis.from_url(self.broker_url, socket_timeout=2, retry=Retry(NoBackoff(), 0))

    def _broker_answers(self) -> bool:
        with contextlib.suppress(redis.RedisError, OSError), self.client() as client:
            return bool(client.ping())
        return False

    def ready(self) -> None:
        """Wait until every worker was heard of and somebody leads."""

        def all_there() -> bool:
            live = self.repository.live_workers(within_seconds=60)
            return (
                all(live.get(tier, 0) >= self.shape.workers for tier in TIERS) and self.leader() is not None
            )

        self._wait(all_there, "stack")

    def leader(self) -> Member | None:
        """Return the scheduler that leads."""
        with reading(self.engine) as connection:
            holder = connection.scalar(
                text("SELECT holder FROM leader WHERE name = 'scheduler' AND expires_ms > :now"),
                {"now": round(time.time() * 1000)},
            )
        if holder is None:
            return None
        pid = int(str(holder).rsplit(":", 1)[1])
        return next((member for member in self.schedulers if member.pid == pid), None)

    def unfinished(self) -> int:
        """Return how many jobs have no outcome."""
        with reading(self.engine) as connection:
            return int(
                connection.scalar(text("SELECT count(*) FROM job WHERE state <> 'done'"))  # type: ignore[arg-type]
            )

    def wait(self, seconds: float) -> None:
        """Let a fault last so long, or less if the run ends."""
        self.ended.wait(seconds)

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one command of the product to its end."""
        return subprocess.run(
            [sys.executable, "-m", "scheduler.cli", *arguments],
            env=self.environment("client") | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} after {READY_SECONDS:.0f} s; see {self.log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Drain: schedulers, then workers, then the broker and the paid cloud."""
        services = [self.broker, *([self.provider] if self.cloud is not None else [])]
        for members, seconds in ((self.schedulers, 20.0), (self.workers, 30.0), (services, 10.0)):
            self.crew.stop([member.name for member in members], seconds=seconds)

    def close(self) -> None:
        """Kill what is left."""
        self.ended.set()
        self.load.stop()
        self.crew.close()
        self.broker_relay.close()
        self.engine.dispose()


@contextmanager
def running(shape: Shape, *, seed: int, keep: Path | None = None) -> Iterator[World]:
    """Yield a world and end it; its files are deleted unless `keep` names a folder for them."""
    with contextlib.ExitStack() as stack:
        folder = stack_folder(stack, keep=keep, prefix="routet2i-chaos-")
        home = folder / "home"
        folders: Mapping[Place, Path] = {
            "pictures": Settings(home=home).pictures,
            "broker": home / "run",
            "database": folder / "database",
        }
        disks = {place: stack.enter_context(own_disk(folders[place])) for place in shape.disks}
        folders["database"].mkdir(exist_ok=True)
        database = stack.enter_context(opened(shape.database, folders["database"]))
        world = World(home, shape, database, seed=seed, disks=disks)
        stack.callback(world.close)
        yield world


def pick(draw: Random, among: Sequence[Member]) -> Member:
    """Return one that is up, or any if none is."""
    up = [member for member in among if member.pid is not None]
    return draw.choice(up or list(among))
