"""`routet2i key`: made, listed, revoked; and what `serve` refuses."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from db.keys import PREFIX, digest
from db.repository import Repository
from db.session import make_engine
from scheduler.cli import make_app
from scheduler.cli.exits import Exit

Cli = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def run(*words: str) -> Result:
        return CliRunner().invoke(make_app(), ["--home", str(tmp_path), *words])

    assert run("db", "upgrade").exit_code == Exit.OK
    return run


@pytest.fixture
def repository(cli: Cli, tmp_path: Path) -> Iterator[Repository]:
    engine = make_engine(f"sqlite+pysqlite:///{tmp_path / 'routet2i.db'}")
    yield Repository(engine)
    engine.dispose()


def test_a_key_is_printed_once_and_alone_so_that_a_script_can_take_it(cli, repository):
    told = cli("key", "create", "studio", "--role", "auditor", "--name", "reports", "--expires", "30d")
    assert told.exit_code == Exit.OK
    secret = told.stdout.strip()
    assert secret.startswith(PREFIX)
    assert "shown this once" in told.stderr
    assert repository.find_key(digest(secret)).name == "reports"
    # When keys are listed, then the secret is not among what is shown
    for words in (("key", "list"), ("key", "list", "--json")):
        listed = cli(*words).stdout
        assert "studio" in listed
        assert secret not in listed


def test_a_revoked_key_is_said_to_be_revoked(cli, repository):
    made = json.loads(cli("key", "create", "studio", "--json").stdout)
    assert "is revoked" in cli("key", "revoke", made["id"]).stdout
    assert "was revoked before" in cli("key", "revoke", made["id"]).stdout
    assert repository.find_key(digest(made["key"])) is None
    assert "revoked" in cli("key", "list").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("create", "a/b"), "no client"),
        (("create", "shadow"), "no client"),
        (("create", "ann", "--expires", "soon"), "--expires 30d"),
        (("create", "ann", "--name", "x" * 129), "128 characters"),
        (("revoke", "nothing"), "key list"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_type(cli, words, says):
    told = cli("key", *words)
    assert told.exit_code == Exit.USAGE
    assert says in " ".join(told.stderr.split())


def test_without_keys_the_list_says_how_to_make_one(cli):
    assert "key create" in cli("key", "list").stdout


@pytest.mark.parametrize("words", [("--host", "0.0.0.0"), ("--host", "api.example")])
def test_keys_do_not_cross_a_network_in_clear(cli, words):
    told = cli("serve", *words)
    assert told.exit_code == Exit.USAGE
    assert "--behind-proxy" in told.stderr


def test_a_certificate_comes_with_its_key(cli, tmp_path):
    told = cli("serve", "--tls-cert", str(tmp_path / "chain.pem"))
    assert told.exit_code == Exit.USAGE
    assert "come together" in told.stderr
