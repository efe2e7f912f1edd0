"""The worker's half of the store, the same tests for the fake and for the real one on both databases."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from db.repository import Repository
from routet2i.contracts import (
    Assignment,
    Bought,
    Claim,
    ClaimedJob,
    GenerationRequest,
    JobOutcome,
    JobState,
    Microbatch,
    Permit,
    TierKind,
    WindowPlan,
    Withheld,
    new_id,
)
from routet2i.execution import Store
from routet2i.fakes import FakeStore

LEASE = 30.0


def ready_in_fake(store: FakeStore, *, jobs: int) -> str:
    return store.add(
        [
            ClaimedJob(job_id=new_id(), prompt="a", negative_prompt=None, seed=line, n=1, micro_usd=100)
            for line in range(jobs)
        ],
        tier="edge",
    )


def ready_in_repository(store: Repository, *, jobs: int) -> str:
    batch = store.open_batch(
        client="t", idem_key=new_id(), body_sha256="0" * 64, name="n", budget_micro_usd=None
    )
    requests = [
        GenerationRequest(line_no=line, custom_id=f"c{line}", prompt="a", seed=line)
        for line in range(1, jobs + 1)
    ]
    store.add_jobs(batch.batch_id, requests, [], cursor_line=jobs)
    store.close_intake(batch.batch_id)
    work = store.open_window(limit=jobs)
    assert work is not None
    microbatch = Microbatch(
        microbatch_id=new_id(),
        batch_id=batch.batch_id,
        tier="edge",
        kind=TierKind.EDGE,
        width=64,
        height=64,
        assignments=tuple(
            Assignment(
                job_id=job.job_id,
                tier="edge",
                reason="predicted_better_on_edge",
                prs=0.5,
                threshold=0.5,
                micro_usd=100,
            )
            for job in work.jobs
        ),
    )
    store.record_window(
        WindowPlan(
            window_id=new_id(),
            microbatches=(microbatch,),
            policy="test",
            predictor_name="constant",
            predictor_version="1",
            available_micro_usd=None,
            solve_us=0,
        )
    )
    return microbatch.microbatch_id


Ready = Callable[..., str]


@pytest.fixture(params=["fake", "sqlite", "postgresql"])
def pair(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[Store, Ready, Callable[[str], Any]]]:
    """A store, how to make a microbatch ready in it, and how to cancel a job."""
    if request.param == "fake":
        fake = FakeStore()
        yield fake, lambda jobs: ready_in_fake(fake, jobs=jobs), fake.cancel
        return
    engine = request.getfixturevalue("make_database")(request.param)
    real = Repository(engine)
    yield real, lambda jobs: ready_in_repository(real, jobs=jobs), real.cancel_job
    engine.dispose()


def claim(store: Store, microbatch: str, *, tier: str = "edge") -> Claim | None:
    return store.claim(microbatch, tier=tier, worker="w1", lease_seconds=LEASE)


def failed(job_id: str) -> JobOutcome:
    return JobOutcome(job_id=job_id, state=JobState.FAILED, micro_usd=0, error_class="E", error="e")


Pair = tuple[Store, Ready, Callable[[str], Any]]


def test_a_microbatch_is_claimed_once_and_only_by_its_tier(pair: Pair) -> None:
    store, ready, _ = pair
    microbatch = ready(2)
    assert claim(store, microbatch, tier="cloud") is None
    first = claim(store, microbatch)
    assert first is not None
    assert (first.microbatch_id, first.tier, first.worker, len(first.jobs)) == (microbatch, "edge", "w1", 2)
    assert claim(store, microbatch) is None
    assert claim(store, new_id()) is None


def test_a_released_microbatch_comes_back_without_what_is_recorded_and_with_a_higher_fence(
    pair: Pair,
) -> None:
    store, ready, _ = pair
    first = claim(store, microbatch := ready(3))
    assert first is not None
    assert store.renew(first)
    assert store.record(first, [failed(first.jobs[0].job_id)])
    assert store.release(first, reason="drain")
    second = claim(store, microbatch)
    assert second is not None
    assert second.fence > first.fence
    assert [job.job_id for job in second.jobs] == [job.job_id for job in first.jobs[1:]]
    # and the first claim may write nothing any more
    assert not store.renew(first)
    assert not store.record(first, [failed(first.jobs[1].job_id)])
    assert not store.finish(first)
    assert not store.release(first, reason="drain")


def test_recording_twice_is_harmless(pair: Pair) -> None:
    store, ready, _ = pair
    held = claim(store, ready(1))
    assert held is not None
    assert store.record(held, [failed(held.jobs[0].job_id)])
    assert store.record(held, [failed(held.jobs[0].job_id)])
    assert store.finish(held)


def test_a_finished_microbatch_is_never_claimed_again(pair: Pair) -> None:
    store, ready, _ = pair
    held = claim(store, microbatch := ready(1))
    assert held is not None
    store.record(held, [failed(held.jobs[0].job_id)])
    assert store.finish(held)
    assert claim(store, microbatch) is None
    assert not store.renew(held)


def test_a_cancellation_is_seen_by_the_claim_that_holds_the_job(pair: Pair) -> None:
    store, ready, cancel = pair
    held = claim(store, ready(2))
    assert held is not None
    assert store.cancelled(held) == frozenset()
    cancel(held.jobs[1].job_id)
    assert store.cancelled(held) == frozenset({held.jobs[1].job_id})
    assert store.record(held, [failed(held.jobs[0].job_id)])
    assert store.finish(held)


def test_a_purchase_is_permitted_once_and_its_picture_is_handed_on(pair: Pair) -> None:
    # Given a claim of two jobs
    store, ready, cancel = pair
    microbatch = ready(jobs=2)
    first = claim(store, microbatch)
    assert first is not None
    one, other = (job.job_id for job in first.jobs)

    def ask(of: Claim, job_id: str) -> Permit | Bought | Withheld:
        return store.intend(of, job_id=job_id, index=0, cost_max=100, repeatable=True)

    # When a picture is permitted, its call may be resumed until it is settled, and then is handed on
    permit = ask(first, one)
    assert isinstance(permit, Permit)
    assert not permit.resumed
    store.accept_call(permit.call_id, remote_id="r1")
    again = ask(first, one)
    assert isinstance(again, Permit)
    assert (again.resumed, again.remote_id, again.call_id) == (True, "r1", permit.call_id)
    assert store.settle_call(permit.call_id, cost=100, image_sha256="a" * 64) == 0
    assert ask(first, one) == Bought(sha256="a" * 64)
    # And a void one is permitted anew, a cancelled job is not, nor is anything to an old claim
    second = ask(first, other)
    assert isinstance(second, Permit)
    store.void_call(first, second.call_id, error="refused")
    third = ask(first, other)
    assert isinstance(third, Permit)
    assert third.call_id != second.call_id
    cancel(other)
    assert ask(first, other) is Withheld.CANCELLED
    store.release(first, reason="drain")
    assert ask(first, one) is Withheld.STALE
