"""Flower beside a real stack: both tiers at work in a browser, nothing for strangers; models are fakes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from scheduler import broker
from tests.e2e.conftest import Home, wait_for
from tests.pages.site import NO_BROWSER, browser, browser_path
from tests.pages.workers_view import ask, begin_long, draw_both, progress, rows, stack, visit, workers

UNDER_WAY = (None, "", "RECEIVED", "STARTED", "PROGRESS")
needs_browser = pytest.mark.skipif(browser_path() is None, reason=NO_BROWSER)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A running stack whose Flower knows a worker of each tier."""
    with stack(tmp_path_factory.mktemp("flower")) as made:
        yield made


@pytest.fixture
def page(home: Home) -> Iterator[Any]:
    """A page of a browser that knows Flower's password; what it complains about fails the test."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    wrong: list[str] = []
    with browser() as started, visit(started, home.stack()["flower"]) as opened:
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        yield opened
    assert wrong == []


@needs_browser
def test_both_tiers_are_seen_at_work(home: Home, page: Any) -> None:
    # Given somebody on our own pages
    told = home.stack()
    page.goto(f"{told['api']['url']}/login#key={told['api']['key']}")
    # When a batch is drawn on both tiers, and they go to Flower by its link
    draw_both(home)
    page.get_by_role("link", name=re.compile("Workers")).click()
    page.wait_for_url(f"{told['flower']['url']}/")

    # Then a worker of each tier is online there and has tasks behind it
    def at_work() -> bool:
        seen = {row["worker"].split("-")[0]: row for row in rows(page, "#workers-table")}
        return set(seen) == {"edge", "cloud"} and all(
            row["status"] == "Online" and int(row["processed"]) > 0 and int(row["succeeded"]) > 0
            for row in seen.values()
        )

    wait_for(at_work, seconds=60, what="both tiers have worked")
    # And their tasks say whose they are, which microbatch it was and how it ended
    page.get_by_role("link", name="Tasks").click()

    def ended() -> list[dict[str, str]]:
        page.locator("#tasks-table tbody td a").first.wait_for()
        found = rows(page, "#tasks-table")
        if all(task.get("state") not in UNDER_WAY for task in found):
            return found
        page.reload()
        return []

    tasks = wait_for(ended, seconds=60, what="no task is under way")
    assert {(task["name"], task["worker"].split("-")[0]) for task in tasks} == {
        ("edge.draw", "edge"),
        ("cloud.draw", "cloud"),
    }
    assert all(re.fullmatch(r"microbatch [0-9a-f-]{36}", task["kwargs"]) for task in tasks)
    assert {(task["state"], task["result"]) for task in tasks} == {("SUCCESS", "'done'")}
    # And a name lists its like, which a name with blanks would not
    page.get_by_role("link", name="cloud.draw").first.click()
    wait_for(
        lambda: {task.get("name") for task in rows(page, "#tasks-table")} == {"cloud.draw"},
        seconds=60,
        what="only the cloud's tasks are listed",
    )


@needs_browser
def test_a_long_microbatch_says_how_far_it_is(home: Home, page: Any) -> None:
    # Given a microbatch of many jobs
    begin_long(home)
    # When its task is looked at meanwhile
    counted = re.fullmatch(r"(\d+) of (\d+) jobs", progress(page))
    # Then it says how many of its jobs are drawn
    assert counted is not None
    done, jobs = map(int, counted.groups())
    assert 0 <= done < jobs
    assert jobs > 1
    assert home.routet2i("cancel", "last").returncode == 0


@needs_browser
def test_it_offers_nothing_to_press_and_shows_no_secret(home: Home, page: Any) -> None:
    # Given every page of Flower, with its tabs
    told = home.stack()
    broker_password = told["broker_url"].split(":")[2].split("@")[0]
    secrets = [broker_password, told["flower"]["password"], told["api"]["key"]]
    edge = next(name for name in workers(told["flower"]) if name.startswith("edge"))
    for path in ("/", f"/worker/{edge}", "/tasks", "/broker"):
        page.goto(path)
        page.wait_for_load_state("networkidle")
        # Then there is no button that acts on a worker, a pool, a queue or a task, and no password
        acts = re.compile("shut ?down|restart|grow|shrink|autoscale|apply|add|cancel|revoke|terminate", re.I)
        assert page.get_by_role("button", name=acts, include_hidden=True).count() == 0, path
        assert not [secret for secret in secrets if secret in page.content()], path


@contextmanager
def another(home: Home, *address: str, cwd: Path, **environment: str) -> Iterator[dict[str, str]]:
    """Start one more Flower for a home's broker; yield how to get in, once it answers."""
    port, access = broker.free_port(), {"user": "ana", "password": "correct-horse-battery"}
    process = subprocess.Popen(
        [sys.executable, "-m", "scheduler.flower", str(port), *address],
        env={
            **home.environment,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FLOWER_BASIC_AUTH": f"{access['user']}:{access['password']}",
            "FLOWER_COOKIE_SECRET": "c" * 32,
            **environment,
        },
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    access["url"] = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: ask(access, "/healthcheck", known=False).status, seconds=60, what="it answers")
        yield access
    finally:
        process.kill()
        process.wait(20)


@pytest.fixture(scope="module", params=["127.0.0.1", "0.0.0.0"])
def flower(request: pytest.FixtureRequest, home: Home) -> Iterator[dict[str, str]]:
    """The stack's own Flower, and one that listens on every address, as in a container."""
    if request.param == "127.0.0.1":
        yield home.stack()["flower"]
        return
    mistake = "true"  # an operator's, which opens nothing
    with another(home, request.param, cwd=home.path, FLOWER_UNAUTHENTICATED_API=mistake) as access:
        wait_for(lambda: len(workers(access)) == 2, seconds=60, what="it knows the workers")
        yield access


def test_without_the_password_nothing_is_seen(flower: dict[str, str]) -> None:
    # Given each page and answer of Flower but the probe of its life
    paths = ("/", "/workers?json=1", "/tasks", "/broker", "/metrics")
    apis = ("/api/workers", "/api/tasks", "/api/task/types", "/api/queues/length", "/api/task/info/x")
    # When a stranger asks, or one with a wrong password
    wrong = {**flower, "password": "guess"}
    for path in (*paths, *apis):
        answers = [ask(flower, path, known=False), ask(wrong, path)]
        # Then they see nothing, and no other site's script may read it
        assert [answer.status for answer in answers] == [401, 401], path
        assert not [answer for answer in answers if "edge" in answer.text], path
        assert all(answer.headers.get("Access-Control-Allow-Origin") is None for answer in answers)
    assert ask(flower, "/healthcheck", known=False).text == "OK"


ACTS = (
    *("worker/shutdown", "worker/pool/restart", "worker/pool/grow", "worker/pool/shrink"),
    *("worker/pool/autoscale", "worker/queue/add-consumer", "worker/queue/cancel-consumer"),
    *("task/revoke", "task/abort", "task/timeout", "task/rate-limit"),
    *("task/apply", "task/async-apply", "task/send-task"),
)


def test_nobody_acts_through_it(flower: dict[str, str]) -> None:
    # Given every act that Flower knows, on a worker that there is
    edge = next(name for name in workers(flower) if name.startswith("edge"))
    for act in ACTS:
        path = f"/api/{act}/{edge}"
        # When a stranger asks for it, another site's page with the owner's password, or the owner
        stranger = ask(flower, path, post=True, known=False)
        page = ask(flower, path, post=True, Sec_Fetch_Site="cross-site", Origin="https://evil.example")
        old = ask(flower, path, post=True, Origin="https://evil.example")
        owner = ask(flower, path, post=True)
        # Then it is refused, each time for a reason of its own
        assert stranger.status == 401, act
        assert (page.status, page.text) == (403, "Cross-site request forbidden"), act
        assert (old.status, old.text) == (403, "Cross-origin request forbidden"), act
        assert (owner.status, owner.text) == (403, "Read only mode is enabled"), act
    assert workers(flower)[edge]


def test_the_stacks_own_listens_on_loopback_only_and_keeps_no_file(home: Home) -> None:
    process = psutil.Process(home.stack()["processes"]["flower"])
    listening = {one.laddr.ip for one in process.net_connections() if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    assert not [one.path for one in process.open_files() if one.path.endswith(("flower", ".db", ".dat"))]


def test_it_runs_no_configuration_of_the_folder_it_is_started_in(home: Home, tmp_path: Path) -> None:
    # Given a folder of a stranger's with a flowerconfig.py that opens everything
    (tmp_path / "flowerconfig.py").write_text("open('ran', 'w').close()\nbasic_auth = []\n")
    # When Flower is started there
    with another(home, cwd=tmp_path) as access:
        # Then the file was not run, and the password is asked for
        assert ask(access, "/api/tasks", known=False).status == 401
        assert not (tmp_path / "ran").exists()
