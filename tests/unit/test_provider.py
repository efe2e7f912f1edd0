"""What each answer of a provider means, over real connections to a server that misbehaves."""

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from routet2i.decoding import as_png
from routet2i.execution import RenderRequest
from routet2i.provider import (
    Accepted,
    Answer,
    Busy,
    Declined,
    Drawn,
    Provider,
    Refused,
    Unsure,
    Unusable,
    _cost,
    _retry_after,
)
from routet2i.tiers import read_tiers
from tests.provider.server import FakeProvider
from tests.provider.tier_file import TIERS

REQUEST = RenderRequest(prompt="a cat", negative_prompt=None, seed=7, width=64, height=64)


def provider_at(
    url: str, folder: Path, *, key: str = "sk-fake", timeout: float = 5.0, more: str = ""
) -> Provider:
    file = folder / "tiers.toml"
    file.write_text(TIERS.format(url=url, idempotent="false", timeout=timeout, more=more))
    return Provider(read_tiers(file)["cloud"], key=SecretStr(key))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., FakeProvider]]:
    with ExitStack() as running:
        yield lambda **options: running.enter_context(
            FakeProvider(bill=tmp_path / "bill.jsonl", hang_seconds=5, **options)
        )


@pytest.mark.parametrize(
    ("mood", "kind", "told"),
    [
        ("ok", Drawn, ""),
        ("duplicate", Drawn, ""),
        ("slow", Drawn, ""),
        ("bill_then_500", Unsure, "500: the server had an error"),
        ("fail_500", Unsure, "500"),
        ("bill_then_hang", Unsure, "ReadTimeout"),
        ("bill_then_cut", Unsure, "no whole answer"),
        ("huge", Unsure, "more than"),
        ("busy", Busy, ""),
        ("accepted", Accepted, ""),
        ("wrong_size", Unusable, "72x64 pixels, not 64x64"),
        ("no_image", Unusable, "no picture of PNG"),
        ("decline", Declined, "400: Your request was rejected"),
        ("refuse", Refused, "401"),
        ("moved", Refused, "302"),
    ],
)
def test_an_answer_means(
    start: Callable[..., FakeProvider], tmp_path: Path, mood: str, kind: type[Answer], told: str
) -> None:
    # Given a provider in some mood
    server = start(script=[mood], slow_seconds=0.2)
    # When it is asked for a picture
    patience = 1.0 if mood == "bill_then_hang" else 60.0
    answer = provider_at(server.url, tmp_path, timeout=patience).draw(REQUEST, idem_key="k1")
    # Then its answer is understood, and the request was sent once
    assert isinstance(answer, kind)
    assert told in getattr(answer, "why", "")
    assert "\x1b" not in getattr(answer, "why", "")
    assert [one["key"] for one in server.requests] == ["k1"]
    if isinstance(answer, Drawn):
        assert answer.micro_usd == 65_000
        assert Image.open(io.BytesIO(answer.png)).size == (64, 64)


def test_an_accepted_picture_is_asked_for_until_it_is_there(
    start: Callable[..., FakeProvider], tmp_path: Path
) -> None:
    server = start(script=["accepted"])
    provider = provider_at(server.url, tmp_path)
    accepted = provider.draw(REQUEST, idem_key="k1")
    answers = [provider.ask(REQUEST, remote_id=accepted.remote_id) for _ in range(3)]
    assert [type(one) for one in answers] == [Accepted, Accepted, Drawn]
    assert isinstance(provider.ask(REQUEST, remote_id="nobody"), Unsure)
    assert len(server.lines()) == 1


def test_what_is_sent_is_the_request_and_the_tiers_parameters(
    start: Callable[..., FakeProvider], tmp_path: Path
) -> None:
    server = start()
    more = 'sends_seed = true\nparameters = { quality = "low" }'
    request = RenderRequest(prompt="a cat", negative_prompt="dogs", seed=7, width=64, height=128)
    provider_at(server.url, tmp_path, more=more).draw(request, idem_key="k")
    assert server.requests[0]["body"] == {
        "model": "fake",
        "prompt": "a cat\n\nAvoid: dogs",
        "n": 1,
        "size": "64x128",
        "seed": 7,
        "quality": "low",
    }


def test_the_key_is_in_no_text(start: Callable[..., FakeProvider], tmp_path: Path) -> None:
    # Given a provider that repeats a wrong key in its complaint
    server = start()
    provider = provider_at(server.url, tmp_path, key="sk-secret-canary")
    answer = provider.draw(REQUEST, idem_key="k")
    # Then neither the answer nor any object shows it
    assert isinstance(answer, Refused)
    assert "Bearer ***" in answer.why
    assert "canary" not in repr((provider, vars(provider), answer))


def test_nobody_listening_means_that_nothing_was_sent(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answer = provider_at(f"http://127.0.0.1:{port}/v1", tmp_path).draw(REQUEST, idem_key="k")
    assert isinstance(answer, Refused)
    assert "no connection" in answer.why


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"", Unsure),  # closed without a word
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", Unsure),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Unusable),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n" + b'{"data":[1]}', Unusable),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc", Unsure),
        (b"HTTP/1.1 202 OK\r\ncontent-length: 15\r\n\r\n" + b'{"id":"../../"}', Unsure),
        (b"HTTP/1.1 402 Pay\r\ncontent-length: 0\r\n\r\n", Refused),
        (b"HTTP/1.1 422 No\r\ncontent-length: 15\r\n\r\n" + b'{"error":"bad"}', Declined),
        (b"SSH-2.0-OpenSSH\r\n", Unsure),
    ],
)
def test_whatever_else_is_answered_has_a_meaning(tmp_path: Path, reply: bytes, kind: type[Answer]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        thread = threading.Thread(target=answer_once)
        thread.start()
        answer = provider_at(f"http://127.0.0.1:{server.getsockname()[1]}/v1", tmp_path, timeout=60.0).draw(
            REQUEST, idem_key="k"
        )
        thread.join()
    assert isinstance(answer, kind), answer


def test_no_money_is_the_workers_fault_though_it_comes_as_429(
    start: Callable[..., FakeProvider], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = provider_at("http://127.0.0.1:9/v1", tmp_path)

    class Response:
        status_code, headers, reason_phrase = 429, {}, ""

    body = b'{"error": {"code": "insufficient_quota", "message": "add money"}}'
    assert isinstance(provider._meaning(Response(), body, request=REQUEST), Refused)


@pytest.mark.parametrize(
    ("header", "seconds"), [("3", 3), ("0.5", 0.5), ("9999", 120), ("x", 2), (None, 2), ("-1", 2)]
)
def test_retry_after_is_read_within_bounds(header: str | None, seconds: float) -> None:
    assert _retry_after(header) == seconds


def test_a_date_in_the_past_means_now() -> None:
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize(
    ("usage", "micro_usd"),
    [(0.042, 42_000), (1e-7, 1), (0, 0), (True, None), ("1", None), (-1, None), (1e9, None), (None, None)],
)
def test_a_cost_is_read_in_dollars(usage: Any, micro_usd: int | None) -> None:
    assert _cost({"usage": {"cost": usage}}) == micro_usd


def encoded(fmt: str, *, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format=fmt, **({"comment": b"secret"} if fmt == "JPEG" else {}))
    return file.getvalue()


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP"])
def test_a_picture_becomes_a_plain_png(fmt: str) -> None:
    png = as_png(encoded(fmt), width=64, height=64)
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (64, 64))
    assert b"secret" not in png


@pytest.mark.parametrize(
    "body",
    [b"", b"<svg/>", encoded("BMP"), encoded("GIF"), encoded("PNG")[:60], encoded("PNG", size=(1, 64))],
)
def test_what_is_no_such_picture_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        as_png(body, width=64, height=64)
