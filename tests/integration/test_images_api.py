"""The official client draws pictures in one call, on both databases: answers, errors, limits."""

import base64
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import openai
import pytest
from PIL import Image

from db.audit import batches
from db.repository import Repository
from routet2i.contracts import BudgetPolicy, Scope
from scheduler.openai_lines import HARMLESS, LABELS
from scheduler.picture_links import PURPOSE, PictureLinks
from tests.integration.served import Served


@pytest.fixture
def served(repository: Repository, tmp_path: Path) -> Iterator[Served]:
    with Served(repository, tmp_path / "home") as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.05)


def test_pictures_come_back_in_the_answer_and_by_address(served: Served, shop) -> None:
    # Given the official client
    client = served.openai(max_retries=0)
    # When it asks for two pictures of one size
    answer = client.images.generate(
        prompt="a red circle", n=2, size="128x64", response_format="b64_json", extra_body={"seed": 7}
    )
    # Then both are PNGs of that size
    assert len(answer.data) == 2
    for one in answer.data:
        assert Image.open(io.BytesIO(base64.b64decode(one.b64_json))).size == (128, 64)
    # And the answer tells how they came about
    told = answer.model_extra["routet2i"]
    assert (told["tier"], told["reason"], told["seeds"]) == ("edge", "predicted_better_on_edge", [7, 8])
    assert told["cost_usd"] == served.tiers["edge"].price(2, width=128, height=64) / 1e6
    # When the same are asked for by address, then whoever has the address can fetch them, without a key
    by_url = client.images.generate(
        prompt="a red circle", n=2, size="128x64", response_format="url", extra_body={"seed": 7}
    )
    url = by_url.data[0].url
    fetched = httpx2.get(url)
    assert fetched.content == base64.b64decode(answer.data[0].b64_json)
    assert fetched.headers["content-type"] == "image/png"
    assert fetched.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "immutable" in fetched.headers["cache-control"]
    again = httpx2.get(url, headers={"If-None-Match": fetched.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    # And nobody else: not by half of it, not by one of another picture, nor with a key of another client
    plain, query = url.split("?")
    foreign = by_url.data[1].url.split("?")[1]
    later = query.replace("expires=1", "expires=2")
    assert later != query
    for wrong in (
        query.split("&")[0],
        query.split("&")[1],
        foreign,
        later,
        query[:-1] + "0",
        query[:-1] + "1",
    ):
        if wrong != query:
            refused = httpx2.get(f"{plain}?{wrong}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "bad_signature")
    assert httpx2.get(plain).status_code == 401
    assert served.http("ann").get(plain).content == fetched.content
    assert served.http("bob").get(plain).status_code == 404
    # And not when its hour is over
    links = PictureLinks(lambda: served.repository.link_secret(PURPOSE), clock=lambda: time.time() - 3_601)
    old = links.address(answer.model_extra["routet2i"]["sha256"][0], base_url=served.url)
    refused = httpx2.get(old)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "link_expired")
    assert shop.is_sound()


def test_addresses_begin_with_the_public_one_where_that_is_set(
    repository: Repository, tmp_path: Path
) -> None:
    with Served(repository, tmp_path / "home", public_url="https://pictures.example/t2i/") as served:
        answer = served.openai(max_retries=0).images.generate(prompt="a red circle", response_format="url")
        url = answer.data[0].url
        assert url.startswith("https://pictures.example/t2i/routet2i/v1/pictures/")
        # What stands behind the public address is what we serve
        assert httpx2.get(url.replace("https://pictures.example/t2i", served.url)).status_code == 200


def test_a_model_that_is_a_tiers_name_asks_for_that_tier(served: Served, shop) -> None:
    answer = served.openai().images.generate(prompt="a red circle", model="cloud")
    told = answer.model_extra["routet2i"]
    assert (told["tier"], told["reason"]) == ("cloud", "requested")
    assert shop.read("SELECT requested_tier FROM job_audit") == "cloud"
    answer = served.openai().images.generate(prompt="prs 0.1 of a ring", model="routet2i")
    assert answer.model_extra["routet2i"]["reason"] == "predicted_better_on_cloud"


def test_what_changes_nothing_in_a_batchs_line_changes_nothing_here(served: Served) -> None:
    # Given every value that a line of a batch may have and that asks for what we do anyway
    client = served.openai(max_retries=0)
    longest = max(len(values) for values in HARMLESS.values())
    for place in range(longest):
        wish = {name: sorted(values)[place % len(values)] for name, values in HARMLESS.items()}
        # When a picture is asked for with them, then it is drawn
        answer = client.images.generate(
            prompt="a red circle", extra_body=wish | dict.fromkeys(LABELS, "somebody")
        )
        assert len(answer.data) == 1
    # And the document tells the same values
    told = served.application.openapi()["components"]["schemas"]["ImageRequest"]
    for name, values in HARMLESS.items():
        first = told["properties"][name]["anyOf"][0]
        assert set(first.get("enum", [first.get("const")])) == values
    assert set(LABELS) <= set(told["properties"])


@pytest.mark.parametrize(
    ("wish", "kind", "code"),
    [
        ({"model": "dall-e-3"}, openai.NotFoundError, "model_not_found"),
        ({"prompt": ""}, openai.BadRequestError, "invalid_request"),
        ({"prompt": "bell \x07"}, openai.BadRequestError, "invalid_request"),
        ({"n": 17}, openai.BadRequestError, "invalid_request"),
        ({"size": "60x60"}, openai.BadRequestError, "invalid_request"),
        ({"quality": "hd"}, openai.BadRequestError, "invalid_request"),
        ({"background": "transparent"}, openai.BadRequestError, "invalid_request"),
        ({"extra_body": {"partial_images": 1}}, openai.BadRequestError, "invalid_request"),
        ({"output_compression": 50}, openai.BadRequestError, "invalid_request"),
        ({"extra_body": {"colour": "red"}}, openai.BadRequestError, "invalid_request"),
        ({"extra_body": {"budget_usd": 0.0}}, openai.APIStatusError, "budget_too_small"),
    ],
)
def test_a_wrong_wish_is_refused_as_openai_would_and_draws_nothing(served: Served, wish, kind, code) -> None:
    with pytest.raises(kind) as refused:
        served.openai(max_retries=0).images.generate(**{"prompt": "a red circle"} | wish)
    assert refused.value.code == code
    assert refused.value.body["message"]
    assert batches(served.repository.engine, limit=10) == []


def test_a_key_makes_the_same_request_the_same_job(served: Served, shop) -> None:
    # Given a request with a key that was answered
    client = served.openai(max_retries=0)
    headers = {"Idempotency-Key": "poster-1"}
    first = client.images.generate(prompt="a red circle", extra_headers=headers)
    # When it is sent again, then it is the same picture and nothing was drawn
    again = client.images.generate(prompt="a red circle", extra_headers=headers)
    assert again.data[0].b64_json == first.data[0].b64_json
    assert shop.read("SELECT count(*) FROM job") == 1
    # And also where what it says is what is meant anyway
    same = client.images.generate(
        prompt="a red circle", model="routet2i", response_format="b64_json", n=1, extra_headers=headers
    )
    assert same.model_extra["routet2i"]["job_id"] == first.model_extra["routet2i"]["job_id"]
    # And with another body it is refused, at once
    for changed in (
        {"prompt": "a blue circle"},
        {"n": 2},
        {"response_format": "url"},
        {"model": "edge"},
        {"extra_body": {"budget_usd": 1.0}},
    ):
        with pytest.raises(openai.ConflictError) as refused:
            served.openai().images.generate(**{"prompt": "a red circle", "extra_headers": headers} | changed)
        assert refused.value.response.headers["x-should-retry"] == "false"
    assert shop.read("SELECT count(*) FROM job") == 1
    # But another client may use that key for its own
    served.openai("bob").images.generate(prompt="a blue circle", extra_headers=headers)
    assert shop.read("SELECT count(*) FROM job") == 2
    # And what no database should keep is no key
    for wrong in ("", "a b", "x" * 256):
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(prompt="a red circle", extra_headers={"Idempotency-Key": wrong})
        assert refused.value.code == "idempotency_key"


def test_what_cannot_be_drawn_is_an_error_that_is_not_repeated(served: Served, shop) -> None:
    served.fails = lambda prompt: "forbidden" in prompt
    with pytest.raises(openai.InternalServerError, match="no such thing") as refused:
        served.openai().images.generate(prompt="a forbidden circle")
    assert refused.value.code == "generation_failed"
    assert shop.read("SELECT count(*) FROM job") == 1


def test_without_money_it_says_so_and_nothing_is_left_waiting(served: Served, shop) -> None:
    # Given a client whose limit is used up
    served.repository.set_budget(
        BudgetPolicy(scope=Scope.CLIENT, name="ann", span="total", limit_micro_usd=0), who="t", reason=""
    )
    with pytest.raises(openai.RateLimitError) as refused:
        served.openai().images.generate(prompt="a red circle")
    assert refused.value.code == "insufficient_quota"
    assert shop.read("SELECT count(*) FROM job WHERE state = 'queued'") == 0
    assert shop.is_sound()


def test_a_repeated_request_is_not_told_what_a_window_said_before_it(served: Served, shop) -> None:
    # Given a request with a key that was refused for want of money
    limit = BudgetPolicy(scope=Scope.CLIENT, name="ann", span="total", limit_micro_usd=0)
    served.repository.set_budget(limit, who="t", reason="")
    client = served.openai(max_retries=0)
    wish = {"prompt": "a red circle", "extra_headers": {"Idempotency-Key": "poster-1"}}
    with pytest.raises(openai.RateLimitError):
        client.images.generate(**wish)
    # When it is repeated while there is still none, then a new window says so
    with pytest.raises(openai.RateLimitError):
        client.images.generate(**wish)
    # And when there is money, but no window is decided yet
    served.rest()
    served.repository.set_budget(replace(limit, limit_micro_usd=1_000_000), who="t", reason="")
    threading.Timer(1.0, served.works.set).start()
    # Then it waits for one and has its picture
    assert client.images.generate(**wish).data[0].b64_json
    assert shop.read("SELECT count(*) FROM job") == 1


def test_who_goes_away_takes_its_job_along(served: Served, shop) -> None:
    # Given nobody who draws, and a caller who waits
    served.rest()
    body = b'{"prompt": "a red circle"}'
    head = (
        "POST /v1/images/generations HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {served.key()}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port)) as caller:
        caller.sendall(head.encode() + body)
        until(lambda: shop.read("SELECT count(*) FROM job WHERE state = 'queued'") == 1)
        # When he gives up
    # Then his job is cancelled
    until(lambda: shop.read("SELECT count(*) FROM outcome WHERE state = 'cancelled'") == 1)


def test_many_wait_without_a_thread_each_and_others_are_served(served: Served) -> None:
    # Given sixty callers, more than the server has threads, and nobody who draws
    served.rest()
    client = served.openai(max_retries=0)
    found: list[str] = []

    def ask(number: int) -> None:
        client.images.generate(prompt=f"circle {number}")
        found.append(str(number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    until(lambda: len(batches(served.repository.engine, limit=100)) == 60)
    # Then somebody else is answered while all of them wait
    assert served.http("bob").get("/routet2i/v1/batches").status_code == 200
    assert found == []
    # And all get their picture when there is one
    served.works.set()
    for thread in threads:
        thread.join(90)
    assert len(found) == 60
