"""`client list` and `client set` on SQLite, without a stack."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from db.repository import Repository
from db.session import make_engine
from routet2i.contracts import GenerationRequest
from scheduler.cli import make_app
from scheduler.cli.exits import Exit

Cli = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a database."""
    made = tmp_path / "home"
    assert CliRunner().invoke(make_app(), ["--home", str(made), "db", "upgrade"]).exit_code == 0
    return made


@pytest.fixture
def cli(home: Path) -> Cli:
    """Run a command in that home."""
    return lambda *arguments: CliRunner().invoke(make_app(), ["--home", str(home), *arguments])


def submit(home: Path, client: str, jobs: int) -> None:
    """Queue a batch."""
    repository = Repository(make_engine(f"sqlite+pysqlite:///{home / 'routet2i.db'}"))
    opened = repository.open_batch(
        client=client, idem_key=client, body_sha256=client, name=client, budget_micro_usd=None
    )
    requests = [
        GenerationRequest(line_no=line, custom_id=str(line), prompt="a star", seed=1)
        for line in range(1, jobs + 1)
    ]
    repository.add_jobs(opened.batch_id, requests, [], cursor_line=jobs)
    repository.close_intake(opened.batch_id)
    repository.engine.dispose()


def test_without_clients_it_says_what_to_type(cli: Cli) -> None:
    told = cli("client", "list")
    assert told.exit_code == Exit.OK
    assert "no client yet; type:" in told.output


def test_a_weight_is_set_before_the_first_submission_and_shown_as_a_share(cli: Cli, home: Path) -> None:
    # Given a weight, and two clients with jobs
    told = cli("client", "set", "studio", "--weight", "3")
    assert told.exit_code == Exit.OK
    assert "client studio: weight 3, from the next window on" in told.output
    assert "client list" in told.output
    submit(home, "studio", 4)
    submit(home, "ann", 2)
    # When clients are listed, for people and for programs
    shown = cli("client", "list").output
    told = cli("client", "list", "--json")
    # Then both have what waits, and their share
    assert "75 %" in shown
    assert "first" in shown
    ann, studio = json.loads(told.output)
    assert (ann["name"], ann["weight"], ann["queued"], ann["batches"], ann["share"]) == ("ann", 1, 2, 1, 0.25)
    assert (studio["weight"], studio["queued"], studio["share"], studio["jobs_before"]) == (3, 4, 0.75, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("studio", "--weight", "0"),
        ("studio", "--weight", "1001"),
        ("studio",),
        ("no name", "--weight", "2"),
        ("shadow", "--weight", "2"),
    ],
)
def test_a_wrong_weight_or_name_changes_nothing(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli("client", "set", *arguments).exit_code == Exit.USAGE
    assert json.loads(cli("client", "list", "--json").output) == []


def test_without_a_database_it_says_what_to_type(tmp_path: Path) -> None:
    told = CliRunner().invoke(make_app(), ["--home", str(tmp_path / "none"), "client", "list"])
    assert told.exit_code == Exit.UNAVAILABLE
    assert "db upgrade" in told.output
