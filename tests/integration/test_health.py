"""`scheduler.health` on both databases: what it takes for well, and what it says is wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from db.repository import Repository
from routet2i import __version__
from routet2i.errors import ServiceUnavailable
from routet2i.pulse import Pulse
from routet2i.settings import Settings
from scheduler import broker
from scheduler.findings import Finding, Level
from scheduler.health import examine

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL


@pytest.fixture
def settings(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a deployment whose broker is well."""
    monkeypatch.setattr(broker, "check", lambda _url: "valkey 9")
    return Settings(
        home=tmp_path / "home",
        database_url=engine.url.render_as_string(hide_password=False),
        broker_url="redis://127.0.0.1:1/0",
    )


Look = Callable[..., dict[str, Finding]]


@pytest.fixture
def look(settings: Settings) -> Look:
    def look(part: Any = "deployment", *, ready: bool = False) -> dict[str, Finding]:
        return {finding.name: finding for finding in examine(settings, part=part, ready=ready)}

    return look


def beat(repository: Repository, tier: str, state: str = "idle") -> None:
    repository.beat(worker=f"{tier}-1@h", tier=tier, device="cpu", version=__version__, state=state)


def lead(repository: Repository) -> None:
    assert repository.elect(holder="scheduler@h:1", ttl_seconds=15)


def test_a_deployment_with_a_leader_and_workers_is_well(repository: Repository, look: Look) -> None:
    lead(repository)
    beat(repository, "edge")
    beat(repository, "cloud", "busy")
    assert {finding.level for finding in look(ready=True).values()} == {OK}


def test_without_workers_it_lives_but_is_not_ready(repository: Repository, look: Look) -> None:
    lead(repository)
    beat(repository, "edge")
    assert look()["tier cloud"].level is WARN
    assert look(ready=True)["tier cloud"].level is FAIL


def test_work_without_a_worker_of_its_tier_is_a_failure(
    repository: Repository, look: Look, shop: Any
) -> None:
    shop.submit(3)
    shop.window(tier="cloud")
    found = look()["tier cloud"]
    assert found.level is FAIL
    assert found.remedy == "routet2i worker cloud, or routet2i up"
    assert look()["tier edge"].level is WARN


def test_nobody_leads(repository: Repository, look: Look, shop: Any) -> None:
    # Given nobody was ever elected
    assert look()["leader"].level is FAIL
    # When one was, and fell silent a moment ago
    lead(repository)
    shop.change("UPDATE leader SET expires_ms = expires_ms - 16000")
    assert look()["leader"].level is WARN
    # And then for long
    shop.change("UPDATE leader SET expires_ms = 1")
    assert look()["leader"].level is FAIL
    assert "scheduler@h:1" in look()["leader"].detail


def test_a_job_that_waits_while_no_window_closes(look: Look, shop: Any) -> None:
    # Given a window of long ago and a job that has waited for minutes
    shop.submit(1)
    shop.window()
    shop.submit(1)
    assert look()["windows"].level is OK
    shop.change("UPDATE decision_window SET committed_ms = 1")
    shop.change("UPDATE job SET created_ms = 1 WHERE state = 'queued'")
    assert look()["windows"].level is FAIL
    # When the job may not be taken yet
    shop.change("UPDATE job SET not_before_ms = 9999999999999 WHERE state = 'queued'")
    # Then nobody waits
    assert look()["windows"].level is OK


def test_a_worker_says_why_it_gives_its_work_back(repository: Repository, look: Look, shop: Any) -> None:
    # Given the only worker of a tier has no disk left, and work waits
    shop.submit(3)
    shop.window(tier="edge")
    beat(repository, "edge")
    repository.note_fault(worker="edge-1@h", fault="StoreFull: /data has 3 MiB left")
    # Then the fault and the way out of it are told
    found = look()["tier edge"]
    assert found.level is FAIL
    assert "/data has 3 MiB left" in found.detail
    assert "routet2i prune" in found.remedy
    # When it is well again, whatever it beats meanwhile
    beat(repository, "edge")
    assert look()["tier edge"].level is FAIL
    repository.note_fault(worker="edge-1@h", fault=None)
    assert look()["tier edge"].level is OK


def test_a_claim_that_nobody_sweeps(repository: Repository, look: Look, shop: Any) -> None:
    shop.submit(3)
    shop.window()
    shop.expire(shop.poll())
    assert look()["sweep"].level is FAIL
    shop.sweep()
    assert look()["sweep"].level is OK


def test_a_message_that_idle_workers_do_not_take(repository: Repository, look: Look, shop: Any) -> None:
    shop.submit(3)
    shop.window(tier="edge")
    repository.mark_sent(limits={"edge": 5})
    beat(repository, "edge")
    assert look()["tier edge"].level is OK
    shop.change("UPDATE microbatch SET sent_at_ms = sent_at_ms - 100000")
    assert look()["tier edge"].level is WARN


def test_a_full_disk(look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert look()["disk"].level is FAIL
    assert look("worker", ready=True)["disk"].level is FAIL


def test_a_broker_or_database_that_is_silent_kills_no_process_but_makes_it_unready(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a scheduler whose loop turns, without broker and database
    def silent(_url: str) -> str:
        raise ServiceUnavailable("the broker does not answer; check ROUTET2I_BROKER_URL")

    monkeypatch.setattr(broker, "check", silent)
    alone = settings.with_changes(database_url=Settings(database_url="mysql://x").database_url)
    Pulse(settings.home, service="scheduler", name="scheduler@h:1").beat()
    # Then it is alive
    assert [one.level for one in examine(alone, part="scheduler", ready=False)] == [OK]
    # And not ready
    found = {one.name: one.level for one in examine(alone, part="scheduler", ready=True)}
    assert found == {"alive": OK, "broker": FAIL, "database": FAIL}


def test_a_worker_is_ready_when_its_row_is_fresh_and_well(
    settings: Settings, repository: Repository, look: Look
) -> None:
    # Given no worker at all
    assert look("worker")["alive"].level is FAIL
    # When one lives, and the database has not heard of it
    Pulse(settings.home, service="worker", name="edge-1@h").beat()
    assert [one.level for one in look("worker").values()] == [OK]
    assert look("worker", ready=True)["row"].level is FAIL
    # Then it is ready once it has, and not while it drains
    beat(repository, "edge")
    assert {one.level for one in look("worker", ready=True).values()} == {OK}
    beat(repository, "edge", "draining")
    assert look("worker", ready=True)["row"].level is FAIL


def test_questions_stay_quick_beside_many_rows(repository: Repository, look: Look, shop: Any) -> None:
    # Given two thousand waiting jobs; the age is asked of the first thousand only
    shop.submit(2000)
    assert look()["windows"].detail.startswith("a job waits for")
