"""What hostile callers do to threads, sockets and queues; mostly without a socket."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
import uvicorn
from anyio import to_thread
from fastapi import FastAPI
from starlette.testclient import TestClient

from db import api_batches, outbox
from db.audit import batches
from db.keys import Role, digest
from scheduler.api import bodies, files, images, protocol
from scheduler.api.ours import events
from scheduler.api.ours.previews import Oracle
from scheduler.api.protocol import PatientProtocol
from scheduler.api.turns import MOST
from tests.integration.api import HERE, as_, repository_of
from tests.integration.served import Guess

IMAGE = {"prompt": "a red circle"}


def together(application: Callable[..., Any], work: Callable[[httpx2.AsyncClient], Awaitable[Any]]) -> Any:
    """Run work on an event loop with a client that needs no socket."""

    async def run() -> Any:
        transport = httpx2.ASGITransport(app=application)
        async with httpx2.AsyncClient(transport=transport, base_url=HERE, timeout=30) as client:
            return await work(client)

    return asyncio.run(run())


def test_slow_previews_leave_the_threads_to_others(application: FastAPI) -> None:
    # Given a predictor that takes its time
    gate = threading.Event()

    def opening() -> Any:
        gate.wait(90)
        return Guess

    application.state.oracle = Oracle(opening)

    async def work(client: httpx2.AsyncClient) -> list[int]:
        # When sixty previews are asked for at once
        asked = [
            asyncio.create_task(
                client.post("/routet2i/v1/previews", json={"lines": [IMAGE]}, headers=as_("ann"))
            )
            for _ in range(60)
        ]
        while sum(one.done() for one in asked) < 60 - MOST:
            await asyncio.sleep(0.02)
        # Then everybody else is answered meanwhile
        for path in ("/healthz", "/readyz", "/v1/models"):
            assert (await client.get(path, headers=as_("bob"))).status_code == 200
        assert sum(one.done() for one in asked) == 60 - MOST
        gate.set()
        return [one.status_code for one in await asyncio.gather(*asked)]

    statuses = together(application, work)
    assert (statuses.count(201), statuses.count(503)) == (MOST, 60 - MOST)


def test_the_probe_of_life_needs_no_thread(application: FastAPI) -> None:
    # Given a process all of whose threads are busy
    gate, busy = threading.Event(), list[int]()

    @application.get("/slow")
    def slow() -> None:
        busy.append(1)
        gate.wait(90)

    async def work(client: httpx2.AsyncClient) -> None:
        asked = [asyncio.create_task(client.get("/slow")) for _ in range(80)]
        while len(busy) < to_thread.current_default_thread_limiter().total_tokens:
            await asyncio.sleep(0.02)
        # When somebody asks whether it lives, then it says so
        assert (await asyncio.wait_for(client.get("/healthz"), 60)).json() == {"status": "ok"}
        assert not any(one.done() for one in asked)
        gate.set()
        await asyncio.gather(*asked)

    together(application, work)


def test_many_who_wait_for_pictures_hold_up_nobody(
    application: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = repository_of(application)

    async def work(client: httpx2.AsyncClient) -> list[int]:
        # Given more requests of one key than may wait, and nobody who draws
        asked = [
            asyncio.create_task(client.post("/v1/images/generations", json=IMAGE, headers=as_("ann")))
            for _ in range(images.MOST_AT_ONCE + 6)
        ]
        while sum(application.state.crowd.values()) < images.MOST_AT_ONCE:
            await asyncio.sleep(0.01)
        # When somebody else asks, then he is answered
        assert (await asyncio.wait_for(client.get("/healthz"), 60)).status_code == 200
        assert (await asyncio.wait_for(client.get("/v1/files", headers=as_("bob")), 60)).status_code == 200
        # And the rest is refused meanwhile
        while sum(one.done() for one in asked) < 6:
            await asyncio.sleep(0.01)
        while len(waiting := batches(repository.engine, limit=100)) < images.MOST_AT_ONCE:
            await asyncio.sleep(0.01)
        # When all their jobs end, nobody waits for ever
        for one in waiting:
            repository.cancel_batch(one.batch_id)
        return [one.status_code for one in await asyncio.gather(*asked)]

    statuses = together(application, work)
    assert (statuses.count(409), statuses.count(429)) == (images.MOST_AT_ONCE, 6)
    assert application.state.crowd == {}
    # And who waits longer than may be is told so, and not counted for ever either
    monkeypatch.setattr(images, "WAIT_SECONDS", 0.1)

    async def late(client: httpx2.AsyncClient) -> int:
        return (await client.post("/v1/images/generations", json=IMAGE, headers=as_("ann"))).status_code

    assert together(application, late) == 504
    assert application.state.crowd == {}


def test_a_listener_whose_key_is_revoked_hears_no_more(
    application: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a batch that nobody draws, and its client's listener
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.02)
    repository = repository_of(application)
    secret_id = repository.add_key("lost", client="ann", role=Role.SUBMITTER, name="")
    opened = repository.open_batch(
        client="ann", idem_key="k", body_sha256="b", name="n", budget_micro_usd=None
    )

    async def work(client: httpx2.AsyncClient) -> httpx2.Response:
        path = f"/routet2i/v1/batches/{opened.batch_id}/events"
        listening = asyncio.create_task(client.get(path, headers=as_("lost")))
        while b'"state":"ingesting"' not in b"".join(heard):
            await asyncio.sleep(0.01)
        # When the key is revoked, and then something happens
        repository.revoke_key(secret_id)
        repository.cancel_batch(opened.batch_id)
        return await asyncio.wait_for(listening, 60)

    heard: list[bytes] = []

    async def overheard(scope: Any, receive: Any, send: Any) -> None:
        async def tell(message: Any) -> None:
            heard.append(message.get("body", b""))
            await send(message)

        await application(scope, receive, tell)

    answer = together(overheard, work)
    # Then it is not told
    assert '"state":"cancelled"' not in answer.text
    assert not application.state.feed.listeners


def test_one_key_does_not_take_all_places_of_listeners(
    application: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a key that listens as often as it may
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.02)
    repository = repository_of(application)
    opened = {
        client: repository.open_batch(
            client=client, idem_key="k", body_sha256="b", name="n", budget_micro_usd=None
        ).batch_id
        for client in ("ann", "bob")
    }

    async def work(client: httpx2.AsyncClient) -> None:
        def listen(key: str) -> "asyncio.Task[httpx2.Response]":
            path = f"/routet2i/v1/batches/{opened[key]}/events"
            return asyncio.create_task(client.get(path, headers=as_(key)))

        tasks = [listen("ann") for _ in range(events.MOST_OF_A_KEY)]
        while application.state.feed.listeners.total() < events.MOST_OF_A_KEY:
            await asyncio.sleep(0.01)
        # When it wants another place, then it is refused, and another client has his
        refused = await listen("ann")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_listeners")
        tasks.append(listen("bob"))
        while not application.state.feed.listeners.total() > events.MOST_OF_A_KEY:
            await asyncio.sleep(0.01)
        for batch_id in opened.values():
            repository.cancel_batch(batch_id)
            repository.close_intake(batch_id)
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    together(application, work)


def test_uploads_of_one_key_at_once_have_an_end(application: FastAPI) -> None:
    # Given as many uploads of a key as may be under way
    found = repository_of(application).find_key(digest("ann"))
    assert found is not None
    application.state.uploads[found.id] = files.MOST_AT_ONCE
    form = {"files": {"file": ("x.jsonl", b"{}")}, "data": {"purpose": "batch"}}
    with TestClient(application) as client:
        # Then the next is refused, another client's is not, and what ended is forgotten
        assert client.post("/v1/files", headers=as_("ann"), **form).status_code == 429
        assert client.post("/v1/files", headers=as_("bob"), **form).status_code == 200
        assert list(application.state.uploads) == [found.id]


def test_orders_that_nobody_has_read_have_an_end(
    application: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a client with as many unread orders as may be
    monkeypatch.setattr(api_batches, "MOST_UNREAD", 3)
    client = TestClient(application)  # its clerk does not work
    form = {"files": {"file": ("x.jsonl", b"{}")}, "data": {"purpose": "batch"}}

    def order(who: str, key: str) -> httpx2.Response:
        file = client.post("/v1/files", headers=as_(who), **form).json()["id"]
        return client.post(
            "/v1/batches",
            headers={**as_(who), "Idempotency-Key": key},
            json={"input_file_id": file, "endpoint": "/v1/images/generations", "completion_window": "1h"},
        )

    made = [order("ann", str(number)).json()["id"] for number in range(3)]
    # When it orders one more, then it is told to wait; the same again and another client's are taken
    assert order("ann", "more").status_code == 429
    assert order("ann", "1").json()["id"] == made[1]
    assert order("bob", "1").status_code == 200


def test_tests_of_a_webhook_flood_nobody(application: FastAPI) -> None:
    # Given a webhook at an address that is perhaps a victim's
    client = TestClient(application)
    path = "/routet2i/v1/webhooks"
    made = client.post(path, headers=as_("ann"), json={"url": "https://hooks.example/x"}).json()["id"]
    # When it is tested again and again
    statuses = [
        client.post(f"{path}/{made}/test", headers=as_("ann")).status_code
        for _ in range(outbox.MOST_TESTS + 5)
    ]
    # Then few are sent
    assert statuses == [202] * outbox.MOST_TESTS + [400] * 5


def test_a_body_that_does_not_come_is_not_waited_for(
    application: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "PIECE_SECONDS", 0.05)
    monkeypatch.setattr(bodies, "WHOLE_SECONDS", 0.3)
    multipart = b"multipart/form-data; boundary=x"

    async def asked(path: str, kind: bytes, pieces: float) -> tuple[int, float]:
        """Send a piece of a body every so many seconds; 0 = none."""
        said: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(pieces or 60)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Any) -> None:
            said.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "server": ("api.test", 80), "client": ("203.0.113.7", 1), "state": {},
            "headers": [(b"host", b"api.test"), (b"authorization", b"Bearer ann"), (b"content-type", kind)],
        }  # fmt: skip
        began = time.monotonic()
        await asyncio.wait_for(application(scope, receive, send), 55)
        return said[0]["status"], time.monotonic() - began

    # Given a body that stops, and one that drips
    for path, kind, pieces in (
        ("/v1/batches", b"application/json", 0.0),
        ("/v1/batches", b"application/json", 0.02),
        ("/login", b"application/x-www-form-urlencoded", 0.0),
        ("/v1/files", multipart, 0.0),
    ):
        # When it is read, then that has an end
        status, took = asyncio.run(asked(path, kind, pieces))
        assert (path, status) == (path, 408)
        assert took < 10


def test_who_dawdles_with_a_head_is_hung_up_on(application: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a server on a socket, with little patience
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)

    @application.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(1.2)
        return "done"

    config = uvicorn.Config(
        application, port=0, log_config=None, access_log=False, lifespan="off", http=PatientProtocol,
        timeout_keep_alive=60,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        def talk(*parts: bytes) -> tuple[bytes, float]:
            with socket.create_connection(("127.0.0.1", port), timeout=90) as one:
                began, got = time.monotonic(), b""
                for part in parts:
                    one.sendall(part)
                    time.sleep(0.1)
                while piece := one.recv(65_536):
                    got += piece
                return got, time.monotonic() - began

        # When nothing comes, or half a head, or half a head behind a good request
        good = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        for parts in ((), (b"GET / HT",), (b"GET / HTTP/1.1\r\n", b"X: 1\r\n"), (good, b"GET /")):
            got, took = talk(*parts)
            # Then the connection ends long before an idle one would
            assert took < 20
            assert got.count(b"200 OK") == (parts[:1] == (good,))
        # And a request whose answer takes longer than that is answered, and so is the next on its connection
        config.timeout_keep_alive = 5
        got, _ = talk(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", good)
        assert got.count(b"200 OK") == 2
    finally:
        server.should_exit = True
        thread.join()
