"""Flower in a browser beside a real stack with fake models, for its test and its screenshots.

The workers draw one picture at a time, so that a large microbatch lasts long enough to be seen on its way.
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routet2i.tiers import packaged
from tests.e2e.conftest import Home, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EXAMPLE = Path(__file__).parents[2] / "examples" / "prompts.jsonl"
LONG = 4_000  # jobs of one microbatch, as many as may be: much longer than two heartbeats anywhere
WIDE = {"width": 1440, "height": 900}
PATIENCE_SECONDS = 60
ROWS = """table => {
  const heads = [...document.querySelectorAll(`${table}_wrapper thead th`)];
  const names = heads.map(one => one.innerText.trim().toLowerCase());
  return [...document.querySelectorAll(`${table} tbody tr`)].map(
    row => Object.fromEntries([...row.cells].map((cell, at) => [names[at], cell.innerText])));
}"""  # at once: Flower writes its tables anew each second


@dataclass(frozen=True, slots=True)
class Answer:
    """What Flower said; status 0 = nothing."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


def ask(
    flower: Mapping[str, str], path: str, *, post: bool = False, known: bool = True, **headers: str
) -> Answer:
    """Ask as a program, which knows the password or does not.

    Args:
        flower: `url`, and with `known` also `user` and `password`.
        headers: with `_` for `-`.
    """
    if known:
        secret = base64.b64encode(f"{flower['user']}:{flower['password']}".encode()).decode()
        headers["Authorization"] = f"Basic {secret}"
    request = urllib.request.Request(
        flower["url"] + path,
        method="POST" if post else "GET",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return Answer(answer.status, answer.read().decode(), answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode(), error.headers)
    except OSError as error:  # it is still starting
        return Answer(0, str(error))


def workers(flower: Mapping[str, str]) -> dict[str, bool]:
    """Return the workers that Flower has heard of, and whether each is alive."""
    answer = ask(flower, "/api/workers?status=1")
    return json.loads(answer.text) if answer.status == 200 else {}


@contextmanager
def stack(folder: Path) -> Iterator[Home]:
    """Start everything in a home of its own; yield it when Flower knows a worker of each tier."""
    tiers = folder / "tiers.toml"
    tiers.write_text(packaged("pocket").read_text().replace("microbatch_size = 16", "microbatch_size = 1"))
    made = Home(folder / "home", tiers=str(tiers), microbatch_jobs=str(LONG), window_jobs=str(LONG))
    try:
        flower = made.start().stack()["flower"]
        wait_for(
            lambda: (
                {name.split("-")[0] for name, lives in workers(flower).items() if lives} == {"edge", "cloud"}
            ),
            seconds=PATIENCE_SECONDS,
            what="Flower knows both workers",
        )
        yield made
    finally:
        made.end()


@contextmanager
def visit(started: "Browser", flower: Mapping[str, str]) -> Iterator[Any]:
    """Open a page in a browser that knows Flower's password."""
    context = started.new_context(
        base_url=flower["url"],
        viewport=WIDE,
        http_credentials={"username": flower["user"], "password": flower["password"]},
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    context.close()


def draw_both(home: Home) -> None:
    """Submit a batch that both tiers have a part of, and wait for its end."""
    assert home.routet2i("submit", str(EXAMPLE), "--budget", "3.50").returncode == 7
    assert home.routet2i("status", "last", "--watch", timeout=120).returncode == 0


def begin_long(home: Home) -> None:
    """Submit one large microbatch's worth of jobs for the edge tier."""
    file = home.path.parent / "long.jsonl"
    lines = ({"prompt": f"{number} red circles", "tier": "edge"} for number in range(LONG))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert home.routet2i("submit", str(file), "--budget", "100").returncode == 0


def rows(page: Any, table: str) -> list[dict[str, str]]:
    """Return a table of Flower's, by the names of its columns."""
    found: list[dict[str, str]] = page.evaluate(ROWS, table)
    return found


def progress(page: Any) -> str:
    """Wait until a task says how far it is, and return its words."""

    def told() -> str | None:
        page.goto("/tasks?state=PROGRESS")
        page.wait_for_load_state("networkidle")
        return next((row["result"] for row in rows(page, "#tasks-table") if "result" in row), None)

    return str(wait_for(told, seconds=PATIENCE_SECONDS, what="a task tells its progress"))
