"""Two at once, on SQLite and PostgreSQL: one wins, nothing is lost, nothing is paid twice."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pytest
from sqlalchemy import event, text

from db import ledger, sweeping
from db.ledger import Wish, batch_account
from db.repository import Repository
from db.session import transaction, write
from routet2i.contracts import ShadowPlan, ShadowTier, TierKind, new_id
from routet2i.errors import ServiceUnavailable

T = TypeVar("T")


def together(*calls: Callable[[], T]) -> Sequence[T]:
    """Run the calls in threads that start at the same moment; return their results in order."""
    barrier = threading.Barrier(len(calls), timeout=10)

    def start(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(30) for future in [pool.submit(start, call) for call in calls]]


ROUNDS = 5  # enough for both orders to happen; the state machine covers the orders one by one


def test_of_two_claimers_one_wins(repository, shop):
    for _ in range(ROUNDS):
        # Given one ready microbatch
        shop.submit(2)
        shop.window()
        # When two workers want it
        claims = together(
            *(
                lambda name=name: repository.poll(tier="cloud", worker=name, lease_seconds=45)
                for name in ("a", "b")
            )
        )
        # Then one has it
        assert sorted(claim is None for claim in claims) == [False, True]
        assert shop.is_sound()


def test_eight_threads_never_reserve_more_than_the_limit(repository, shop):
    # Given money for ten reservations
    batch_id = shop.submit(1, budget=100)
    account = batch_account(batch_id)
    granted: list[bool] = []

    def reserve_ten() -> None:
        for _ in range(10):
            granted.append(
                write(
                    repository.engine,
                    lambda c: (
                        ledger.reserve(
                            c,
                            [Wish(microbatch_id=new_id(), accounts=(account,), prices=(10,))],
                            free=ledger.lock(c, [account]),
                        )[0].granted
                        is not None
                    ),
                )
            )

    # When eight threads want ten each
    together(*[reserve_ten] * 8)
    # Then ten are granted, and the ledger says the same
    assert sum(granted) == 10
    assert len(granted) == 80
    assert shop.money(batch_id) == (100, 0)
    assert shop.read("SELECT sum(micro_usd) FROM ledger WHERE kind = 'reserve'") == 100


def test_windows_of_two_leaders_share_budgets_without_deadlock(repository, shop):
    for _ in range(ROUNDS):
        # Given jobs of three batches, and two plans for the same jobs in opposite order
        batches = [shop.submit(2, budget=1_000) for _ in range(3)]
        work = repository.open_window(limit=100)
        plans = [shop.plan(work, size=1), shop.plan(work, size=1)]
        # When both leaders record theirs
        windows = together(*(lambda plan=plan: repository.record_window(plan) for plan in plans))
        # Then each job is assigned once
        assert sum(window.assigned for window in windows) == 6
        assert [shop.money(batch_id) for batch_id in batches] == [(130, 0)] * 3
        assert shop.is_sound()


def test_windows_of_two_leaders_share_the_shadows_budget(repository, shop):
    # Given money for three shadows, and two leaders with two batches each
    for _ in range(ROUNDS):
        shop.submit(4)
        work = repository.open_window(limit=100)
        plans = [
            replace(shop.plan(work, size=1), shadows=shadow_plan(work, limit=3 * 9 + 65 - 9))
            for _ in range(2)
        ]
        # When both record theirs, each with a shadow for every job
        together(*(lambda plan=plan: repository.record_window(plan) for plan in plans))
        # Then no job has two, and the money is not overdrawn
        assert shop.is_sound()
    assert shop.read("SELECT count(*) FROM job WHERE shadow_of IS NOT NULL") == 3
    assert shop.read("SELECT count(*) FROM batch WHERE client = 'shadow'") == 1


def shadow_plan(work, *, limit):
    """Return a plan that draws every job's shadow on the edge, for 9 micro-USD; the dearer way costs 65."""
    kinds = {"edge": TierKind.CLOUD, "cloud": TierKind.EDGE}
    return ShadowPlan(
        share=1.0,
        drawn=frozenset(job.job_id for job in work.jobs),
        other={
            tier: ShadowTier(
                tier=kind.value, kind=kind, width=64, height=64, micro_usd=9 if kind is TierKind.EDGE else 65
            )
            for tier, kind in kinds.items()
        },
        key="default:0",
        limit_micro_usd=limit,
        microbatch_jobs=16,
        yardstick=None,
    )


def test_cancel_against_record_leaves_one_outcome_each(repository, shop):
    for _ in range(ROUNDS):
        # Given a running microbatch
        batch_id = shop.submit(4)
        shop.window()
        claim = shop.poll()
        # When it is cancelled while its worker records
        _, recorded = together(
            lambda batch_id=batch_id: repository.cancel_batch(batch_id),
            lambda claim=claim: repository.record(claim, shop.outcomes(claim)),
        )
        # Then the worker, who had the jobs, decides
        assert recorded
        assert repository.finish(claim)
        assert shop.states(batch_id) == {"succeeded": 4}
        assert shop.money(batch_id) == (0, 260)
        assert shop.is_sound()


def test_cancel_against_claim_and_window_loses_no_job(repository, shop):
    for _ in range(ROUNDS):
        # Given a batch with a ready microbatch and a plan for the rest
        batch_id = shop.submit(4)
        repository.record_window(shop.plan(repository.open_window(limit=2)))
        plan = shop.plan(repository.open_window(limit=10))
        # When a worker claims, a window is recorded and the batch is cancelled, all at once
        claim, _, report = together(
            lambda: repository.poll(tier="cloud", worker="w", lease_seconds=45),
            lambda plan=plan: repository.record_window(plan),
            lambda batch_id=batch_id: repository.cancel_batch(batch_id),
        )
        # Then every job is cancelled, or asked of the worker that has it
        assert report.cancelled + report.running == 4
        assert (claim is None) == (report.running == 0)
        if claim is not None:
            assert repository.finish(claim)
        assert shop.states(batch_id) == {"cancelled": 4}
        assert shop.money(batch_id) == (0, 0)
        assert shop.is_sound()


def test_two_sweepers_count_one_death(repository, shop):
    for _ in range(ROUNDS):
        # Given an expired claim
        batch_id = shop.submit(2)
        shop.window()
        shop.expire(shop.poll())
        # When two sweepers find it
        reports = together(shop.sweep, shop.sweep)
        # Then one of them ends it
        assert sum(report.expired for report in reports) == 1
        assert shop.read("SELECT deaths FROM microbatch WHERE batch_id = :id", id=batch_id) == 1
        assert shop.is_sound()
        shop.work()


def test_a_sweeper_waits_for_no_message_that_a_cancellation_holds(make_database, shop_of):
    # Given two lost messages, of which a cancellation has locked one
    engine = make_database("postgresql")
    shop = shop_of(Repository(engine))
    shop.submit(2)
    shop.window(size=1)
    first, second = (one.microbatch_id for one in shop.repository.mark_sent(limits={"cloud": 2}))
    shop.change("UPDATE microbatch SET sent_at_ms = 1")
    with transaction(engine) as cancellation:
        cancellation.execute(text("SELECT 1 FROM microbatch WHERE id = :id FOR NO KEY UPDATE"), {"id": first})
        # When the sweeper sends what was lost
        resent = write(engine, partial(sweeping.resend, resend_seconds=30.0, silence_seconds=15.0))
        # Then it takes the other one, so that the two never wait for each other
        assert resent == 1
    assert shop.read("SELECT id FROM microbatch WHERE state = 'ready'") == second
    engine.dispose()


def test_a_database_that_only_reads_is_said_to_be_unavailable(make_database, shop_of):
    # Given PostgreSQL that has become a standby, or whose disk is protected
    engine = make_database("postgresql")
    event.listen(engine, "begin", lambda c: c.exec_driver_sql("SET TRANSACTION READ ONLY"))
    # When somebody writes, then it is the database's fault, not an error of ours
    with pytest.raises(ServiceUnavailable, match="read-only transaction"):
        Repository(engine).elect(holder="a", ttl_seconds=1)
    engine.dispose()


def test_a_zombie_with_an_old_fence_is_refused_everything(repository, shop):
    # Given a worker that slept through its lease, and a second claim of the same microbatch
    batch_id = shop.submit(2)
    shop.window()
    zombie = shop.poll(worker="zombie")
    shop.expire(zombie)
    shop.sweep()
    second = shop.poll(worker="second")
    # When the first one wakes up
    # Then nothing it writes counts
    assert not repository.renew(zombie)
    assert not repository.record(zombie, shop.outcomes(zombie))
    assert not repository.finish(zombie)
    assert not repository.release(zombie, reason="late")
    assert repository.record(second, shop.outcomes(second))
    assert repository.finish(second)
    assert not repository.record(zombie, shop.outcomes(zombie))
    assert shop.read("SELECT min(fence) FROM outcome") == second.fence
    assert shop.states(batch_id) == {"succeeded": 2}
    assert shop.is_sound()


def test_intake_of_one_file_by_two_processes_is_one_batch(repository, shop):
    opened = together(
        *[
            lambda: repository.open_batch(
                client="t", idem_key="k", body_sha256="b", name="n", budget_micro_usd=9
            )
        ]
        * 4
    )
    assert len({batch.batch_id for batch in opened}) == 1
    assert sum(batch.created for batch in opened) == 1


@pytest.mark.parametrize("workers", [4])
def test_many_workers_finish_a_batch_with_one_outcome_each(workers, repository, shop):
    # Given forty jobs in twenty microbatches
    batch_id = shop.submit(40, budget=10_000)
    shop.window(size=2)

    def work() -> int:
        done = 0
        while (claim := repository.poll(tier="cloud", worker=new_id(), lease_seconds=45)) is not None:
            assert repository.record(claim, shop.outcomes(claim))
            assert repository.finish(claim)
            done += len(claim.jobs)
        return done

    # When several workers empty the queue together
    assert sum(together(*[work] * workers)) == 40
    # Then each job was done once
    assert shop.states(batch_id) == {"succeeded": 40}
    assert shop.money(batch_id) == (0, 2_600)
    assert shop.is_sound()
