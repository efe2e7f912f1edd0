"""`pause`, `resume` and `retry --to` on SQLite, without a stack."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from db.audit import job_story
from db.repository import Repository
from db.session import make_engine
from scheduler.cli import make_app
from scheduler.cli.exits import Exit

Cli = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, sqlite_template: bytes) -> Path:
    """A home with a database."""
    made = tmp_path / "home"
    made.mkdir()
    (made / "routet2i.db").write_bytes(sqlite_template)
    return made


@pytest.fixture
def cli(home: Path) -> Cli:
    """Run a command in that home."""
    return lambda *arguments: CliRunner().invoke(make_app(), ["--home", str(home), *arguments])


@pytest.fixture
def local(home: Path, shop_of: Any) -> Iterator[Any]:
    """The shop of that home."""
    repository = Repository(make_engine(f"sqlite+pysqlite:///{home / 'routet2i.db'}"))
    yield shop_of(repository)
    repository.engine.dispose()


def test_a_batch_or_a_client_that_is_paused_waits_until_it_is_resumed(cli: Cli, local: Any) -> None:
    batch = local.submit(2, client="ann")
    for names in (["last"], ["--client", "ann"]):
        # Given a pause
        told = cli("pause", *names, "--reason", "wrong colours")
        assert told.exit_code == Exit.OK, told.stderr
        assert "is paused, from the next window on" in told.stdout
        assert "resume" in told.stdout
        # Then no window sees its jobs, and the pause is shown with its reason
        assert local.repository.open_window(limit=10) is None
        (shown,) = json.loads(cli("pause", "--json").stdout)
        assert (shown["name"], shown["reason"]) == (batch if names == ["last"] else "ann", "wrong colours")
        assert "wrong colours" in cli("pause").stdout
        # And another pause of it changes nothing
        assert "is paused already" in cli("pause", *names).stdout
        assert json.loads(cli("pause", *names, "--json").stdout)["changed"] is False
        # When it is resumed, then it goes on
        assert "goes on" in cli("resume", *names).stdout
        assert "was not paused" in cli("resume", *names).stdout
        assert len(local.repository.open_window(limit=10).jobs) == 2
    assert "nothing is paused" in cli("pause").stdout


def test_a_tier_that_is_paused_gets_no_jobs(cli: Cli, local: Any) -> None:
    assert json.loads(cli("pause", "--tier", "cloud", "--json").stdout) == {
        "kind": "tier", "name": "cloud", "changed": True,
    }  # fmt: skip
    assert local.repository.resting_tiers() == {"cloud"}
    assert json.loads(cli("resume", "--tier", "cloud", "--json").stdout)["changed"] is True
    assert local.repository.resting_tiers() == frozenset()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pause", "--reason", "why"), "say what to pause"),
        (("pause", "--tier", "cloud", "--client", "ann"), "one thing"),
        (("pause", "--tier", "moon"), "write edge or cloud"),
        (("pause", "--client", "no name"), "is no client's name"),
        (("pause", "nothing"), "no batch"),
        (("resume",), "say what"),
    ],
)
def test_what_cannot_be_paused_is_refused(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    told = cli(*arguments)
    assert told.exit_code == Exit.USAGE
    assert says in told.stderr


def test_what_a_tier_drew_is_drawn_on_another_one_as_a_new_batch(cli: Cli, local: Any) -> None:
    # Given a batch of three jobs that the cloud drew, one of them in vain
    origin = local.submit(3)
    local.window()
    claim = local.poll()
    outcomes = [local.outcome(job, fails=place == 0) for place, job in enumerate(claim.jobs)]
    assert local.repository.record(claim, outcomes)
    assert local.repository.finish(claim)
    # When the edge is to draw what the cloud drew
    told = cli("retry", origin, "--drawn-by", "cloud", "--to", "edge", "--budget", "1")
    assert told.exit_code == Exit.OK, told.stderr
    assert "2 jobs, 2 pictures, budget $1" in told.stdout
    assert "all on the edge tier" in told.stdout
    # And what failed is to be drawn by the cloud
    made = json.loads(cli("retry", origin, "--failed", "--to", "cloud", "--json").stdout)
    # Then these are batches of jobs that name the old ones and ask for that tier
    assert (made["jobs"], made["origin"]) == (1, origin)
    (job,) = [one.job_id for one in local.repository.open_window(limit=10).jobs if one.tier == "cloud"]
    assert job_story(local.engine, job).retry_of == claim.jobs[0].job_id
    # And the same again does nothing twice
    again = json.loads(cli("retry", origin, "--failed", "--to", "cloud", "--json").stdout)
    assert (again["jobs"], again["batch_id"]) == (0, made["batch_id"])
