"""What failed is tried again as new jobs: lineage, money of their own, and nothing twice."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from db.audit import check_invariants, job_story
from routet2i.contracts import QueueLimits
from routet2i.errors import BudgetTooSmall, Conflict, QueueFull
from routet2i.tiers import packaged, read_tiers
from scheduler import retrying
from scheduler.retrying import Retry

TIERS = read_tiers(packaged("pocket"))


def run(shop: Any, *, failing: int, jobs: int = 6) -> str:
    """Make a batch of which some jobs fail."""
    batch_id = shop.submit(jobs, pictures=2)
    shop.window(price=65)
    end(shop, failing=failing)
    return batch_id


def end(shop: Any, *, failing: int = 0) -> None:
    claim = shop.poll()
    shop.repository.record(
        claim, [shop.outcome(job, fails=place < failing) for place, job in enumerate(claim.jobs)]
    )
    assert shop.repository.finish(claim)


ROOM = QueueLimits(jobs=1_000, client_jobs=None)


def retry(shop: Any, origin: str, **options: Any) -> Retry:
    return retrying.retry(
        shop.repository,
        origin,
        **{"job_ids": None, "tiers": TIERS, "budget_micro_usd": None, "limits": ROOM} | options,
    )


def test_a_full_queue_lets_no_retries_in_and_nothing_is_written(shop: Any) -> None:
    # Given a batch of which two failed, and a queue with room for one more job
    origin = run(shop, failing=2)
    shop.submit(3)
    batches = shop.read("SELECT count(*) FROM batch")
    # When they are to be tried again, then the door says why not
    with pytest.raises(QueueFull, match="the queue is full"):
        retry(shop, origin, limits=QueueLimits(jobs=4, client_jobs=None))
    assert shop.read("SELECT count(*) FROM batch") == batches
    # And with room they come in
    assert retry(shop, origin).jobs == 2


def test_failed_jobs_become_a_batch_of_their_own_that_names_them(shop: Any) -> None:
    # Given a batch in which two of six failed
    origin = run(shop, failing=2)
    before = shop.money(origin)
    # When they are tried again and succeed
    made = retry(shop, origin, budget_micro_usd=1_000_000)
    assert (made.jobs, made.pictures) == (2, 4)
    shop.window(price=65)
    end(shop)
    # Then the new jobs asked for the same, and name the old ones
    old = shop.read("SELECT id FROM job WHERE batch_id = :b AND seq = 1", b=origin)
    new = job_story(shop.engine, job_story(shop.engine, old).retried_by)
    assert (new.retry_of, new.batch_id, new.custom_id) == (old, made.batch_id, "job-1")
    assert (new.prompt, new.seed, new.n) == ("1 red circles", 100, 2)
    # And what failed stays failed, each batch pays its own, and every promise holds
    assert shop.states(origin) == {"failed": 2, "succeeded": 4}
    assert shop.states(made.batch_id) == {"succeeded": 2}
    assert shop.money(origin) == before
    assert shop.money(made.batch_id) == (0, 2 * 2 * 65)
    assert shop.is_sound()


def test_the_same_command_twice_does_nothing_twice(shop: Any) -> None:
    origin = run(shop, failing=2)
    first = retry(shop, origin)
    again = retry(shop, origin)
    assert (again.batch_id, again.jobs) == (first.batch_id, 0)
    assert shop.read("SELECT count(*) FROM job WHERE retry_of IS NOT NULL") == 2


def test_a_retry_that_fails_is_retried_in_its_turn(shop: Any) -> None:
    origin = run(shop, failing=1)
    first = retry(shop, origin)
    shop.window(price=65)
    end(shop, failing=1)
    second = retry(shop, first.batch_id)
    assert second.jobs == 1
    assert retry(shop, origin).jobs == 0
    assert shop.is_sound()


def test_what_fails_later_is_a_second_round(shop: Any) -> None:
    # Given a batch of which one part failed and was retried while the other was under way
    origin = shop.submit(4)
    shop.window(price=65, size=2)
    end(shop, failing=2)
    first = retry(shop, origin)
    # When the rest fails
    end(shop, failing=2)
    second = retry(shop, origin)
    # Then that is retried, and the first part is left alone
    assert (first.jobs, second.jobs) == (2, 2)
    assert first.batch_id != second.batch_id
    assert shop.is_sound()


def test_one_job_can_be_named_even_if_it_was_cancelled(shop: Any) -> None:
    origin = shop.submit(3)
    shop.repository.cancel_batch(origin)
    job = shop.read("SELECT id FROM job WHERE batch_id = :b AND seq = 2", b=origin)
    assert retry(shop, origin).jobs == 0
    made = retry(shop, origin, job_ids=[job])
    assert made.jobs == 1
    assert shop.read("SELECT retry_of FROM job WHERE batch_id = :b", b=made.batch_id) == job
    assert shop.is_sound()


def test_a_job_that_succeeded_or_has_not_ended_is_not_retried(shop: Any) -> None:
    origin = run(shop, failing=0, jobs=1)
    running = shop.submit(1)
    for batch_id in (origin, running):
        job = shop.read("SELECT id FROM job WHERE batch_id = :b", b=batch_id)
        assert retry(shop, batch_id, job_ids=[job]) == Retry(
            origin=batch_id, batch_id=None, jobs=0, pictures=0, floor_micro_usd=0, budget_micro_usd=None
        )


def test_a_budget_below_the_cheapest_tier_writes_nothing(shop: Any) -> None:
    origin = run(shop, failing=2)
    with pytest.raises(BudgetTooSmall, match="4 pictures"):
        retry(shop, origin, budget_micro_usd=4 * TIERS[TIERS.edge].price(1) - 1)
    assert shop.read("SELECT count(*) FROM batch") == 1


def test_a_key_with_another_budget_is_a_conflict(shop: Any) -> None:
    origin = run(shop, failing=2)
    made = retry(shop, origin, key="k", budget_micro_usd=1_000_000)
    assert retry(shop, origin, key="k", budget_micro_usd=1_000_000).batch_id == made.batch_id
    with pytest.raises(Conflict):
        retry(shop, origin, key="k", budget_micro_usd=2_000_000)


def test_a_retry_that_was_cut_off_is_gone_on_with(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a retry that ended after its first two jobs
    origin = run(shop, failing=5)
    monkeypatch.setattr(retrying, "JOBS_PER_COMMIT", 2)
    add = shop.repository.add_retries
    steps: list[int] = []

    def once(*given: Any, **options: Any) -> int:
        if steps:
            raise KeyboardInterrupt
        steps.append(add(*given, **options))
        return steps[-1]

    monkeypatch.setattr(shop.repository, "add_retries", once)
    with pytest.raises(KeyboardInterrupt):
        retry(shop, origin)
    monkeypatch.setattr(shop.repository, "add_retries", add)
    # When the same is typed again
    made = retry(shop, origin)
    # Then one batch has all five
    assert made.jobs == 3
    assert shop.read("SELECT count(*) FROM batch WHERE retry_of = :b", b=origin) == 1
    assert shop.read("SELECT count(*) FROM job WHERE batch_id = :b", b=made.batch_id) == 5
    assert shop.is_sound()


def test_people_who_retry_at_once_retry_each_job_once(shop: Any) -> None:
    origin = run(shop, failing=6)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: retry(shop, origin, key=key), ["a", "b", None, None]))
    assert shop.read("SELECT count(*) FROM job WHERE retry_of IS NOT NULL") == 6
    assert shop.read("SELECT count(DISTINCT retry_of) FROM job") == 6
    assert check_invariants(shop.engine) == []


def test_the_database_itself_refuses_a_second_retry_of_a_job(shop: Any) -> None:
    origin = run(shop, failing=1)
    made = retry(shop, origin)
    with pytest.raises(IntegrityError):
        shop.change(
            """UPDATE job SET retry_of = (SELECT retry_of FROM job WHERE batch_id = :m)
                WHERE batch_id = :b AND seq = 5""",
            b=origin,
            m=made.batch_id,
        )
