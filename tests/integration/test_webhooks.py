"""Webhooks on both databases: who is told, once, by whom, and what happens when the receiver misbehaves."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from db import endings, outbox
from db.session import write
from routet2i.contracts import BatchEvent
from routet2i.errors import NotFound, UsageError
from scheduler.webhooks.herald import Herald, send
from scheduler.webhooks.posting import post

SECRET = "whsec_" + "a2V5" * 11
OURS = ("127.0.0.1",)


class Receiver:
    """An HTTP server that keeps what it gets and answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], str]] = []
        self.answers: list[int] = []  # one per request; then 200
        self.hold = threading.Event()  # unset: answers wait
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                answer = outer.answers.pop(0) if outer.answers else 200
                outer.hold.wait(50)
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def hook(repository, receiver) -> Callable[..., str]:
    """Add a webhook to the receiver."""

    def add(**changes: Any) -> str:
        given = {"client": "default", "url": receiver.url, "secret": SECRET, "events": list(BatchEvent)}
        return repository.add_webhook(**{**given, **changes})

    return add


def look(repository) -> int:
    """Notice and tell now, however soon after the last look."""
    repository.notice_batches(since_ms=None)
    with_now = "UPDATE webhook_watch SET look_ms = 0 WHERE look_ms IS NOT NULL"
    write(repository.engine, lambda c: c.exec_driver_sql(with_now))
    return repository.tell_endings()


def deliver(repository) -> list[str]:
    """Send what is due; return what became of each."""
    states = []
    while (delivery := repository.claim_delivery()) is not None:
        states.append(send(repository, delivery, private_hosts=OURS))
    return states


def finish(shop, batch_jobs: int = 2, *, fails: bool = False, **submit: Any) -> str:
    batch = shop.submit(batch_jobs, **submit)
    shop.window()
    claim = shop.poll()
    assert shop.repository.record(claim, [shop.outcome(job, fails=fails) for job in claim.jobs])
    assert shop.repository.finish(claim)
    return batch


def until(condition: Callable[[], bool], *, seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---------------------------------------------------------------- who is told of what


def test_a_batch_that_ends_is_told_once_and_not_before(shop, repository, hook, receiver):
    # Given a webhook, and a batch that is queued, then assigned, then running
    hook()
    batch = shop.submit(2, budget=1_000)
    assert look(repository) == 0
    shop.window()
    assert look(repository) == 0
    claim = shop.poll()
    assert look(repository) == 0
    assert repository.record(claim, shop.outcomes(claim))
    assert repository.finish(claim)
    # When it has ended, then it is told, once
    assert look(repository) == 1
    assert look(repository) == 0
    assert deliver(repository) == ["delivered"]
    assert deliver(repository) == []
    # And the body says how it went
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert (told["type"], told["object"], told["id"]) == ("batch.completed", "event", headers["webhook-id"])
    assert told["data"]["id"] == told["data"]["routet2i"]["batch_id"] == batch
    assert told["data"]["routet2i"]["jobs"] == {
        "accepted": 2, "rejected": 0, "succeeded": 2, "failed": 0, "cancelled": 0,
    }  # fmt: skip
    assert told["data"]["routet2i"]["spent_usd"] == pytest.approx(130e-6)


def test_the_name_of_an_end_is_what_became_of_the_jobs(shop, repository, hook):
    hook()
    finish(shop, fails=True)
    finish(shop)
    cancelled = shop.submit(2)
    repository.cancel_batch(cancelled)
    assert look(repository) == 3
    found = sorted(one.event for one in repository.deliveries())
    assert found == ["batch.cancelled", "batch.completed", "batch.failed"]


def test_a_cancelled_batch_is_told_of_when_its_last_worker_is_done(shop, repository, hook):
    hook()
    batch = shop.submit(2)
    shop.window()
    claim = shop.poll()
    repository.cancel_batch(batch)
    assert look(repository) == 0
    assert repository.finish(claim)
    assert look(repository) == 1


def test_only_what_was_asked_for_is_told(shop, repository, hook):
    # Given a batch of before, webhooks of another client and for failures only
    before = finish(shop)
    time.sleep(0.005)
    mine = hook(events=[BatchEvent.FAILED])
    hook(client="bob")
    finish(shop)
    assert look(repository) == 0
    # When one fails and bob's ends
    finish(shop, fails=True)
    finish(shop, client="bob")
    # Then each hears of its own
    assert look(repository) == 2
    assert {(one.event, one.webhook_id == mine) for one in repository.deliveries()} == {
        ("batch.failed", True),
        ("batch.completed", False),
    }
    # And a webhook for one batch hears of it though it has ended
    late = hook(batch_id=before)
    assert look(repository) == 1
    assert [one.subject for one in repository.deliveries(webhook_id=late)] == [before]


def test_a_webhook_for_one_batch_hears_of_no_other_and_tells_nobody_twice(shop, repository, hook):
    hook()
    batch = finish(shop)
    assert look(repository) == 1
    hook(batch_id=batch)
    finish(shop)
    assert look(repository) == 2  # the new webhook's batch, and the new batch to the old webhook
    with pytest.raises(NotFound):
        hook(batch_id=batch, client="bob")
    with pytest.raises(NotFound):
        hook(batch_id="no such")


def test_a_client_has_no_more_than_twenty(repository, hook):
    for _ in range(20):
        last = hook()
    with pytest.raises(UsageError, match="at most 20"):
        hook()
    assert repository.remove_webhook(last)
    assert not repository.remove_webhook(last)
    hook()


def test_shadows_are_nobodys_news(shop, repository, hook):
    hook(client="shadow")
    finish(shop, client="shadow")
    assert look(repository) == 0


def test_two_heralds_tell_once(shop, repository, hook):
    hook()
    finish(shop)
    repository.notice_batches(since_ms=None)
    batch = shop.read("SELECT batch_id FROM webhook_watch")
    first = write(shop.engine, lambda c: endings.look(c, batch))
    again = write(shop.engine, lambda c: endings.look(c, batch))
    assert (first, again) == (1, None)


def test_a_long_batch_is_looked_at_seldom(shop, repository, hook):
    hook()
    batch = shop.submit(1)
    shop.change("UPDATE batch SET n_accepted = 1000000 WHERE id = :id", id=batch)
    assert look(repository) == 0
    pause = shop.read("SELECT look_ms FROM webhook_watch") - shop.read("SELECT created_ms FROM batch")
    assert 45_000 < pause < 70_000
    assert repository.tell_endings() == 0


# ---------------------------------------------------------------- signatures


def test_openais_client_accepts_our_signature_and_no_other(shop, repository, hook, receiver):
    # Given what a receiver got
    hook()
    finish(shop)
    look(repository)
    deliver(repository)
    ((headers, body),) = receiver.got
    with OpenAI(api_key="none", webhook_secret=SECRET) as client:
        # Then the official client reads it
        event = client.webhooks.unwrap(body, headers)
        assert event.type == "batch.completed"
        assert event.data.id == json.loads(body)["data"]["id"]
        # And refuses what was changed, signed with another secret, or is old
        changes = (
            (body.replace("completed", "failed"), headers, SECRET),
            (body, headers, "whsec_" + "b3RoZXI=" * 6),
            (body, {**headers, "webhook-id": "other"}, SECRET),
            (body, {**headers, "webhook-timestamp": "1700000000"}, SECRET),
        )
        for text, said, secret in changes:
            with pytest.raises(InvalidWebhookSignatureError):
                client.webhooks.unwrap(text, said, secret=secret)


# ---------------------------------------------------------------- tries


def test_a_receiver_that_fails_is_tried_again_later_and_later_under_the_same_id(
    shop, repository, hook, receiver
):
    # Given a receiver with two bad moments
    hook()
    finish(shop)
    look(repository)
    receiver.answers = [500, 302]
    # When tries are made as they become due
    assert deliver(repository) == ["pending"]
    assert deliver(repository) == []  # not due yet
    first = shop.read("SELECT next_ms FROM webhook_delivery")
    shop.change("UPDATE webhook_delivery SET next_ms = 0")
    assert deliver(repository) == ["pending"]
    second = shop.read("SELECT next_ms FROM webhook_delivery")
    assert second > first
    shop.change("UPDATE webhook_delivery SET next_ms = 0")
    assert deliver(repository) == ["delivered"]
    # Then the log has all three, and the receiver saw one id and one body
    (row,) = repository.deliveries()
    assert [(one.number, one.status) for one in row.tries] == [(1, 500), (2, 302), (3, 200)]
    assert row.tries[0].error == "the receiver answered 500"
    assert row.tries[2].error is None
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_pauses_grow_are_spread_and_end(shop, repository, hook, chance):
    # Given a receiver that is gone
    hook()
    finish(shop)
    look(repository)
    for pause in outbox.PAUSES_SECONDS:
        delivery = repository.claim_delivery()
        before = shop.read("SELECT claimed_until_ms FROM webhook_delivery") - outbox.CLAIM_SECONDS * 1000
        state = repository.conclude_delivery(
            delivery, status=None, error="gone", milliseconds=1, chance=chance
        )
        assert state == "pending"
        waits = (shop.read("SELECT next_ms FROM webhook_delivery") - before) / 1000
        assert pause * (0.5 + chance) == pytest.approx(waits, abs=2)
        shop.change("UPDATE webhook_delivery SET next_ms = 0")
    # When the last try fails, then nobody tries again
    delivery = repository.claim_delivery()
    assert (
        repository.conclude_delivery(delivery, status=None, error="gone", milliseconds=1, chance=chance)
        == "given_up"
    )
    assert repository.claim_delivery() is None
    (row,) = repository.deliveries()
    assert (row.state, row.next_ms, len(row.tries)) == ("given_up", None, len(outbox.PAUSES_SECONDS) + 1)


def test_of_two_senders_one_sends(shop, repository, hook):
    hook()
    finish(shop)
    look(repository)
    assert repository.claim_delivery() is not None
    assert repository.claim_delivery() is None


def test_of_many_senders_at_once_one_serves_a_webhook(shop, repository, hook):
    # Given many deliveries of one webhook
    webhook = hook()
    for _ in range(8):
        repository.test_webhook(webhook)
    # When eight senders come at the same moment
    with ThreadPoolExecutor(8) as crowd:
        claimed = list(crowd.map(lambda _: repository.claim_delivery(), range(8)))
    # Then one of them has work
    assert sum(one is not None for one in claimed) == 1


def test_a_sender_that_died_is_followed_by_another_and_its_late_word_does_not_count(shop, repository, hook):
    # Given a claim whose sender fell silent
    hook()
    finish(shop)
    look(repository)
    dead = repository.claim_delivery()
    shop.change("UPDATE webhook_delivery SET claimed_until_ms = 1")
    # When another sender delivers
    other = repository.claim_delivery()
    assert (other.id, other.number) == (dead.id, 2)
    assert (
        repository.conclude_delivery(other, status=200, error=None, milliseconds=1, chance=0) == "delivered"
    )
    # Then the first one's word is logged and changes nothing
    late = repository.conclude_delivery(dead, status=None, error="gone", milliseconds=1, chance=0)
    assert late == "late"
    (row,) = repository.deliveries()
    assert (row.state, [one.number for one in row.tries]) == ("delivered", [1, 2])


def test_a_removed_webhook_gets_nothing_more_and_its_secret_is_forgotten(shop, repository, hook, receiver):
    webhook = hook()
    finish(shop)
    look(repository)
    claimed = repository.claim_delivery()
    assert repository.remove_webhook(webhook)
    assert repository.conclude_delivery(claimed, status=200, error=None, milliseconds=1, chance=0) == "late"
    assert deliver(repository) == []
    assert receiver.got == []
    assert [one.state for one in repository.deliveries()] == ["dropped"]
    assert shop.read("SELECT count(*) FROM webhook_secret") == 0
    with pytest.raises(NotFound):
        repository.test_webhook(webhook)


def test_what_is_written_for_a_webhook_that_was_removed_meanwhile_is_dropped(shop, repository, hook):
    webhook = hook()
    delivery = repository.test_webhook(webhook)
    repository.remove_webhook(webhook)
    shop.change("UPDATE webhook_delivery SET state = 'pending' WHERE id = :id", id=delivery)
    assert repository.claim_delivery() is None
    assert [one.state for one in repository.deliveries()] == ["dropped"]
    assert repository.claim_delivery() is None


def test_a_slow_receiver_holds_up_nobody_but_itself(shop, repository, hook, receiver):
    # Given a receiver that does not answer, with two deliveries, and one that does
    slow = hook()
    finish(shop)
    finish(shop)
    quick = Receiver()
    hook(url=quick.url, client="bob")
    finish(shop, client="bob")
    look(repository)
    receiver.hold.clear()
    herald = Herald(repository, private_hosts=OURS, post=partial(post, whole_seconds=60))
    # When a herald runs
    herald.start()
    try:
        until(lambda: len(quick.got) == 1)
        until(lambda: len(receiver.got) == 1)
        # Then the slow one has one request, and no second sender
        time.sleep(0.3)
        assert len(receiver.got) == 1
        receiver.hold.set()
        until(lambda: len(receiver.got) == 2)
        until(
            lambda: (
                [one.state for one in repository.deliveries(webhook_id=slow)] == ["delivered", "delivered"]
            )
        )
    finally:
        herald.stop()
        quick.close()
        for thread in herald._threads:
            thread.join(10)


def test_a_herald_notices_ends_by_itself(shop, repository, hook, receiver):
    hook()
    herald = Herald(repository, private_hosts=OURS)
    herald.start()
    try:
        batch = finish(shop)
        until(lambda: len(receiver.got) == 1)
        assert json.loads(receiver.got[0][1])["data"]["id"] == batch
    finally:
        herald.stop()
        for thread in herald._threads:
            thread.join(10)


def test_an_inner_address_is_refused_at_each_try_and_logged(shop, repository, hook):
    # Given a webhook whose host was ours when it was added, and is not any more
    hook()
    finish(shop)
    look(repository)
    delivery = repository.claim_delivery()
    assert send(repository, delivery, private_hosts=()) == "pending"
    (row,) = repository.deliveries()
    assert "without TLS" in row.tries[0].error


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
def test_a_host_that_is_no_name_is_given_up_like_any_other(shop, repository, hook, host):
    # Given a webhook of a host that no look-up takes, from before such hosts were refused
    hook(url=f"https://{host}/")
    finish(shop)
    look(repository)
    # When it was tried as often as any other
    states = []
    while (delivery := repository.claim_delivery()) is not None:
        states.append(send(repository, delivery, private_hosts=OURS))
        shop.change("UPDATE webhook_delivery SET next_ms = 0 WHERE state = 'pending'")
    # Then it is given up, and each try is logged
    assert states == ["pending"] * len(outbox.PAUSES_SECONDS) + ["given_up"]
    (row,) = repository.deliveries()
    assert all("1 to 63 characters" in one.error for one in row.tries)


@pytest.mark.parametrize("broken", [ValueError("what\x00\ud800?"), RuntimeError("no thread")])
def test_whatever_goes_wrong_in_a_try_concludes_it(shop, repository, hook, broken):
    # Given a delivery whose sending fails in a way that nobody has thought of
    hook()
    finish(shop)
    look(repository)

    def fails(*_: Any, **__: Any) -> int:
        raise broken

    # When it is tried, then the try is logged and the next one comes after a pause
    assert send(repository, repository.claim_delivery(), private_hosts=OURS, post=fails) == "pending"
    (row,) = repository.deliveries()
    assert row.tries[0].error.startswith(type(broken).__name__)
    assert repository.claim_delivery() is None


def test_noise_instead_of_an_answer_is_logged_on_every_database(shop, repository, hook):
    # Given a receiver that answers with NUL, which PostgreSQL keeps in no text
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            one, _ = server.accept()
            with one:
                one.recv(65_536)
                one.sendall(b"\x00\xff\x00 what?\r\n\r\n")

        threading.Thread(target=talk, daemon=True).start()
        hook(url=f"http://127.0.0.1:{server.getsockname()[1]}/")
        finish(shop)
        look(repository)
        # When it is tried, then the log shows what can be shown
        assert deliver(repository) == ["pending"]
    (row,) = repository.deliveries()
    assert row.tries[0].error.endswith("BadStatusLine: ?ÿ? what???")


def test_an_end_that_cannot_be_told_keeps_no_other_waiting(shop, repository, hook, monkeypatch):
    # Given a batch whose webhook's row is damaged, and ends after it, more than are looked at at a time
    monkeypatch.setattr(endings, "LOOKED_AT", 1)
    damaged = hook(client="ann")
    hook()
    first = finish(shop, client="ann")
    assert repository.notice_batches(since_ms=None) == 1
    second = finish(shop)
    assert repository.notice_batches(since_ms=None) == 1
    shop.change("UPDATE webhook SET events = '[' WHERE id = :id", id=damaged)
    shop.change("UPDATE webhook_watch SET look_ms = 1 WHERE batch_id = :id", id=first)
    shop.change("UPDATE webhook_watch SET look_ms = 2 WHERE batch_id = :id", id=second)
    # When they are looked at, then that one is put off and the others are told
    assert repository.tell_endings() == 0
    assert repository.tell_endings() == 1
    assert [one.subject for one in repository.deliveries()] == [second]
    # And when the row is mended, it is told too
    shop.change("UPDATE webhook SET events = '[\"batch.completed\"]' WHERE id = :id", id=damaged)
    assert look(repository) == 1
    assert {one.subject for one in repository.deliveries()} == {first, second}
