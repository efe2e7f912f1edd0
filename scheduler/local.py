"""One machine: the embedded broker, the scheduler, a worker per routed tier, the HTTP interface and Flower.

It knows processes: how each is started, restarted, drained in order and, if need be, killed; and the file
HOME/run/stack.json that tells where they are. It knows neither jobs nor money. All children write one log.
Call it from the main thread only.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from pydantic import SecretStr

from db.integrity import damage, refuse_network_disk
from db.keys import Role, new_secret
from db.repository import Repository
from db.session import make_engine, upgrade
from routet2i.celery_app import LONGEST_SECONDS
from routet2i.errors import Conflict, ServiceUnavailable
from routet2i.heartbeat import LIVE_SECONDS
from routet2i.settings import Settings
from routet2i.worker import worker_command
from scheduler import broker
from scheduler.ports import Ports
from scheduler.running import stack_file

FLOWER_PORT = 5555  # its well-known one, if it is free
API_PORT = 8765  # if it is free
LOCAL_CLIENT = "default"  # whose key `up` makes: the client of `submit` without --client
LOCAL_KEY = "routet2i up"  # its name
BROKER_TRIES = 3  # the port was free when we looked, not for sure when the server looks
BROKER_SECONDS = 10.0  # until it answers
READY_SECONDS = 120.0  # until every worker has beaten once: two cold interpreters on one busy core
FIRST_PAUSE_SECONDS = 1.0  # before a child that died is started again; doubles
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a child that lived this long begins with the first pause again
SCHEDULER_STOP_SECONDS = 30.0  # a window, and a publish to a dead broker
WORKER_STOP_SECONDS = LONGEST_SECONDS + 40.0  # reliability.md, section 15
OTHER_STOP_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowerAccess:
    """Where Flower listens and who may look."""

    url: str
    user: str
    password: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiAccess:
    """Where the HTTP interface listens, and an administrator's key to it."""

    url: str
    key: str


@dataclass(kw_only=True)
class _Child:
    """One process that is kept alive."""

    name: str
    command: Callable[[int], Sequence[str]]  # number of this start, from 1 -> argv
    environment: Mapping[str, str]
    cwd: Path | None = None
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0  # monotonic
    due: float = 0.0  # monotonic: not started again before
    pause: float = field(default=FIRST_PAUSE_SECONDS)

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Stack:
    """All processes of one home; `start`, then `tend` several times a second, then `stop`."""

    def __init__(self, settings: Settings, *, say: Callable[[str], None]) -> None:
        """Prepare; nothing is started.

        Args:
            say: told in one sentence what a person should know (a child died, a stop takes its time).
        """
        self.settings = settings  # with the broker's address, once started
        self.flower: FlowerAccess | None = None
        self.api: ApiAccess | None = None
        self.log = settings.home.resolve() / "logs" / "stack.log"
        self._run = settings.home.resolve() / "run"
        self._say = say
        self._tiers = settings.read_tiers()
        self._children: dict[str, _Child] = {}
        self._lock: IO[str] | None = None
        self._ports = Ports()
        self._log_file: IO[bytes] | None = None
        self._sentinel: subprocess.Popen[str] | None = None

    @property
    def workers(self) -> Mapping[str, str]:
        """Return tier -> name of its child, for every routed tier."""
        return {tier: f"worker-{tier}" for tier in (self._tiers.edge, self._tiers.cloud)}

    def start(self) -> None:
        """Upgrade the database and start every process; they are not yet ready when this returns.

        Raises:
            Conflict: another stack runs in this home.
            ServiceUnavailable: database or broker does not start, or the database is damaged.
        UsageError: SQLite on a network file system.
        """
        self._run.mkdir(parents=True, exist_ok=True)
        self._run.chmod(0o700)  # passwords lie here
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(self._run)
        try:
            self._check_database()
            upgrade(self.settings.database)
            self._log_file = self.log.open("ab")
            self._sentinel = _start_sentinel()
            self._start_broker()
            self._start_others()
            self._write_file()
        except BaseException:
            self.kill()
            raise

    def _check_database(self) -> None:
        """Refuse an SQLite file on a network disk, and after a crash one that is damaged."""
        crashed = stack_file(self._run).exists()  # a stack that ends in order deletes it
        if not self.settings.has_database:
            return
        engine = make_engine(self.settings.database)
        try:
            refuse_network_disk(engine)
            if crashed and (found := damage(engine)) is not None:
                raise ServiceUnavailable(
                    f"{found}; the stack before was killed. Restore a backup: routet2i restore FILE"
                )
        finally:
            engine.dispose()

    def _start_broker(self) -> None:
        if (url := self.settings.broker) is not None:
            broker.check(url)
            return
        for _ in range(BROKER_TRIES):
            prepared = broker.prepare(self._run / "broker")
            child = _Child(
                name="broker",
                command=lambda _, argv=prepared.command: argv,  # type: ignore[misc]
                environment=self.settings.child_environment(defaults={}),
                cwd=self._run / "broker",
            )
            self._start_child(child)
            if _answers(prepared.url, child):
                self._children["broker"] = child
                self.settings = self.settings.with_changes(broker_url=SecretStr(prepared.url))
                return
            self._end([child], seconds=0.0, hurry=lambda: True)
        raise ServiceUnavailable(f"the embedded broker does not start; see {self.log}")

    def _start_others(self) -> None:
        threads = max(1, _cores() // len(self.workers))
        self._children["scheduler"] = _Child(
            name="scheduler",
            command=lambda _: [sys.executable, "-m", "scheduler.cli", "scheduler"],
            environment=self.settings.child_environment(defaults={"OMP_NUM_THREADS": "1"}),
        )
        for tier, name in self.workers.items():
            profile = self._tiers[tier]
            self._children[name] = _Child(
                name=name,
                command=lambda start, profile=profile: worker_command(  # type: ignore[misc]
                    profile, name=f"{profile.name}-{start}@{socket.gethostname()}"
                ),
                environment=self.settings.with_changes(tier=tier).child_environment(
                    defaults={"OMP_NUM_THREADS": str(threads)}
                ),
            )
        self._prepare_api()
        self._prepare_flower()
        for child in self._children.values():
            if not child.is_alive:
                self._start_child(child)

    def _prepare_api(self) -> None:
        if find_spec("fastapi") is None or find_spec("uvicorn") is None:
            self._say("the HTTP interface is not installed; type: pip install 'routet2i[api]'")
            return
        port = self._ports.claim(API_PORT)
        self.api = ApiAccess(url=f"http://{broker.LOOPBACK}:{port}", key=self._new_key())
        self._children["api"] = _Child(
            name="api",
            command=lambda _: [sys.executable, "-m", "scheduler.cli", "serve", "--port", str(port)],
            environment=self.settings.child_environment(defaults={}),
        )

    def _new_key(self) -> str:
        """Return an administrator's key of this start; those of former starts end."""
        secret = new_secret()
        engine = make_engine(self.settings.database)
        try:
            repository = Repository(engine)
            for old in repository.api_keys():
                if old.name == LOCAL_KEY and old.revoked_ms is None:
                    repository.revoke_key(old.id)
            repository.add_key(secret, client=LOCAL_CLIENT, role=Role.ADMIN, name=LOCAL_KEY)
        finally:
            engine.dispose()
        return secret

    def _prepare_flower(self) -> None:
        if find_spec("flower") is None:
            self._say("Flower is not installed; type: pip install 'routet2i[flower]'")
            return
        port = self._ports.claim(FLOWER_PORT)
        access = FlowerAccess(
            url=f"http://{broker.LOOPBACK}:{port}", user="routet2i", password=secrets.token_urlsafe(24)
        )
        environment = self.settings.child_environment(defaults={})
        environment |= {
            "FLOWER_BASIC_AUTH": f"{access.user}:{access.password}",
            "FLOWER_COOKIE_SECRET": secrets.token_urlsafe(48),
        }
        self._children["flower"] = _Child(
            name="flower",
            command=lambda _: [sys.executable, "-m", "scheduler.flower", str(port)],
            environment=environment,
        )
        self.flower = access

    def _start_child(self, child: _Child) -> None:
        child.starts += 1
        child.started = time.monotonic()
        child.process = subprocess.Popen(
            list(child.command(child.starts)),
            env=dict(child.environment),
            cwd=child.cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on, in order
        )
        self._tell_sentinel(f"+{child.process.pid}")

    def is_ready(self) -> bool:
        """Whether every process but Flower, which only looks, lives, and every worker has beaten."""
        if not all(child.is_alive for name, child in self._children.items() if name != "flower"):
            return False
        if self.api is not None and not _is_served(self.api.url):
            return False
        engine = make_engine(self.settings.database)
        try:
            live = Repository(engine).live_workers(within_seconds=LIVE_SECONDS)
        finally:
            engine.dispose()
        return all(live.get(tier) for tier in self.workers)

    def tend(self) -> None:
        """Start again what died, each child after a pause of its own."""
        changed = False
        for child in self._children.values():
            if child.is_alive:
                continue
            now = time.monotonic()
            if child.process is not None:
                self._note_death(child, now=now)
            elif now >= child.due:
                self._start_child(child)
                changed = True
        if changed:
            self._write_file()

    def _note_death(self, child: _Child, *, now: float) -> None:
        assert child.process is not None
        if now - child.started > STEADY_SECONDS:
            child.pause = FIRST_PAUSE_SECONDS
        child.due = now + child.pause
        self._say(
            f"{child.name} ended with {child.process.returncode}; it starts again in {child.pause:.0f} s, "
            f"see {self.log}"
        )
        child.pause = min(2 * child.pause, LONGEST_PAUSE_SECONDS)
        self._clear(child)

    def _clear(self, child: _Child) -> None:
        """Kill what a dead child's process group still holds, and forget it."""
        if child.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
        self._tell_sentinel(f"-{child.process.pid}")
        child.process = None

    def stop(self, *, hurry: Callable[[], bool]) -> None:
        """Drain: door and scheduler, then workers, who finish their microbatch, then Flower and the broker.

        Args:
            hurry: asked again and again; once true, the rest is killed.
        """
        workers = set(self.workers.values())
        for names, seconds in (
            ({"api"}, OTHER_STOP_SECONDS),
            ({"scheduler"}, SCHEDULER_STOP_SECONDS),
            (workers, WORKER_STOP_SECONDS),
            ({"flower"}, OTHER_STOP_SECONDS),
            ({"broker"}, OTHER_STOP_SECONDS),
        ):
            ending = [child for name, child in self._children.items() if name in names]
            self._end(ending, seconds=seconds, hurry=hurry)
        self.kill()

    def _end(self, children: Sequence[_Child], *, seconds: float, hurry: Callable[[], bool]) -> None:
        for child in children:
            if child.is_alive and child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + seconds
        while any(child.is_alive for child in children):
            if hurry() or time.monotonic() > deadline:
                break
            for child in children:
                if child.process is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.process.wait(timeout=0.1)
        for child in children:
            self._clear(child)

    def kill(self) -> None:
        """End everything now, and let go of the home; safe to call twice."""
        for child in self._children.values():
            self._clear(child)
        self._children.clear()
        if self._sentinel is not None:
            assert self._sentinel.stdin is not None
            self._sentinel.stdin.close()
            self._sentinel.wait()
            self._sentinel = None
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None
        self._ports.close()
        if self._lock is not None:
            stack_file(self._run).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def _tell_sentinel(self, line: str) -> None:
        assert self._sentinel is not None
        assert self._sentinel.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed it: nothing to tell
            print(line, file=self._sentinel.stdin, flush=True)

    def _write_file(self) -> None:
        """Write HOME/run/stack.json, readable by us only, in one step."""
        url = self.settings.broker_url
        document = {
            "pid": os.getpid(),
            "started_at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            "broker_url": url.get_secret_value() if url is not None else None,
            "flower": None
            if self.flower is None
            else {"url": self.flower.url, "user": self.flower.user, "password": self.flower.password},
            "api": None if self.api is None else {"url": self.api.url, "key": self.api.key},
            "log": str(self.log),
            "processes": {
                name: child.process.pid for name, child in self._children.items() if child.process is not None
            },
        }
        path = stack_file(self._run)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        new.replace(path)


def _is_served(url: str) -> bool:
    """Whether the HTTP interface answers."""
    port = int(url.rsplit(":", 1)[1])
    with contextlib.suppress(OSError), socket.create_connection((broker.LOOPBACK, port), timeout=1):
        return True
    return False


def _take_lock(folder: Path) -> IO[str]:
    """Return the home's lock; the kernel lets go of it however this process ends."""
    lock = (folder / "stack.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        with contextlib.suppress(OSError, ValueError, KeyError):
            pid = json.loads(stack_file(folder).read_text(encoding="utf-8"))["pid"]
            raise Conflict(
                f"a stack runs in {folder.parent} already (process {pid}); stop it with Ctrl-C there or "
                f"type: kill {pid}"
            ) from None
        raise Conflict(f"a stack starts or stops in {folder.parent} right now; try again") from None
    return lock


def _start_sentinel() -> subprocess.Popen[str]:
    """Start the process that kills our children if we cannot (see `scheduler.sentinel`)."""
    script = Path(__file__).with_name("sentinel.py")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _answers(url: str, child: _Child) -> bool:
    """Wait until the embedded broker answers; False if it died or stays silent."""
    deadline = time.monotonic() + BROKER_SECONDS
    while child.is_alive and time.monotonic() < deadline:
        with contextlib.suppress(ServiceUnavailable):
            broker.check(url)
            return True
        time.sleep(0.05)
    return False


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
