"""Commits whose answer is lost, on a real PostgreSQL: what was asked for is looked up, never assumed.

The server ends the connection right after a COMMIT, or right before it; the client meets the same error.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from sqlalchemy import Engine, text

from db.repository import Repository
from db.session import make_engine
from routet2i.errors import ServiceUnavailable
from routet2i.execution import Outcome, run_microbatch
from routet2i.fakes import FakeGenerator, FakePictures, FakeScorer
from routet2i.tiers import packaged, read_tiers

pytestmark = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
When = Literal["before", "after"]


class Losses:
    """Ends connections at commits: `lose` says at which ones, counted from then on, and on which side."""

    def __init__(self, engine: Engine) -> None:
        self._commit = engine.dialect.do_commit
        self._admin = make_engine(engine.url.render_as_string(hide_password=False))
        self._which: Callable[[int], bool] = lambda number: False
        self._when: When = "after"
        self._count = 0
        self.lost = 0
        self._thread = threading.get_ident()
        engine.dialect.do_commit = self._do  # type: ignore[method-assign]

    def lose(self, which: Callable[[int], bool], *, when: When) -> None:
        self._which, self._when, self._count = which, when, 0

    def close(self) -> None:
        self._admin.dispose()

    def _do(self, connection: Any) -> None:
        if threading.get_ident() != self._thread:  # renewals of leases
            self._commit(connection)
            return
        self._count += 1
        if not self._which(self._count):
            self._commit(connection)
            return
        self.lost += 1
        if self._when == "after":
            self._commit(connection)
        with self._admin.connect() as admin:
            pid = connection.dbapi_connection.info.backend_pid
            assert admin.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        connection.dbapi_connection.execute("SELECT 1")  # raises what libpq says of a connection that is gone
        raise AssertionError("the connection lives")


@pytest.fixture
def losses(engine: Engine) -> Iterator[Losses]:
    made = Losses(engine)
    yield made
    made.close()


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("by_message", [True, False])
def test_a_claim_whose_answer_is_lost_is_looked_up(
    repository: Repository, shop: Any, losses: Losses, when: When, by_message: bool
) -> None:
    # Given a microbatch
    shop.submit(2)
    shop.window()
    microbatch = shop.read("SELECT id FROM microbatch")
    # When the connection ends around the COMMIT of its claim
    losses.lose(lambda number: number == 1, when=when)
    options = {"tier": "cloud", "worker": "w1", "lease_seconds": 5.0}
    claim = repository.claim(microbatch, **options) if by_message else repository.poll(**options)
    # Then the claim is ours, once
    assert losses.lost == 1
    assert (claim.microbatch_id, claim.fence) == (microbatch, 1)
    assert shop.read("SELECT count(*) FROM attempt") == 2
    assert repository.record(claim, shop.outcomes(claim))
    assert repository.finish(claim)
    assert shop.is_sound()


def test_a_claim_that_others_have_taken_since_is_not_ours(
    repository: Repository, shop: Any, losses: Losses
) -> None:
    # Given a microbatch whose claim is rolled back without an answer
    shop.submit(1)
    shop.window()
    other = Repository(make_engine(repository.engine.url.render_as_string(hide_password=False)))

    losses.lose(lambda number: number == 1, when="before")
    begin = repository.engine.dialect.do_begin

    def late(connection: Any) -> None:  # between the end of our connection and our look
        if losses.lost:
            repository.engine.dialect.do_begin = begin  # type: ignore[method-assign]
            assert other.poll(tier="cloud", worker="w2", lease_seconds=5.0) is not None
        begin(connection)

    repository.engine.dialect.do_begin = late  # type: ignore[method-assign]
    # When we look
    claim = repository.poll(tier="cloud", worker="w1", lease_seconds=5.0)
    # Then it is the other's, though it has the fence that we were promised
    assert claim is None
    assert shop.read("SELECT worker_id FROM microbatch") == "w2"
    assert shop.read("SELECT fence FROM microbatch") == 1
    other.engine.dispose()


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])  # claim, look at cancellations, record, finish
def test_a_worker_that_loses_any_one_answer_does_its_work_once(
    repository: Repository, shop: Any, losses: Losses, when: When, number: int
) -> None:
    # Given a microbatch
    shop.submit(3)
    shop.window()
    microbatch = shop.read("SELECT id FROM microbatch")
    generator = FakeGenerator()
    # When its worker gets no answer to one of its commits
    losses.lose(lambda one: one == number, when=when)
    outcome = run_microbatch(
        microbatch,
        store=repository,
        profile=read_tiers(packaged("pocket"))["cloud"],
        worker="w1",
        load=lambda: (generator, FakeScorer(["detail"])),
        pictures=FakePictures(),
        lease_seconds=10.0,
    )
    # Then every picture was drawn once and is recorded, without a wait for the lease
    assert losses.lost == 1
    assert outcome is Outcome.DONE
    assert sum(generator.calls) == 3
    assert shop.read("SELECT count(*) FROM outcome WHERE state = 'succeeded'") == 3
    assert shop.read("SELECT count(*) FROM attempt") == 3
    assert shop.read("SELECT deaths FROM microbatch") == 0
    assert shop.is_sound()


@pytest.mark.parametrize("when", ["after", "before"])
def test_an_election_whose_answer_is_lost_leaves_no_time_without_a_leader(
    repository: Repository, losses: Losses, when: When
) -> None:
    # Given an election whose answer is lost
    losses.lose(lambda number: number == 1, when=when)
    with pytest.raises(ServiceUnavailable):
        repository.elect(holder="a", ttl_seconds=600)
    # When the scheduler asks again
    term = repository.elect(holder="a", ttl_seconds=600)
    # Then it leads at once, in a term of its own, and nobody else does
    assert term == (2 if when == "after" else 1)
    assert repository.elect(holder="b", ttl_seconds=600) is None
