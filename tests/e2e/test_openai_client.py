"""OpenAI's own Python client against a real stack (`routet2i up`); models are fakes, nothing else is."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from db.audit import check_invariants
from tests.e2e.conftest import Home, wait_for

OFFICIAL = Path(__file__).parents[2] / "examples" / "official_client.py"
ENDPOINT = "/v1/images/generations"
FINAL = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str, prompt: str, **body: Any) -> str:
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {"prompt": prompt, **body}}
    )


def lines(jobs: int, *, name: str = "job", **body: Any) -> bytes:
    return "\n".join(line(f"{name}-{n}", f"{name} {n} red circles", **body) for n in range(jobs)).encode()


def client_of(home: Home, *, key: str | None = None) -> OpenAI:
    api = home.stack()["api"]
    return OpenAI(base_url=f"{api['url']}/v1", api_key=key or api["key"], max_retries=0)


@pytest.fixture
def client(home: Home) -> Iterator[OpenAI]:
    with client_of(home) as found:
        yield found


@pytest.fixture(scope="module")
def patient_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home of small windows, so that a large batch takes a while."""
    made = Home(tmp_path_factory.mktemp("patient"), window_jobs="16", microbatch_jobs="4")
    yield made.start()
    made.end()


def upload(client: OpenAI, content: bytes) -> str:
    return client.files.create(file=("lines.jsonl", io.BytesIO(content)), purpose="batch").id


def order(client: OpenAI, content: bytes, **more: Any) -> Batch:
    wanted: dict[str, Any] = {"completion_window": "24h", "endpoint": ENDPOINT, **more}
    return client.batches.create(input_file_id=upload(client, content), **wanted)


def ended(client: OpenAI, batch_id: str, *, seconds: float = 120) -> Batch:
    def look() -> Batch | None:
        found = client.batches.retrieve(batch_id)
        time.sleep(0.1)
        return found if found.status in FINAL else None

    found: Batch = wait_for(look, seconds=seconds, what=f"{batch_id} ends")
    return found


def read(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    content = client.files.content(file_id).read()
    assert client.files.retrieve(file_id).bytes == len(content)
    return [json.loads(one) for one in content.splitlines()]


def test_two_hundred_requests_come_out_as_two_hundred_pictures(home: Home, client: OpenAI) -> None:
    # Given a file of 200 requests
    uploaded = client.files.create(file=("many.jsonl", io.BytesIO(lines(200, seed=7))), purpose="batch")
    assert (uploaded.object, uploaded.purpose, uploaded.filename) == ("file", "batch", "many.jsonl")
    assert client.files.content(uploaded.id).read() == lines(200, seed=7)
    # When it is ordered, and polled to its end
    batch = client.batches.create(
        input_file_id=uploaded.id,
        endpoint=ENDPOINT,
        completion_window="24h",
        metadata={"order": "42"},
        extra_body={"budget_usd": 6.5, "name": "many"},
    )
    assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"order": "42"})
    batch = ended(client, batch.id)
    # Then all is there, with each state's moment
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (200, 200, 0)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.expires_at == batch.created_at + 86_400
    assert (batch.error_file_id, batch.failed_at, batch.cancelled_at, batch.errors) == (None,) * 4
    assert (batch.model, batch.usage) == ("routet2i", None)
    assert batch.model_extra["routet2i"]["budget_usd"] == 6.5
    assert 0 < batch.model_extra["routet2i"]["spent_usd"] <= 6.5
    # And each line has its custom_id, a picture, and how it came about
    found = read(client, batch.output_file_id)
    assert [one["custom_id"] for one in found] == [f"job-{n}" for n in range(200)]
    assert {one["response"]["status_code"] for one in found} == {200}
    assert len({one["id"] for one in found}) == 200
    for one in found:
        body = one["response"]["body"]
        (image,) = body["data"]
        assert base64.b64decode(image["b64_json"]).startswith(b"\x89PNG")
        assert body["routet2i"]["tier"] in ("edge", "cloud")
        assert body["routet2i"]["pictures"][0]["seed"] == 7
    engine = home.engine()
    assert check_invariants(engine) == []
    engine.dispose()


def test_an_order_cancelled_half_way_keeps_what_was_drawn(patient_home: Home) -> None:
    # Given a batch of which something is drawn
    client = client_of(patient_home)
    batch = order(client, lines(3000, name="long"))
    wait_for(
        lambda: client.batches.retrieve(batch.id).request_counts.completed > 0, seconds=120, what="a picture"
    )
    # When it is cancelled, twice
    asked = client.batches.cancel(batch.id)
    assert asked.status in ("cancelling", "cancelled")
    client.batches.cancel(batch.id)
    # Then what was drawn is in the output file, the rest in the error file, and nothing in both
    batch = ended(client, batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert batch.request_counts.completed == len(output) > 0
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    names = [one["custom_id"] for one in output + errors]
    assert len(set(names)) == len(names) == batch.request_counts.total == 3000
    # And a batch that has ended cannot be cancelled
    done = ended(client, order(client, lines(1)).id)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(done.id)


def test_what_was_not_drawn_in_its_window_expires(patient_home: Home) -> None:
    client = client_of(patient_home)
    # Given a window that is too short
    batch = ended(client, order(client, lines(5000, name="late"), completion_window="4s").id)
    # Then partial results stay, and the rest says why
    assert batch.status == "expired"
    assert batch.expires_at <= batch.finalizing_at <= batch.expired_at
    drawn = batch.request_counts.completed
    errors = read(client, batch.error_file_id)
    assert {one["error"]["code"] for one in errors} == {"batch_expired"}
    assert len(errors) == 5000 - drawn
    if drawn:
        assert len(read(client, batch.output_file_id)) == drawn


def test_a_repeated_order_is_the_same_batch_and_a_changed_one_is_refused(client: OpenAI) -> None:
    # Given an order with a key
    headers = {"Idempotency-Key": "order-1"}
    first = order(client, lines(3, name="once"), extra_headers=headers)
    # When the very same bytes are uploaded and ordered again
    again = order(client, lines(3, name="once"), extra_headers=headers)
    # Then it is the same batch
    assert again.id == first.id
    # And another file, or another wish, is a conflict
    with pytest.raises(openai.ConflictError):
        order(client, lines(4, name="once"), extra_headers=headers)
    with pytest.raises(openai.ConflictError):
        order(client, lines(3, name="once"), extra_headers=headers, metadata={"a": "b"})
    # And without a key it is another batch
    assert order(client, lines(3, name="once")).id != first.id


def test_bad_lines_are_told_with_their_custom_ids_and_sink_no_other(client: OpenAI) -> None:
    # Given good lines between bad ones
    content = "\n".join(
        [
            line("good", "a red circle", size="64x64", n=2, response_format="url"),
            "{",
            line("no-prompt", ""),
            line("model", "a star", model="dall-e-3"),
            json.dumps({"custom_id": "put", "method": "PUT", "url": ENDPOINT, "body": {"prompt": "x"}}),
            line("good", "the same name again"),
            line("line-1", "a blue circle", model="routet2i"),
            line("tier", "a blue circle", model="cloud"),
        ]
    )
    batch = ended(client, order(client, content.encode()).id)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
        8,
        3,
        5,
    )
    # Then the error file has a line for each of the bad ones
    errors = read(client, batch.error_file_id)
    assert [one["custom_id"] for one in errors] == [None, "no-prompt", "model", "put", "good"]
    assert all(one["response"]["status_code"] == 400 for one in errors)
    told = [one["response"]["body"]["error"] for one in errors]
    assert [one["code"] for one in told] == ["invalid_line"] * 2 + ["model_not_found"] + ["invalid_line"] * 2
    assert (told[2]["param"], "routet2i or edge or cloud" in told[2]["message"]) == ("model", True)
    # And the good ones came, as addresses where that was asked for
    first, free, requested = read(client, batch.output_file_id)
    assert [set(one) for one in first["response"]["body"]["data"]] == [{"url"}, {"url"}]
    assert first["response"]["body"]["size"] == "64x64"
    assert [free["custom_id"], requested["custom_id"]] == ["line-1", "tier"]
    # And on the tier that a line asked for
    drawn = requested["response"]["body"]["routet2i"]
    assert (drawn["tier"], drawn["reason"]) == ("cloud", "requested")
    # And whoever has an address sees the picture, as in a browser: without a key
    for image, picture in zip(
        first["response"]["body"]["data"],
        first["response"]["body"]["routet2i"]["pictures"],
        strict=True,
    ):
        fetched = httpx2.get(image["url"])
        assert (fetched.status_code, fetched.headers["content-type"]) == (200, "image/png")
        assert hashlib.sha256(fetched.content).hexdigest() == picture["sha256"]
        assert httpx2.get(image["url"].split("?")[0]).status_code == 401


def test_a_file_without_one_good_line_fails_with_reasons(client: OpenAI) -> None:
    batch = ended(client, order(client, b'{"a": 1}\nnot JSON\n').id)
    assert batch.status == "failed"
    assert batch.failed_at >= batch.created_at
    assert [one.line for one in batch.errors.data] == [1, 2]
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


def test_a_budget_that_cannot_pay_fails_before_anything_is_drawn(client: OpenAI) -> None:
    batch = ended(client, order(client, lines(10), extra_body={"budget_usd": 0.0001}).id)
    assert batch.status == "failed"
    assert batch.errors.data[0].code == "budget_too_small"
    assert "budget_usd" in batch.errors.data[0].message


def test_lists_come_in_pages(client: OpenAI) -> None:
    # Given five batches and their files
    ids = [order(client, lines(1, name=f"page{n}")).id for n in range(5)]
    # When the client walks through pages of two
    seen = [one.id for one in client.batches.list(limit=2)]
    # Then each comes once, newest first
    assert seen[:5] == ids[::-1]
    assert len(set(seen)) == len(seen)
    files = [one.id for one in client.files.list(limit=2, purpose="batch", order="asc")]
    assert files == sorted(set(files))
    # And a deleted file is gone from them, while its batch goes on
    gone = client.batches.retrieve(ids[0]).input_file_id
    assert client.files.delete(gone).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(gone)
    assert gone not in [one.id for one in client.files.list()]
    assert ended(client, ids[0]).status == "completed"


def test_models_are_listed(client: OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["routet2i", "edge", "cloud"]
    assert client.models.retrieve("edge").id == "edge"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-image-1")


def test_other_clients_see_nothing_and_a_wrong_key_is_refused(home: Home, client: OpenAI) -> None:
    batch = order(client, lines(1, name="mine"))
    # Given a submitter of another client, and an auditor
    made = home.routet2i("key", "create", "ann", "--role", "submitter", "--json").stdout
    ann = client_of(home, key=json.loads(made)["key"])
    made = home.routet2i("key", "create", "eve", "--role", "auditor", "--json").stdout
    eve = client_of(home, key=json.loads(made)["key"])
    # Then another client's things are not there for the one, and only to be looked at for the other
    for ask in (
        lambda: ann.batches.retrieve(batch.id),
        lambda: ann.batches.cancel(batch.id),
        lambda: ann.files.retrieve(batch.input_file_id),
        lambda: ann.files.content(batch.input_file_id),
        lambda: ann.files.delete(batch.input_file_id),
        lambda: ann.batches.create(
            input_file_id=batch.input_file_id, endpoint=ENDPOINT, completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert list(ann.batches.list()) == list(ann.files.list()) == []
    assert eve.batches.retrieve(batch.id).id == batch.id
    with pytest.raises(openai.PermissionDeniedError):
        eve.batches.cancel(batch.id)
    with pytest.raises(openai.PermissionDeniedError):
        upload(eve, b"{}")
    # And nobody comes in with a wrong key
    with pytest.raises(openai.AuthenticationError):
        client_of(home, key="rt2i_wrong").batches.list()


def test_an_order_that_makes_no_sense_is_refused_at_once(client: OpenAI) -> None:
    file = upload(client, lines(1))
    for wrong in (
        {"endpoint": "/v1/chat/completions"},
        {"completion_window": "soon"},
        {"metadata": {str(n): "x" for n in range(17)}},
        {"extra_body": {"budget_usd": -1}},
        {"extra_body": {"budget_usd": 0.0000001}},
        {"extra_body": {"colour": "red"}},
        {"extra_headers": {"Idempotency-Key": "a b"}},
    ):
        with pytest.raises(openai.BadRequestError):
            client.batches.create(
                **{"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h", **wrong}
            )
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("a.jsonl", b""), purpose="batch")


def official(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(OFFICIAL), *arguments],
        env=home.environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_the_example_that_checks_all_of_this_finds_it_as_promised(patient_home: Home) -> None:
    # When the script for users goes through all of its parts
    ended = official(patient_home, "--home", str(patient_home.path), "--jobs", "200")
    # Then it says so, and what it saw
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == "all as promised"
    assert "200 pictures downloaded" in ended.stdout
    assert re.search(r": [1-9]\d* drawn and downloaded, [1-9]\d* cancelled", ended.stdout)
    assert "same key, another file: 409" in ended.stdout
    engine = patient_home.engine()
    assert check_invariants(engine) == []
    engine.dispose()


def test_that_example_says_in_a_sentence_what_is_not_as_promised(patient_home: Home) -> None:
    # Given a key that nobody made
    url = patient_home.stack()["api"]["url"]
    ended = official(patient_home, "--base-url", f"{url}/v1", "--api-key", "sk-nobody")
    assert ended.returncode == 1
    assert ended.stderr.startswith("not as promised: the client raised AuthenticationError")
