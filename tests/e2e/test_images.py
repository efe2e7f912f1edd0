"""What is in the images: packages by metadata, commands without what an image lacks, clean environments.

The clean environments (`long`) are made as docker/Dockerfile makes them: a wheel of what it copies, with its
extras, under our pins. They prove nothing of the base image and its user.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler import broker
from tests.deployment import images
from tests.e2e.conftest import wait_for
from tests.supply.installed import BUILD_TOOLS, normal

READY_SECONDS = 120
FLOWER = {"FLOWER_BASIC_AUTH": "us:geheim", "FLOWER_COOKIE_SECRET": "s" * 32}
REFUSAL = '''"""Refuses to import what the image does not have."""
import sys
from importlib.abc import MetaPathFinder

class Refusal(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"this image has no {{name}}", name=name)

sys.meta_path.insert(0, Refusal())
'''


@dataclass(kw_only=True)
class Image:
    """An interpreter that has what an image has, and a home with broker and database."""

    python: Path
    environment: dict[str, str]
    home: Path

    def command(self, *words: str) -> list[str]:
        """Return the command line of `routet2i WORDS`."""
        return [str(self.python), "-m", "scheduler.cli", *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `routet2i WORDS` to its end."""
        return self.python_run(*self.command(*words)[1:])

    def python_run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the interpreter to its end."""
        return subprocess.run(
            [str(self.python), *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=300,
        )


class Running:
    """Processes of a test; all are ended with it."""

    def __init__(self, folder: Path) -> None:
        self._log = (folder / "log").open("ab")
        self._all: list[subprocess.Popen[bytes]] = []

    def start(self, image: Image, *words: str) -> None:
        """Start an interpreter's command that stays."""
        self._all.append(
            subprocess.Popen(
                [str(image.python), *words],
                env=image.environment,
                cwd=image.home,
                stdout=self._log,
                stderr=self._log,
            )
        )

    def start_broker(self, folder: Path) -> str:
        """Start an embedded broker and return its URL."""
        prepared = broker.prepare(folder)
        self._all.append(
            subprocess.Popen(prepared.command, cwd=folder, stdout=self._log, stderr=self._log)
        )  # fmt: skip
        return prepared.url

    def all_live(self) -> bool:
        """Whether none has ended."""
        return all(one.poll() is None for one in self._all)

    def close(self) -> None:
        """End all, the newest first."""
        for one in reversed(self._all):
            one.send_signal(signal.SIGTERM)
        for one in reversed(self._all):
            try:
                one.wait(timeout=30)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        self._log.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.close()


def bare_environment(home: Path, **settings: str) -> dict[str, str]:
    """Return an environment that no package of ours or the developer's is reached through."""
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "ROUTET2I_HOME": str(home),
        "ROUTET2I_LOG_FORMAT": "json",
        "OMP_NUM_THREADS": "1",
        **settings,
    }


def is_answered(url: str) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as found:
                return int(found.status) == 200
        except OSError:
            return False

    return ask


def light_commands_work(image: Image, running: Running) -> None:
    """Let an image migrate, serve, schedule, make a key and show Flower."""
    # When it migrates and makes a key
    migrated = image.run("db", "upgrade")
    assert migrated.returncode == 0, migrated.stderr
    key = image.run("key", "create", "metrics", "--role", "auditor")
    assert key.returncode == 0, key.stderr
    # And serves, schedules and shows its workers
    api, flower = broker.free_port(), broker.free_port()
    running.start(image, *image.command("serve", "--port", str(api))[1:])
    running.start(image, *image.command("scheduler")[1:])
    running.start(image, "-m", "scheduler.flower", str(flower))
    wait_for(is_answered(f"http://127.0.0.1:{api}/readyz"), seconds=READY_SECONDS, what="serve is ready")
    wait_for(
        is_answered(f"http://127.0.0.1:{flower}/healthcheck"), seconds=READY_SECONDS, what="Flower answers"
    )
    wait_for(
        lambda: image.run("health", "scheduler", "--ready").returncode == 0,
        seconds=READY_SECONDS,
        what="the scheduler leads",
    )
    assert running.all_live()
    # And has its pages, with what they are drawn with
    with urllib.request.urlopen(f"http://127.0.0.1:{api}/login", timeout=10) as page:
        named = re.findall(r'"(/static/[^"]+)"', page.read().decode())
    assert named
    assert all(is_answered(f"http://127.0.0.1:{api}{one}")() for one in named)
    # Then it can ask the database
    assert json.loads(image.run("sql", "--json", "SELECT count(*) AS jobs FROM job").stdout) == [{"jobs": 0}]


# ---- by metadata


def test_the_light_image_has_nothing_of_torch_and_less_than_half_of_the_workers_size() -> None:
    light, worker = images.packages("light"), images.packages("worker-gpu")
    heavy = {"torch", "torchvision", "diffusers", "transformers", "open-clip-torch", "scipy", "matplotlib"}
    assert heavy <= set(worker)
    assert not heavy & set(light)
    assert not any(name.startswith(("nvidia-", "triton")) for name in light)
    assert images.megabytes(light) < 400
    assert images.megabytes(light) < images.megabytes(worker) / 2  # CUDA's libraries are not everywhere


def test_images_that_draw_have_no_web_server_and_all_have_the_database_driver() -> None:
    for name in ("scheduler", "worker-cpu", "worker-gpu"):
        there = set(images.packages(name))
        assert not {"fastapi", "uvicorn", "flower", "tornado", "pyarrow"} & there
        assert {"torch", "psycopg-binary"} <= there
    assert {"fastapi", "uvicorn", "flower", "pyarrow", "psycopg-binary"} <= set(images.packages("light"))


def test_no_image_has_a_tool_of_developers() -> None:
    for name in ("light", "worker-gpu"):
        assert not {"pytest", "mypy", "ruff", "hypothesis", "playwright", "openai"} & set(
            images.packages(name)
        )


def test_the_light_images_commands_need_nothing_that_it_lacks(tmp_path: Path, running: Running) -> None:
    # Given an interpreter that refuses every module of this environment that the image does not have
    refused = images.strangers("light")
    assert {"torch", "scipy", "transformers", "pytest"} <= set(refused)
    (tmp_path / "sitecustomize.py").write_text(REFUSAL.format(names=set(refused)))
    home = tmp_path / "home"
    home.mkdir()
    environment = bare_environment(
        home,
        PYTHONPATH=os.pathsep.join((str(tmp_path), str(images.ROOT))),
        ROUTET2I_PREDICTOR="noun_count",
        ROUTET2I_BROKER_URL=running.start_broker(tmp_path / "broker"),
        **FLOWER,
    )
    image = Image(python=Path(sys.executable), environment=environment, home=home)
    assert "this image has no torch" in image.python_run("-c", "import torch").stderr
    # Then its commands do their work
    light_commands_work(image, running)


# ---- clean environments


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what the Dockerfile copies."""
    folder = tmp_path_factory.mktemp("wheel")
    images.copy_sources(folder / "src")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "."],
        cwd=folder / "src",
        check=True,
        timeout=300,
    )
    (found,) = folder.glob("*.whl")
    return found


def clean_environment(folder: Path, wheel: Path, extras: Sequence[str]) -> Path:
    """Install the wheel with extras, under our pins, into an environment of its own; return its Python."""
    began = time.monotonic()
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "-c", str(images.ROOT / "constraints.txt"),
         f"{wheel}[{','.join(extras)}]"],
        check=True, timeout=1800,
    )  # fmt: skip
    seconds = time.monotonic() - began
    size = sum(one.lstat().st_size for one in folder.rglob("*") if one.is_file() and not one.is_symlink())
    print(f"\n[{','.join(extras)}]: {seconds:.0f} s, {size / 1e6:.0f} MB")  # `make long` shows it with -s
    return python


def names_in(python: Path) -> set[str]:
    """Return the packages of an environment, ourselves and its tools left out."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json"], capture_output=True, check=True, timeout=60
    )
    found = {normal(one["name"]) for one in json.loads(listed.stdout)}
    return found - {"routet2i", *BUILD_TOOLS}


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_clean_environments_of_the_images_serve_schedule_and_draw(
    tmp_path: Path, wheel: Path, running: Running
) -> None:
    # Given the light image's environment, with what its metadata promises
    python = clean_environment(tmp_path / "light", wheel, images.extras("light"))
    assert names_in(python) == set(images.packages("light"))
    home = tmp_path / "home"
    home.mkdir()
    url = running.start_broker(tmp_path / "broker")
    settings = {"ROUTET2I_BROKER_URL": url, "ROUTET2I_PREDICTOR": "noun_count", **FLOWER}
    light = Image(python=python, environment=bare_environment(home, **settings), home=home)
    assert "No module named 'torch'" in light.python_run("-c", "import torch").stderr
    assert (python.parent / "routet2i").exists()
    # Then its commands do their work
    light_commands_work(light, running)

    # Given the worker image's environment beside it
    worker_python = clean_environment(tmp_path / "worker", wheel, images.extras("worker-cpu"))
    assert names_in(worker_python) == set(images.packages("worker-cpu")) - set(
        BUILD_TOOLS
    )  # torch wants setuptools
    worker = Image(
        python=worker_python,
        environment=bare_environment(home, ROUTET2I_BROKER_URL=url, ROUTET2I_DEVICE="cpu"),
        home=home,
    )
    assert worker.python_run("-c", "import torch").returncode == 0
    assert "No module named 'fastapi'" in worker.python_run("-c", "import fastapi").stderr
    # When a tier's worker draws what the light image took in
    running.start(worker, *worker.command("worker", "edge")[1:])
    file = home / "prompts.txt"
    file.write_text("a red circle\na blue square above a green star\n")
    submitted = light.run("submit", str(file), "--budget", "0.03", "--json")
    assert submitted.returncode == 0, submitted.stderr
    began = time.monotonic()
    wait_for(
        lambda: json.loads(light.run("status", "last", "--json").stdout)["complete"],
        seconds=300,
        what="the pocket model has drawn",
    )
    print(f"first two pictures of a cold worker: {time.monotonic() - began:.0f} s")
    # Then there are scored pictures
    rows = [json.loads(line) for line in light.run("results", "--format", "jsonl").stdout.splitlines()]
    assert [(row["state"], row["tier"]) for row in rows] == [("succeeded", "edge")] * 2
    assert all(re.fullmatch("[0-9a-f]{64}", row["image_sha256"]) for row in rows)
    assert all(row["q_detail"] is not None and row["q_alignment"] is not None for row in rows)
