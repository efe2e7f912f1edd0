"""What a log line may say: no secret, no prompt, nothing that a terminal obeys; and whose it is."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from routet2i.log import configure, fingerprint
from routet2i.settings import Settings

CANARY = "k4n4ri/&"
SETTINGS = Settings(
    database_url=f"postgresql+psycopg://user:{CANARY.replace('/', '%2F')}@host/db",
    broker_url="redis://:br0kerCanary@host:6379/0",
    log_format="json",
)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that returns what was logged since, as JSON objects."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure(SETTINGS, service="test")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], root.level = before
    structlog.contextvars.clear_contextvars()


def test_secrets_of_the_settings_are_hidden_wherever_they_stand(lines: Any) -> None:
    # When secrets get into an event, a field, a key, a nested value, an object and a traceback
    log = structlog.get_logger()
    log.info(f"connect {CANARY}", url="redis://:br0kerCanary@host", inner={"a": ["x br0kerCanary y"]})
    log.info("object", thing=RuntimeError(f"refused {CANARY}"))
    try:
        raise ValueError(f"password {CANARY} is wrong")
    except ValueError:
        log.exception("failed")
    logging.getLogger("kombu").warning("lost %s", "redis://:br0kerCanary@host:6379/0")
    # Then no line has them, encoded or not
    text = json.dumps(lines())
    assert len(lines()) == 4
    for secret in (CANARY, CANARY.replace("/", "%2F"), "br0kerCanary"):
        assert secret not in text
    assert "Traceback" in text


@pytest.mark.parametrize(
    "told",
    [
        "Authorization: Bearer abc.def-123",
        "{'Authorization': 'Basic dXNlcjpwYXNz'}",
        "POST /v1?api_key=abc.def-123&size=1",
        "connect password=abc.def-123 host=x",
        "sk-proj-abcdefghijkl",
        "https://user:abc.def-123@provider/v1",
    ],
)
def test_keys_that_are_told_in_a_text_are_hidden(lines: Any, told: str) -> None:
    structlog.get_logger().info("call", text=told)
    (line,) = lines()
    assert "***" in line["text"]
    assert not {"abc.def-123", "dXNlcjpwYXNz", "sk-proj-abcdefghijkl"} & set(line["text"].split())
    assert "abc.def" not in line["text"]


def test_fields_with_a_secrets_name_are_hidden_and_others_are_not(lines: Any) -> None:
    structlog.get_logger().info("x", api_key="a", headers={"authorization": "b"}, tokens=77, keyboard="c")
    (line,) = lines()
    assert (line["api_key"], line["headers"]) == ("***", {"authorization": "***"})
    assert (line["tokens"], line["keyboard"]) == (77, "c")


def test_of_a_prompt_only_hash_and_length_are_said(lines: Any) -> None:
    structlog.get_logger().warning("job_failed", job="j", prompt="a red circle")
    (line,) = lines()
    assert line["prompt"] == fingerprint("a red circle")
    assert line["prompt"].endswith("12 chars")
    assert "red" not in json.dumps(line)


@pytest.mark.parametrize("evil", ["\x1b[2J", "\r", "\n2026-01-01 [info] forged", "\u202e", "\u2028", "\x07"])
def test_what_a_terminal_obeys_is_escaped(lines: Any, evil: str) -> None:
    structlog.get_logger().info(f"a{evil}b", value=f"c{evil}d")
    (line,) = lines()
    assert evil not in line["event"]
    assert evil not in line["value"]


def test_a_line_of_text_cannot_forge_another(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    before = logging.getLogger().handlers[:]
    configure(SETTINGS.with_changes(log_format="text"), service="test")
    logging.getLogger("other").warning("bad\n2026-01-01T00:00:00Z [info] all is well")
    logging.getLogger().handlers[:] = before
    assert len(stream.getvalue().splitlines()) == 1


def test_lines_name_the_work_that_is_bound(lines: Any) -> None:
    structlog.contextvars.bind_contextvars(batch="b", microbatch="m", fence=3)
    structlog.get_logger().info("ours")
    logging.getLogger("theirs").warning("a library's")
    assert [(one["batch"], one["microbatch"], one["fence"]) for one in lines()] == [("b", "m", 3)] * 2


def test_settings_do_not_show_their_secrets() -> None:
    for text in (repr(SETTINGS), str(SETTINGS), repr(SETTINGS.model_dump()), SETTINGS.model_dump_json()):
        assert "br0kerCanary" not in text
        assert "k4n4ri" not in text
