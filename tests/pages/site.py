"""A site to look at: a seeded home, served on loopback by a thread of this process, and a browser for it.

For the browser's tests, the measurements and the screenshots. It knows no page's content.
"""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from db.keys import Role
from db.repository import Repository
from db.session import make_engine, upgrade
from routet2i.settings import Settings
from scheduler.api.application import make_application
from tests.pages.chromium import BROWSERS, STARTER
from tests.pages.seeding import Drawing, Wanted, policies, seed, seed_workers

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NO_BROWSER = f"none of {', '.join(BROWSERS)} is on the PATH, and `make browser` has fetched none"
PATIENCE_SECONDS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A served home."""

    url: str
    repository: Repository
    batches: Sequence[str]  # ids, in the order they were wanted

    def warm(self) -> None:
        """Wait until the server has done what it does before its first visitor comes."""
        for thread in threading.enumerate():
            if thread.name == "warmth":
                thread.join()

    def key(self, role: Role, client: str = "default") -> str:
        """Return a new key's secret."""
        secret = f"rt2i-{client}-{role.value}"
        self.repository.add_key(secret, client=client, role=role, name="test")
        return secret


@contextmanager
def site(home: Path, wanted: Sequence[Wanted], known: Sequence[Drawing], *, url: str = "") -> Iterator[Site]:
    """Seed a home and serve it until the end.

    Args:
        url: of an empty database; none = SQLite in the home.
    """
    from pydantic import SecretStr

    settings = Settings(home=home, **({"database_url": SecretStr(url)} if url else {}))
    home.mkdir(parents=True, exist_ok=True)
    upgrade(settings.database)
    repository = Repository(make_engine(settings.database))
    batches = seed(repository.engine, wanted, tiers=settings.read_tiers(), known=known)
    seed_workers(repository.engine)
    for policy in policies():
        repository.set_budget(policy, who="ana@office", reason="the year's plan")
    with served(settings, repository) as address:
        yield Site(url=address, repository=repository, batches=batches)
    repository.engine.dispose()


@contextmanager
def served(settings: Settings, repository: Repository) -> Iterator[str]:
    """Serve an application on a free port of loopback, and yield its address."""
    server = uvicorn.Server(
        uvicorn.Config(make_application(settings, repository), port=0, log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run, name="site")
    thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError("the site did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def browser_path() -> str | None:
    """Return where this machine has a browser that can be driven; None = nowhere."""
    own = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    return own or (str(STARTER) if STARTER.is_file() else None)


@contextmanager
def browser() -> Iterator["Browser"]:
    """Start this machine's browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        yield started
        started.close()
