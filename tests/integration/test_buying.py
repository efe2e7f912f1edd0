"""Microbatches of a paid tier, bought from a provider that misbehaves, on both databases."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from db.session import reading
from routet2i import buying
from routet2i.buying import Buyer
from routet2i.errors import ProviderFault, RouteT2IError, StoreFull
from routet2i.execution import Outcome, run_microbatch
from routet2i.fakes import FakePictures, FakeScorer
from routet2i.provider import Provider
from routet2i.tiers import TierProfile, read_tiers
from tests.provider.bill import unmatched
from tests.provider.server import FakeProvider
from tests.unit.test_provider import TIERS

PRICE = 65_000


class World:
    """A batch on a paid tier, its provider, and workers that serve it."""

    def __init__(self, shop: Any, folder: Path, running: ExitStack) -> None:
        self.shop, self.folder, self._running = shop, folder, running
        self.pictures = FakePictures()

    def open(
        self,
        *,
        jobs: int = 2,
        pictures: int = 1,
        budget: int | None = 100 * PRICE,
        idempotent: bool = False,
        timeout: float = 2.0,
        size: int = 16,
        **provider: Any,
    ) -> FakeProvider:
        """Start a provider and submit a batch whose jobs all go to the paid tier."""
        self.server = self._running.enter_context(
            FakeProvider(bill=self.folder / "bill.jsonl", hang_seconds=5, honours_keys=idempotent, **provider)
        )
        file = self.folder / "tiers.toml"
        file.write_text(
            TIERS.format(url=self.server.url, idempotent=str(idempotent).lower(), timeout=timeout, more="")
        )
        self.profile = read_tiers(file)["cloud"]
        self.batch = self.shop.submit(jobs, budget=budget, pictures=pictures)
        self.shop.window(price=PRICE, size=size)
        return self.server

    def buyer(self, profile: TierProfile | None = None) -> Buyer:
        profile = profile or self.profile
        return Buyer(profile, provider=Provider(profile, key=SecretStr("sk-fake")))

    def run(
        self,
        *,
        worker: str = "w1",
        stop: threading.Event | None = None,
        pictures: FakePictures | None = None,
        lease_seconds: float = 30.0,
    ) -> Outcome | None:
        """Let a worker run the oldest ready microbatch; None if there is none."""
        ready = self.shop.read("SELECT min(id) FROM microbatch WHERE state IN ('ready', 'sent')")
        if ready is None:
            return None
        return run_microbatch(
            ready,
            store=self.shop.repository,
            profile=self.profile,
            worker=worker,
            load=lambda: (self.buyer(), FakeScorer(["detail"])),
            pictures=pictures or self.pictures,
            lease_seconds=lease_seconds,
            stop=stop,
        )

    def run_on(self, *, rounds: int = 100) -> None:
        """Run until nothing is ready, through faults of the worker."""
        for _ in range(rounds):
            try:
                if self.run() is None:
                    return
            except RouteT2IError:
                continue
        raise AssertionError(f"not done after {rounds} rounds")

    def calls(self) -> dict[str, int]:
        """Return state -> calls."""
        return self._count("call")

    def outcomes(self) -> dict[str, int]:
        """Return state -> jobs that have their outcome."""
        return self._count("outcome")

    def _count(self, table: str) -> dict[str, int]:
        with reading(self.shop.engine) as connection:
            rows = connection.execute(text(f"SELECT state, count(*) AS n FROM {table} GROUP BY state")).all()
        return {row.state: row.n for row in rows}

    def is_sound(self) -> bool:
        """Whether every invariant holds and the bill matches."""
        assert unmatched(self.server.lines(), self.shop.engine) == []
        return self.shop.is_sound()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buying, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(buying, "PAUSES", (0.02, 0.02))


@pytest.fixture
def world(shop: Any, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as running:
        yield World(shop, tmp_path, running)


def test_a_microbatch_is_bought_and_each_picture_paid_once(world: World) -> None:
    # Given two jobs of three pictures, and a provider that tells what they cost
    server = world.open(pictures=3, usd=0.06)
    # When a worker runs them
    assert world.run() is Outcome.DONE
    # Then six were bought for what they cost, and the rest of the money is free again
    assert world.calls() == {"charged": 6}
    assert len(server.lines()) == 6
    assert world.outcomes() == {"succeeded": 2}
    assert world.shop.money(world.batch) == (0, 6 * 60_000)
    assert world.shop.read("SELECT count(*) FROM picture") == 6
    assert world.shop.read("SELECT min(model_id) FROM outcome") == "fake"
    assert world.is_sound()


def test_without_a_cost_in_the_answer_the_price_is_charged(world: World) -> None:
    world.open(tells_cost=False)
    world.run()
    assert world.shop.money(world.batch) == (0, 2 * PRICE)
    assert world.shop.is_sound()


def patience(mood: str) -> float:
    """Return how long an answer is waited for: only one that never comes shall end the wait."""
    return 4.0 if mood == "bill_then_hang" else 60.0


@pytest.mark.parametrize("mood", ["bill_then_500", "bill_then_hang", "bill_then_cut", "huge", "fail_500"])
def test_a_lost_answer_is_unknown_and_bought_once_more(world: World, mood: str) -> None:
    # Given a provider that loses the first answer, and keeps no keys
    world.open(jobs=1, script=[mood], timeout=patience(mood))
    # When the worker runs the job
    assert world.run() is Outcome.DONE
    # Then the lost one counts as spent, beside the one that came
    assert world.calls() == {"unknown": 1, "charged": 1}
    assert world.shop.money(world.batch) == (0, 2 * PRICE)
    assert world.shop.read("SELECT micro_usd FROM outcome") == 2 * PRICE
    assert world.is_sound()


def test_a_lost_answer_without_money_for_another_fails_the_job_alone(world: World) -> None:
    # Given two jobs whose money is counted
    world.open(jobs=2, budget=2 * PRICE, script=["bill_then_500"])
    assert world.run() is Outcome.DONE
    # Then one failed with what it may have cost, the other succeeded
    assert world.outcomes() == {"failed": 1, "succeeded": 1}
    assert world.shop.read("SELECT error_class FROM outcome WHERE state = 'failed'") == "UnknownCharge"
    assert world.shop.money(world.batch) == (0, 2 * PRICE)
    assert world.is_sound()


@pytest.mark.parametrize("mood", ["bill_then_500", "bill_then_hang", "bill_then_cut"])
def test_where_keys_are_honoured_a_lost_answer_is_asked_for_again_with_the_same_key(
    world: World, mood: str
) -> None:
    # Given a provider that bills a key once
    server = world.open(jobs=1, idempotent=True, script=[mood, mood], timeout=patience(mood))
    # When it loses an answer
    assert world.run() is Outcome.DONE
    # Then the same call brought the picture, for one price
    assert len({one["key"] for one in server.requests}) == 1
    assert world.calls() == {"charged": 1}
    assert world.shop.money(world.batch) == (0, PRICE)
    assert world.is_sound()


def test_a_provider_that_only_loses_answers_rests_after_one_group(world: World) -> None:
    # Given sixteen jobs in groups of eight
    world.open(jobs=16, rates={"bill_then_500": 1.0})
    # When every answer is lost
    with pytest.raises(ProviderFault, match="sends nothing"):
        world.run()
    # Then the second group was not tried, and waits
    assert world.outcomes() == {"failed": 8}
    assert world.calls() == {"unknown": 16}
    assert world.shop.states(world.batch) == {"failed": 8, "assigned": 8}
    assert world.is_sound()


def test_a_busy_provider_is_waited_for_and_bills_nothing(world: World) -> None:
    server = world.open(jobs=3, script=["busy"] * 4, busy_seconds=0.05)
    started = time.monotonic()
    assert world.run() is Outcome.DONE
    assert time.monotonic() - started >= 0.05
    assert len(server.lines()) == 3
    assert world.calls() == {"charged": 3}
    assert world.is_sound()


def test_a_provider_that_stays_busy_gives_the_work_back(world: World) -> None:
    world.open(jobs=1, rates={"busy": 1.0}, busy_seconds=0.01)
    with pytest.raises(ProviderFault, match="busy"):
        world.run()
    assert world.calls() == {"void": 1}
    assert world.shop.states(world.batch) == {"assigned": 1}
    assert world.shop.read("SELECT reserved_left FROM microbatch") == PRICE
    assert world.is_sound()


def test_a_wait_ends_when_the_worker_is_told_to_stop(world: World) -> None:
    # Given a provider that asks for a minute
    world.open(jobs=1, rates={"busy": 1.0}, busy_seconds=60)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    # When the worker is told to stop meanwhile
    assert world.run(stop=stop) is Outcome.RELEASED
    # Then it gives everything back at once
    assert time.monotonic() - started < 20
    assert world.calls() == {"void": 1}
    assert world.is_sound()


def test_a_declined_prompt_fails_with_the_providers_words_and_costs_nothing(world: World) -> None:
    world.open(jobs=2, script=["decline"])
    assert world.run() is Outcome.DONE
    assert world.outcomes() == {"failed": 1, "succeeded": 1}
    told = world.shop.read("SELECT error FROM outcome WHERE state = 'failed'")
    assert "400: Your request was rejected" in told
    assert world.shop.money(world.batch) == (0, PRICE)
    assert world.is_sound()


def test_a_refused_key_fails_no_job(world: World) -> None:
    world.open(jobs=3, rates={"refuse": 1.0})
    with pytest.raises(ProviderFault, match="refuses us: 401"):
        world.run()
    assert world.outcomes() == {}
    assert set(world.calls()) == {"void"}
    assert world.shop.read("SELECT deaths FROM microbatch") == 0
    assert world.is_sound()


def test_nobody_listening_fails_no_job(world: World) -> None:
    world.open(jobs=1)
    world.profile = replace(world.profile, endpoint="http://127.0.0.1:9/v1")
    with pytest.raises(ProviderFault, match="no connection"):
        world.run()
    assert world.calls() == {"void": 1}
    assert world.is_sound()


@pytest.mark.parametrize("mood", ["wrong_size", "no_image"])
def test_an_answer_that_is_no_such_picture_is_paid_and_fails_the_job(world: World, mood: str) -> None:
    world.open(jobs=2, script=[mood])
    assert world.run() is Outcome.DONE
    assert world.outcomes() == {"failed": 1, "succeeded": 1}
    assert world.calls() == {"charged": 2}
    assert world.shop.money(world.batch) == (0, 2 * PRICE)
    assert world.is_sound()


def test_an_accepted_picture_is_polled(world: World) -> None:
    server = world.open(jobs=2, script=["accepted", "accepted"])
    assert world.run() is Outcome.DONE
    assert world.outcomes() == {"succeeded": 2}
    assert world.shop.read("SELECT count(*) FROM call WHERE remote_id IS NOT NULL") == 2
    assert len(server.requests) == 2
    assert world.is_sound()


def test_a_later_claim_goes_on_asking_for_an_accepted_picture(world: World) -> None:
    # Given a worker that is stopped while the provider draws
    server = world.open(jobs=1, script=["accepted"])
    stop = threading.Event()
    server._jobs = _Slow(stop)  # says "not yet" until the worker has been told to stop
    assert world.run(stop=stop) is Outcome.RELEASED
    assert world.calls() == {"intent": 1}
    assert world.shop.is_sound()
    # When another one claims the job
    assert world.run(worker="w2") is Outcome.DONE
    # Then it has bought nothing anew
    assert len(server.requests) == 1
    assert world.calls() == {"charged": 1}
    assert world.is_sound()


class _Slow(dict):
    """Accepted pictures that are ready only after somebody was told to stop; the first question tells."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def get(self, remote_id: str) -> Any:
        first = not self._stop.is_set()
        self._stop.set()
        return [5, None] if first else [0, super().get(remote_id)[1]]


def test_a_zombie_records_what_it_bought_and_the_next_claim_takes_it(world: World) -> None:
    # Given a worker whose call is out, billed and unanswered, when its claim is taken from it
    server = world.open(jobs=1, timeout=20)
    server.gate = threading.Event()
    results: list[Outcome | None] = []
    zombie = threading.Thread(target=lambda: results.append(world.run()))
    zombie.start()
    wait_for(lambda: server.lines())
    world.shop.change("UPDATE microbatch SET lease_until_ms = 1 WHERE state = 'claimed'")
    assert world.shop.sweep().expired == 1
    assert world.calls() == {"unknown": 1}
    # When the answer comes, and another worker claims the job
    server.gate.set()
    zombie.join(20)
    assert results == [Outcome.LEASE_LOST]
    assert world.run(worker="w2") is Outcome.DONE
    # Then the purchase is on record, its picture is used, and nothing was bought twice
    assert len(server.lines()) == 1
    assert world.calls() == {"charged": 1}
    assert world.outcomes() == {"succeeded": 1}
    assert world.shop.read("SELECT worker_id FROM microbatch") == "w2"
    assert world.is_sound()


def wait_for(condition: Callable[[], Any], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Full(FakePictures):
    """A disk that takes nothing."""

    def put(self, png: bytes) -> str:
        raise StoreFull("no room")


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_full_disk_loses_no_bill_and_fails_no_job(world: World, idempotent: bool) -> None:
    # Given a disk that is full when the picture comes
    world.open(jobs=1, idempotent=idempotent)
    with pytest.raises(StoreFull):
        world.run(pictures=Full())
    assert world.outcomes() == {}
    assert world.calls() == ({"intent": 1} if idempotent else {"charged": 1})
    assert world.shop.is_sound()
    # When there is room again
    assert world.run() is Outcome.DONE
    # Then the picture comes: for the same money where the key is honoured, else for money granted anew
    assert world.outcomes() == {"succeeded": 1}
    assert world.calls() == {"charged": 1 if idempotent else 2}
    assert world.is_sound()


def test_a_worker_that_dies_between_bill_and_outcome_leaves_the_picture_to_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker that falls silent after it has settled
    server = world.open(jobs=2)
    monkeypatch.setattr(FakeScorer, "score", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        world.run()
    monkeypatch.undo()
    # Then the next one buys nothing
    assert world.run() is Outcome.DONE
    assert len(server.lines()) == 2
    assert world.outcomes() == {"succeeded": 2}
    assert world.is_sound()


def test_an_overcharge_pauses_the_tier_and_the_limit_holds(world: World) -> None:
    # Given a provider that bills the double for one picture
    world.open(jobs=9, script=["overcharge"], budget=9 * PRICE)
    with pytest.raises(ProviderFault, match="routet2i budget resume cloud"):
        world.run()
    assert world.shop.repository.paused_tiers() == {"cloud": PRICE}
    assert world.shop.read("SELECT max(spent + reserved) FROM budget") == 9 * PRICE
    assert world.is_sound()
    # When a person accepts it
    world.shop.change("UPDATE call SET settled_ms = settled_ms - 5")
    assert world.shop.repository.resume_tier("cloud", who="ann", reason="known")
    # Then the rest is bought
    assert world.run() is Outcome.DONE
    assert world.outcomes() == {"succeeded": 9}
    assert world.is_sound()


def test_a_cancelled_job_is_not_bought(world: World) -> None:
    server = world.open(jobs=2)
    claim = world.shop.poll()
    world.shop.repository.cancel_job(claim.jobs[0].job_id)
    world.shop.repository.release(claim, reason="drain")
    assert world.run() is Outcome.DONE
    assert len(server.lines()) == 1
    assert world.outcomes() == {"cancelled": 1, "succeeded": 1}
    assert world.is_sound()


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_two_workers_and_every_misbehaviour_leave_no_unrecorded_bill_and_no_overspending(
    world: World, idempotent: bool, seed: int
) -> None:
    # Given money for half as much again as the jobs cost, and a provider that misbehaves four times in ten
    moods = (
        *("bill_then_500", "bill_then_cut", "fail_500", "duplicate", "busy", "accepted"),
        *("wrong_size", "no_image", "decline", "bill_then_hang"),
    )
    world.open(
        jobs=24,
        pictures=1 + seed % 2,
        budget=36 * PRICE * (1 + seed % 2),
        idempotent=idempotent,
        size=4,
        seed=seed,
        timeout=1.0,
        busy_seconds=0.02,
        rates=dict.fromkeys(moods, 0.4 / len(moods)),
    )
    rng = random.Random(seed)

    # When two workers serve it, and now and then a claim is taken from one of them
    def serve(name: str) -> None:
        for _ in range(200):
            try:
                if world.run(worker=name) is None and not world.shop.read(
                    "SELECT count(*) FROM microbatch WHERE state = 'claimed'"
                ):
                    return
            except RouteT2IError:
                pass

    threads = [threading.Thread(target=serve, args=(name,)) for name in ("w1", "w2")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)
        if rng.random() < 0.3:
            world.shop.change("UPDATE microbatch SET lease_until_ms = 1 WHERE state = 'claimed'")
        world.shop.sweep(max_deaths=100)
        assert world.shop.is_sound()
    world.run_on()
    # Then every job has its outcome, the bill matches, and the limit held
    assert sum(world.outcomes().values()) == 24
    assert world.outcomes()["succeeded"] >= 12
    assert world.shop.read("SELECT count(*) FROM call WHERE state = 'intent'") == 0
    assert world.shop.read("SELECT reserved FROM budget") == 0
    assert world.is_sound()
