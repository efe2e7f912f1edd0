"""The HTTP interface on a port, with a scheduler and workers of fakes behind it, for tests of its routes."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import openai
import uvicorn
from sqlalchemy import text

from db.keys import Role, new_secret
from db.repository import Repository
from routet2i.contracts import Prediction
from routet2i.errors import GenerationFailed
from routet2i.execution import run_microbatch
from routet2i.fakes import FakeGenerator, FakeScorer
from routet2i.images import ImageStore
from routet2i.settings import Settings
from scheduler.api.application import make_application
from scheduler.api.ours.previews import Oracle
from scheduler.api.protocol import PatientProtocol
from scheduler.service import run_window


class Guess:
    """A predictor whose PRS a prompt can name: 'prs 0.9 ...'; else 0.9, so that all stay on the edge."""

    name, version = "guess", "1"

    def predict(self, prompts: list[str]) -> list[Prediction]:
        """Return one prediction per prompt."""
        return [Prediction(prs=float(p.split()[1]) if p.startswith("prs ") else 0.9) for p in prompts]


class Served:
    """One deployment with its web server; leave it to stop both."""

    def __init__(self, repository: Repository, home: Path, **settings: Any) -> None:
        self.repository = repository
        self.settings = Settings(home=home, window_seconds=0.05, **settings)
        self.tiers = self.settings.read_tiers()
        self.application = make_application(self.settings, repository)
        self.fails: Callable[[str], bool] = lambda prompt: False
        self.works = threading.Event()  # while it is set, windows are decided and pictures drawn
        self.works.set()
        self._rests = threading.Event()
        self._stop = threading.Event()
        self._closing = ExitStack()
        listening = socket.create_server(("127.0.0.1", 0))  # ours from here on: nobody else gets the port
        self.port: int = listening.getsockname()[1]
        config = uvicorn.Config(
            self.application,
            http=PatientProtocol,
            log_level="error",
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._threads = [
            threading.Thread(target=self._server.run, args=([listening],), daemon=True),
            threading.Thread(target=self._work, daemon=True),
        ]

    def __enter__(self) -> "Served":
        for thread in self._threads:
            thread.start()
        while not self._server.started:
            assert self._threads[0].is_alive(), "the server did not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        self._stop.set()
        self._server.should_exit = True
        for thread in self._threads:
            thread.join(20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def key(self, client: str = "ann", role: Role = Role.SUBMITTER) -> str:
        """Return a new key."""
        secret = new_secret()
        self.repository.add_key(secret, client=client, role=role, name="test")
        return secret

    def http(self, client: str = "ann", role: Role = Role.SUBMITTER) -> httpx2.Client:
        """Return a plain client with a new key."""
        return self._closing.enter_context(
            httpx2.Client(
                base_url=self.url, headers={"Authorization": f"Bearer {self.key(client, role)}"}, timeout=30
            )
        )

    def openai(self, client: str = "ann", **options: Any) -> openai.OpenAI:
        """Return the official client with a new key."""
        return self._closing.enter_context(
            openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key(client), **options)
        )

    def rest(self) -> None:
        """Decide and draw nothing until `works` is set again; return when what was begun is done."""
        self.works.clear()
        self._rests.clear()
        assert self._rests.wait(60)

    def oracle(self) -> Oracle:
        """Return what previews ask, guessing as windows do."""
        return Oracle(lambda: Guess)

    def _work(self) -> None:
        scorer = FakeScorer(["detail"])
        pictures = ImageStore(root=self.settings.pictures, low_water_bytes=0)
        while not self._stop.wait(0.03):
            if not self.works.is_set():
                self._rests.set()
                continue
            run_window(self.repository, Guess(), tiers=self.tiers, settings=self.settings, term=None)
            for name in self.tiers.routed:
                for microbatch in self._ready(name):
                    run_microbatch(
                        microbatch,
                        store=self.repository,
                        profile=self.tiers[name],
                        worker=f"{name}@test",
                        load=lambda: (_Moody(self.fails), scorer),
                        pictures=pictures,
                        lease_seconds=30.0,
                    )

    def _ready(self, tier: str) -> list[str]:
        with self.repository.engine.connect() as connection:
            found = connection.execute(
                text("SELECT id FROM microbatch WHERE tier = :tier AND state = 'ready'"), {"tier": tier}
            )
            return list(found.scalars())


class _Moody(FakeGenerator):
    """A generator that fails for the prompts that a test names."""

    def __init__(self, fails: Callable[[str], bool]) -> None:
        super().__init__()
        self._fails = fails

    def generate(self, requests: Any) -> Any:
        drawn = super().generate(requests)
        return [
            GenerationFailed("no such thing can be drawn") if self._fails(one.prompt) else png
            for one, png in zip(requests, drawn, strict=True)
        ]
