"""`routet2i webhook`, and docs/webhooks.md held against the program."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from db.outbox import PAUSES_SECONDS
from routet2i.contracts import BatchEvent
from routet2i.settings import Settings
from scheduler.cli import make_app
from scheduler.cli.exits import Exit
from scheduler.webhooks.signature import headers

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
Cli = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def run(*words: str) -> Result:
        return CliRunner().invoke(make_app(), ["--home", str(tmp_path), *words])

    assert run("db", "upgrade").exit_code == Exit.OK
    return run


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[str]]]:
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200 if "good" in self.path else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", got
    server.shutdown()
    server.server_close()


def test_a_secret_is_printed_once_and_never_listed(cli):
    told = cli("webhook", "add", "https://hooks.example/x", "--client", "studio", "--event", "batch.failed")
    assert told.exit_code == Exit.OK
    secret = told.stdout.strip()
    assert secret.startswith("whsec_")
    assert "shown this once" in told.stderr
    for words in (("webhook", "list"), ("webhook", "list", "--json"), ("webhook", "deliveries", "--json")):
        assert secret not in cli(*words).stdout
    (row,) = json.loads(cli("webhook", "list", "--json").stdout)
    assert (row["client"], row["events"]) == ("studio", ["batch.failed"])
    assert json.loads(cli("webhook", "list", "--client", "other", "--json").stdout) == []


def test_a_removed_webhook_is_gone_and_may_be_removed_again(cli):
    webhook = json.loads(cli("webhook", "add", "https://hooks.example/x", "--json").stdout)["id"]
    assert "is removed" in cli("webhook", "remove", webhook).stdout
    assert "was removed before" in cli("webhook", "remove", webhook).stdout
    assert "no webhook yet" in cli("webhook", "list").stdout
    assert cli("webhook", "test", webhook).exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "http://hooks.example/"), "ROUTET2I_PRIVATE_HOSTS"),
        (("add", "https://10.0.0.1/"), "no public network"),
        (("add", "https://a..b/"), "1 to 63 characters"),
        (("add", f"https://{'a' * 64}.example/"), "1 to 63 characters"),
        (("add", "https://hooks.example/", "--client", "shadow"), "no client"),
        (("add", "https://hooks.example/", "--name", "x" * 200), "128"),
        (("add", "https://hooks.example/", "--batch", "none"), "none"),
        (("remove", "none"), "webhook list"),
        (("deliveries", "none"), "webhook list"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(cli, words, says):
    told = cli("webhook", *words)
    assert told.exit_code == Exit.USAGE
    assert says in told.stderr


def test_a_test_is_sent_at_once_and_says_how_it_went(cli, receiver, monkeypatch):
    url, got = receiver
    monkeypatch.setenv("ROUTET2I_PRIVATE_HOSTS", "127.0.0.1")
    good = json.loads(cli("webhook", "add", f"{url}/good", "--json").stdout)["id"]
    told = cli("webhook", "test", good)
    assert told.exit_code == Exit.OK
    assert "delivered: 200" in told.stdout
    assert json.loads(got[0])["type"] == "webhook.test"
    # And one that fails is told, listed, and waits for its next try
    bad = json.loads(cli("webhook", "add", f"{url}/bad", "--json").stdout)["id"]
    told = cli("webhook", "test", bad)
    assert told.exit_code == 1
    assert "503" in told.stderr
    rows = json.loads(cli("webhook", "deliveries", bad, "--json").stdout)
    assert [(one["state"], [t["status"] for t in one["tries"]]) for one in rows] == [("pending", [503])]
    assert "delivered" in cli("webhook", "deliveries").stdout


def test_every_command_and_setting_that_the_page_names_exists() -> None:
    group: Any = typer.main.get_command(make_app())
    typed = re.findall(r"^routet2i (.*)$", PAGE, re.MULTILINE)
    assert len(typed) == 5
    for line in typed:
        words = shlex.split(line)
        group.commands[words[0]].commands[words[1]].make_context(words[1], words[2:])
    assert {f"ROUTET2I_{name.upper()}" for name in Settings.model_fields} >= set(
        re.findall(r"ROUTET2I_[A-Z_]+", PAGE)
    )


def test_the_pages_events_and_pauses_are_the_programs() -> None:
    assert re.findall(r"^\| `(batch\.\w+)` \|", PAGE, re.MULTILINE) == [one.value for one in BatchEvent]
    (told,) = re.findall(r"follow after about (.*?), each pause", PAGE, re.DOTALL)
    seconds = {"s": 1, "min": 60, "h": 3_600}
    assert [int(n) * seconds[unit] for n, unit in re.findall(r"(\d+) (s|min|h)\b", told)] == list(
        PAUSES_SECONDS
    )


def test_the_pages_receiver_accepts_what_we_sign_and_nothing_else(monkeypatch) -> None:
    # Given the page's function
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    is_genuine = names["is_genuine"]
    monkeypatch.setattr("time.time", lambda: 1_795_320_100.0)
    secret = "whsec_" + "a2V5" * 11
    made = headers(secret, message_id="m", seconds=1_795_320_000, body='{"a": "ä"}')
    body = '{"a": "ä"}'.encode()
    # Then it takes what is ours, beside a signature with an older secret too
    assert is_genuine(secret, made, body)
    assert is_genuine(secret, {**made, "webhook-signature": "v1,b2xk " + made["webhook-signature"]}, body)
    # And nothing that was changed or is old
    assert not is_genuine(secret, made, body + b" ")
    assert not is_genuine("whsec_" + "b3Ro" * 11, made, body)
    assert not is_genuine(secret, {**made, "webhook-id": "n"}, body)
    assert not is_genuine(
        secret, headers(secret, message_id="m", seconds=1_795_310_000, body='{"a": "ä"}'), body
    )
