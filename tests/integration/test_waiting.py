"""What waits is counted as it comes and goes, on SQLite and PostgreSQL, and never counted anew."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

import db.repository
from db.audit import check_invariants
from routet2i.contracts import GenerationRequest, JobState, Waiting
from tests.integration.test_concurrency import together

SIZES = ((None, None), (64, 64), (128, 64))


def submit(shop, key, sizes, *, pictures=1, twice=(), cancelled=False):
    """Submit one job per size; the lines in `twice` repeat the first line's custom id."""
    batch_id = shop.repository.open_batch(
        client="default", idem_key=key, body_sha256=key, name=key, budget_micro_usd=None
    ).batch_id
    requests = [
        GenerationRequest(
            line_no=line,
            custom_id="line-1" if line in twice else f"line-{line}",
            prompt="a red circle",
            seed=line,
            width=width,
            height=height,
            n=pictures,
        )
        for line, (width, height) in enumerate(sizes, start=1)
    ]
    shop.repository.add_jobs(batch_id, requests, [], cursor_line=len(requests))
    if cancelled:
        shop.repository.cancel_batch(batch_id)
    shop.repository.close_intake(batch_id)
    return batch_id


def waiting(shop):
    with shop.engine.connect() as connection:
        return sorted(
            tuple(row)
            for row in connection.execute(text("SELECT batch_id, width, height, jobs, pictures FROM waiting"))
        )


def test_a_window_is_told_what_waits_of_each_size(repository, shop):
    # Given a batch of two sizes, one line of which repeats a custom id, beside an old one
    old = shop.submit(1)
    batch_id = submit(shop, "k", [SIZES[1], SIZES[0], SIZES[1], SIZES[1]], pictures=2, twice=(4,))
    # When a window opens
    work = repository.open_window(limit=10)
    # Then it knows jobs and pictures of each, without the line that was refused
    assert work.waiting[batch_id] == (
        Waiting(width=None, height=None, jobs=1, pictures=2),
        Waiting(width=64, height=64, jobs=2, pictures=4),
    )
    assert work.waiting[old] == (Waiting(width=None, height=None, jobs=1, pictures=1),)


def test_what_a_window_takes_waits_no_more_and_what_it_refuses_does(repository, shop):
    # Given money for two of three jobs
    batch_id = shop.submit(3, budget=130)
    # When a window wants all of them
    assert shop.window(size=1).assigned == 2
    # Then one waits, and nothing does after the next window that can pay
    assert waiting(shop) == [(batch_id, 0, 0, 1, 1)]
    shop.change("UPDATE job SET not_before_ms = 0 WHERE state = 'queued'")
    shop.change("UPDATE budget SET lim = NULL")
    shop.window()
    assert waiting(shop) == []


def test_what_is_cancelled_waits_no_more(repository, shop):
    # Given a batch with an assigned job and two that wait
    batch_id = submit(shop, "k", SIZES)
    repository.record_window(shop.plan(repository.open_window(limit=1)))
    # When one of the two is cancelled, then the batch
    queued = shop.read("SELECT id FROM job WHERE state = 'queued' AND width = 64")
    assert repository.cancel_job(queued) is JobState.QUEUED
    assert waiting(shop) == [(batch_id, 128, 64, 1, 1)]
    repository.cancel_batch(batch_id)
    # Then nothing waits
    assert waiting(shop) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE waiting SET pictures = pictures + 1",
        "UPDATE waiting SET jobs = jobs + 1, pictures = pictures + 1",
        "UPDATE waiting SET width = 64",
        "UPDATE waiting SET jobs = 1, pictures = 1",
        "INSERT INTO waiting SELECT id, 64, 64, '', 0, 0 FROM batch",
        "DELETE FROM waiting",
    ],
)
def test_a_hands_change_is_noticed_and_the_next_leader_mends_it(damage, shop):
    # Given two jobs that wait
    shop.submit(2)
    assert shop.is_sound()
    # When a hand damages their sums
    shop.change(damage)
    # Then the check tells
    assert {one.invariant for one in check_invariants(shop.engine)} == {"I13"}
    # And whoever leads next counts anew, so that no job is left behind
    assert shop.repository.recount_waiting() == 1
    assert shop.is_sound()
    assert shop.window().assigned == 2
    assert shop.repository.recount_waiting() == 0


@pytest.fixture
def planner(make_database, shop_of, monkeypatch):
    """A shop on PostgreSQL for which two jobs are many."""
    monkeypatch.setattr(db.repository, "MANY_JOBS", 2)
    engine = make_database("postgresql")
    yield shop_of(db.repository.Repository(engine))
    engine.dispose()


ANALYSED = "SELECT last_analyze FROM pg_stat_all_tables WHERE relname = 'job'"


def test_after_many_jobs_the_planner_of_postgresql_knows_them(planner):
    before = planner.read(ANALYSED)
    # When few jobs come, it is left alone; when many do, it looks at them
    planner.submit(1)
    assert planner.read(ANALYSED) == before
    planner.submit(2)
    assert planner.read(ANALYSED) != before


def test_a_submission_waits_for_nobody_who_has_the_table(planner):
    # Given somebody who cleans the table up
    with planner.engine.begin() as other:
        other.execute(text("LOCK TABLE job IN SHARE UPDATE EXCLUSIVE MODE"))
        # When many jobs come, then they are seen at once
        batch_id = planner.submit(2)
        assert planner.states(batch_id) == {"queued": 2}


ACTIONS = st.one_of(
    st.tuples(
        st.just("submit"),
        st.lists(st.sampled_from(SIZES), min_size=1, max_size=5),
        st.integers(1, 3),
        st.sets(st.integers(2, 5), max_size=2),
        st.booleans(),
    ),
    st.tuples(st.just("window"), st.integers(1, 6), st.integers(1, 3), st.integers(0, 400)),
    st.tuples(st.just("cancel a job"), st.integers(0, 20)),
    st.tuples(st.just("cancel a batch"), st.integers(0, 20)),
)


def test_the_sums_are_exact_after_anything(shop):
    numbers = iter(range(1_000_000))

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(actions=st.lists(ACTIONS, min_size=1, max_size=12))
    def holds(actions):
        batches: list[str] = []
        for action, *values in actions:
            if action == "submit":
                sizes, pictures, twice, cancelled = values
                key = f"sums-{next(numbers)}"
                batches.append(submit(shop, key, sizes, pictures=pictures, twice=twice, cancelled=cancelled))
            elif action == "window":
                limit, size, money = values
                shop.change("UPDATE job SET not_before_ms = 0 WHERE state = 'queued'")
                work = shop.repository.open_window(limit=limit)
                if work is not None:
                    shop.change("UPDATE budget SET lim = reserved + spent + :money", money=money)
                    shop.repository.record_window(shop.plan(work, size=size, fallback_price=9))
            elif action == "cancel a job":
                job_id = shop.read(
                    "SELECT id FROM job WHERE state <> 'done' ORDER BY id LIMIT 1 OFFSET :skip",
                    skip=values[0],
                )
                if job_id is not None:
                    shop.repository.cancel_job(job_id)
            elif batches:
                shop.repository.cancel_batch(batches[values[0] % len(batches)])
            assert [one for one in check_invariants(shop.engine) if one.invariant == "I13"] == []

    holds()


def test_two_schedulers_share_a_batch_with_one_who_cancels(repository, shop):
    for number in range(5):
        # Given a batch of three sizes, two plans for different jobs of it, and a job of neither
        batch_id = submit(shop, f"k{number}", SIZES * 5)
        work = repository.open_window(limit=100)
        halves = (work.jobs[:6], work.jobs[6:12])
        plans = [shop.plan(replace(work, jobs=jobs), size=2) for jobs in halves]
        # When all three happen at once
        together(
            *(lambda plan=plan: repository.record_window(plan) for plan in plans),
            lambda job=work.jobs[12]: repository.cancel_job(job.job_id),
        )
        # Then two jobs wait, and are counted
        assert sum(row[3] for row in waiting(shop) if row[0] == batch_id) == 2
        assert shop.is_sound()
        repository.cancel_batch(batch_id)
