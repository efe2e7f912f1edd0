"""The outbox on the real database: marked, committed, then published; the sweeper gets what fails."""

import socket

import pytest
from pydantic import SecretStr

from routet2i.celery_app import make_celery
from routet2i.contracts import SentMicrobatch
from routet2i.errors import ServiceUnavailable
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler.dispatch import make_publisher, send_ready
from scheduler.predictor.interface import Random
from scheduler.service import run_window
from scheduler.submit import submit_file

TIERS = read_tiers(packaged("pocket"))
SETTINGS = Settings(microbatch_jobs=1)


class FakeQueue:
    """Takes messages until it is full, then fails as a dead broker does."""

    def __init__(self, *, room=1_000_000):
        self.messages = []
        self.room = room

    def __call__(self, microbatch, profile):
        if len(self.messages) >= self.room:
            raise ServiceUnavailable("connection refused")
        self.messages.append((profile.queue, microbatch.microbatch_id))


@pytest.fixture
def ready(repository, tmp_path):
    """A repository with twenty microbatches that are ready, on both tiers."""
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"prompt {i}\n" for i in range(20)))
    submit_file(repository, path, tiers=TIERS, settings=SETTINGS, budget_micro_usd=None)
    run_window(repository, Random(), tiers=TIERS, settings=SETTINGS, term=None)
    return repository


def send(repository, queue, *, live, sent_per_slot=2):
    return send_ready(repository, publish=queue, tiers=TIERS, sent_per_slot=sent_per_slot, live=live)


def queues(queue):
    return [name for name, _ in queue.messages]


def test_a_few_messages_per_live_worker_are_in_flight(ready):
    queue = FakeQueue()
    assert send(ready, queue, live={"edge": 2, "cloud": 1}) == 6
    assert (queues(queue).count("edge"), queues(queue).count("cloud")) == (4, 2)
    # When nobody claims anything, nothing more is sent
    assert send(ready, queue, live={"edge": 2, "cloud": 1}) == 0


def test_a_tier_without_workers_has_one_slot_for_the_first_to_come(ready):
    queue = FakeQueue()
    assert send(ready, queue, live={}) == 4
    assert set(queues(queue)) == {"edge", "cloud"}


def test_a_claim_makes_room_for_the_next_message(ready):
    queue = FakeQueue()
    send(ready, queue, live={})
    name, microbatch_id = queue.messages[0]
    assert ready.claim(microbatch_id, tier=name, worker="w", lease_seconds=30) is not None
    assert send(ready, queue, live={}) == 1


def test_a_message_is_published_after_its_commit(ready):
    # Given a worker that claims as soon as it hears of a microbatch
    claimed = []

    def publish(microbatch, profile):
        claimed.append(ready.claim(microbatch.microbatch_id, tier=profile.name, worker="w", lease_seconds=30))

    assert send(ready, publish, live={}) == 4
    assert None not in claimed


def test_the_round_stops_at_the_first_message_that_fails_and_the_sweeper_brings_them_back(ready):
    # Given a broker that dies after one message
    queue = FakeQueue(room=1)
    assert send(ready, queue, live={}) == 1
    # When it is back, the unsent ones count as in flight
    queue.room = 1_000
    assert send(ready, queue, live={}) == 0
    # Until they have been silent for too long
    report = ready.sweep(resend_seconds=0.0, max_deaths=4, heartbeat_seconds=5.0)
    assert report.resent == 4
    assert send(ready, queue, live={}) == 4


def test_a_message_is_waited_for_longer_each_time_but_not_beside_an_idle_worker(ready, shop):
    # Given a message of the edge tier that was sent three times, the last time a minute and a half ago
    send(ready, FakeQueue(), live={})
    shop.change("UPDATE microbatch SET deliveries = 3, sent_at_ms = sent_at_ms - 90000")
    options = {"resend_seconds": 30.0, "max_deaths": 4, "heartbeat_seconds": 5.0}
    # When the tier has no idle worker, then it may still wait in the queue: four pauses are two minutes
    ready.beat(worker="a", tier="edge", device="cpu", version="1", state="busy")
    assert ready.sweep(**options).resent == 0
    # When one of them is idle, then the queue is empty, and what was sent is lost
    ready.beat(worker="b", tier="edge", device="cpu", version="1", state="idle")
    edge = shop.read("SELECT count(*) FROM microbatch WHERE state = 'sent' AND tier = 'edge'")
    assert 0 < edge < 4
    assert ready.sweep(**options).resent == edge


def test_a_message_that_a_later_one_has_overtaken_is_not_waited_for(ready, shop):
    # Given two messages of a tier, whose workers are all busy; one was sent ten seconds before the other
    queue = FakeQueue()
    send(ready, queue, live={}, sent_per_slot=2)
    lost, drawn = (one for name, one in queue.messages if name == "edge")
    shop.change("UPDATE microbatch SET deliveries = 9, sent_at_ms = sent_at_ms - 60000")
    shop.change(f"UPDATE microbatch SET sent_at_ms = sent_at_ms - 10000 WHERE id = '{lost}'")
    assert ready.claim(drawn, tier="edge", worker="a", lease_seconds=30) is not None
    options = {"max_deaths": 4, "heartbeat_seconds": 5.0}
    # When the later one is being drawn, then within a pause their order says nothing
    assert ready.sweep(resend_seconds=30.0, **options).resent == 0
    # And beyond it the first one is lost, however long the queue is
    assert ready.sweep(resend_seconds=5.0, **options).resent == 1
    assert shop.read("SELECT id FROM microbatch WHERE state = 'ready' AND sent_at_ms > 0") == lost


def test_old_work_is_what_was_sent_and_nobody_took_for_long(ready, shop):
    # Given microbatches that wait for a minute, of which none was sent: their scheduler is away
    shop.change("UPDATE microbatch SET created_ms = created_ms - 60000")
    assert not ready.has_old_work(tier="edge", seconds=30)
    # When one is sent, then an idle worker of its tier has not heard of it, unless it was given back just now
    queue = FakeQueue()
    send(ready, queue, live={}, sent_per_slot=1)
    assert ready.has_old_work(tier="edge", seconds=30)
    assert not ready.has_old_work(tier="edge", seconds=90)
    (edge,) = (one for name, one in queue.messages if name == "edge")
    claim = ready.claim(edge, tier="edge", worker="a", lease_seconds=30)
    assert not ready.has_old_work(tier="edge", seconds=30)
    ready.release(claim, reason="drain")
    send(ready, queue, live={}, sent_per_slot=1)
    assert not ready.has_old_work(tier="edge", seconds=30)
    assert ready.has_old_work(tier="edge", seconds=-1)


def test_any_other_error_of_a_publisher_is_not_hidden(ready):
    def broken(microbatch, profile):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        send(ready, broken, live={})


def test_a_publisher_without_a_broker_is_refused():
    with pytest.raises(ServiceUnavailable, match="ROUTET2I_BROKER_URL"):
        make_publisher(Settings())


def test_a_message_names_the_microbatch_and_nothing_else():
    # Given a broker in memory
    settings = Settings(broker_url=SecretStr("memory://"))
    # When a microbatch of the cloud tier is published
    make_publisher(settings)(SentMicrobatch(microbatch_id="m-1", tier="cloud"), TIERS["cloud"])
    # Then its message is in the tier's queue, under the task's name
    with make_celery(settings, profile=TIERS["cloud"]).connection() as connection:
        queue = connection.SimpleQueue("cloud")
        message = queue.get(timeout=5)
        message.ack()
        queue.close()
    arguments, keywords, _ = message.payload
    assert (arguments, keywords) == ([], {"v": 1, "microbatch_id": "m-1"})
    assert message.headers["task"] == "routet2i.cloud.generate"
    # And people read what it is
    assert message.headers["shadow"] == "cloud.draw"
    assert message.headers["kwargsrepr"] == "microbatch m-1"


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_broker_that_refuses_connections_is_service_unavailable(ready):
    # Given a port where nobody listens
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    publish = make_publisher(Settings(broker_url=SecretStr(f"redis://:hunter2@127.0.0.1:{port}/0")))
    (sent, *_) = ready.mark_sent(limits={"edge": 1})
    # When a message is published there, the password is not in the error
    with pytest.raises(ServiceUnavailable, match="the broker does not take messages") as refused:
        publish(sent, TIERS["edge"])
    assert "hunter2" not in str(refused.value)
