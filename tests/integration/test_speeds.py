"""Seconds per picture as measured, and the work that waits: right, and by an index, on both databases."""

from dataclasses import replace

import pytest
from sqlalchemy import event, text

from db import speeds as module
from db.session import reading, transaction
from routet2i.contracts import GenerationRequest, Speed, Work


def drawn(shop, *, seconds, fails=0, **poll):
    """Let a worker draw the oldest microbatch, so many seconds a job; the first jobs of it may fail."""
    claim = shop.poll(**poll)
    outcomes = [
        replace(shop.outcome(job, fails=place < fails), seconds=seconds)
        for place, job in enumerate(claim.jobs)
    ]
    assert shop.repository.record(claim, outcomes)
    assert shop.repository.finish(claim)


def test_nothing_drawn_is_nothing_measured(shop):
    # Given jobs that no worker has drawn yet
    shop.submit(3)
    shop.window()
    # Then nothing is known
    assert shop.repository.speeds() == ()


def test_a_workers_slow_first_microbatch_does_not_count(shop):
    # Given two microbatches of the cloud tier, the first by a cold worker, and one of the edge tier
    shop.submit(8, pictures=2)
    shop.window(size=4)
    drawn(shop, seconds=30.0)
    drawn(shop, seconds=1.0)
    shop.submit(2)
    shop.window(tier="edge")
    drawn(shop, seconds=0.25, tier="edge")
    # Then each tier has the median over its pictures, all of which are counted
    assert shop.repository.speeds() == (
        Speed(tier="cloud", width=64, height=64, seconds=0.5, pictures=16),
        Speed(tier="edge", width=64, height=64, seconds=0.25, pictures=2),
    )


def test_failures_and_jobs_that_took_no_time_are_left_out(shop):
    # Given a microbatch in which two of three jobs failed, slowly, and one of fakes
    shop.submit(3)
    shop.window()
    drawn(shop, seconds=2.0, fails=2)
    shop.submit(3)
    shop.window()
    drawn(shop, seconds=0.0)
    # Then the one picture is what is known
    (found,) = shop.repository.speeds()
    assert (found.seconds, found.pictures) == (2.0, 1)


def test_sizes_are_told_apart_and_only_the_newest_jobs_count(shop):
    # Given small pictures, then large ones, then large ones on a faster device
    for size, seconds in ((64, 1.0), (128, 9.0), (128, 4.0)):
        shop.submit(2)
        work = shop.repository.open_window(limit=10)
        plan = shop.plan(work)
        shop.repository.record_window(
            replace(
                plan,
                microbatches=tuple(replace(one, width=size, height=size) for one in plan.microbatches),
            )
        )
        drawn(shop, seconds=seconds)
    # Then each size has its own figure
    assert [(one.width, one.seconds, one.pictures) for one in shop.repository.speeds()] == [
        (64, 1.0, 2),
        (128, 4.0, 4),
    ]
    # And older jobs than asked for are forgotten
    with reading(shop.engine) as connection:
        (newest,) = module.speeds(connection, newest=2)
    assert (newest.width, newest.seconds, newest.pictures) == (128, 4.0, 2)


# ---------------------------------------------------------------- what waits


def waits(shop, batch_id, *, width=0, pictures):
    """Let a batch have queued pictures, whatever intake has counted."""
    shop.change(
        """INSERT INTO waiting(batch_id, width, height, tier, jobs, pictures)
            VALUES(:id, :width, :width, '', 1, :n)
            ON CONFLICT(batch_id, width, height, tier)
            DO UPDATE SET jobs = 1, pictures = excluded.pictures""",
        id=batch_id,
        width=width,
        n=pictures,
    )


def test_the_backlog_is_what_waits_and_what_is_being_drawn(shop):
    # Given a microbatch that is drawn, one that a worker has, one that is ready, and queued jobs
    first = shop.submit(12, pictures=2)
    shop.window(size=4)
    drawn(shop, seconds=1.0)
    shop.poll()
    shop.change("DELETE FROM waiting")
    second = shop.submit(1)
    waits(shop, second, pictures=7)
    waits(shop, second, width=128, pictures=3)
    # Then all but the drawn ones are the backlog, the queued ones without a tier
    found = shop.repository.backlog()
    assert found[0] == Work(tier="cloud", width=64, height=64, pictures=16)
    assert sorted(found[1:], key=lambda one: one.pictures) == [
        Work(tier=None, width=128, height=128, pictures=3),
        Work(tier=None, width=None, height=None, pictures=7),
    ]
    # And of the first batch, only its own are left
    assert shop.repository.work_left(first) == (Work(tier="cloud", width=64, height=64, pictures=16),)
    assert shop.repository.work_left(second) == (Work(tier=None, width=None, height=None, pictures=1),)


def test_a_long_backlog_is_reckoned_from_a_sample(shop, monkeypatch):
    # Given more unfinished microbatches than are looked at
    monkeypatch.setattr(module, "SAMPLE", 4)
    shop.submit(20, pictures=3)
    shop.window(size=2)
    shop.change("DELETE FROM waiting")
    # Then their pictures are as many as the sample's, in proportion
    assert shop.repository.backlog() == (Work(tier="cloud", width=64, height=64, pictures=60),)


def test_a_queued_job_of_a_size_of_its_own_keeps_it(shop):
    # Given a queued job that asks for a wide picture
    opened = shop.repository.open_batch(
        client="default", idem_key="k", body_sha256="k", name="k", budget_micro_usd=None
    )
    wide = GenerationRequest(line_no=1, custom_id="wide", prompt="a cube", seed=1, n=2, width=96, height=64)
    shop.repository.add_jobs(opened.batch_id, [wide], [], cursor_line=1)
    # Then so does what is left of its batch
    assert shop.repository.work_left(opened.batch_id) == (Work(tier=None, width=96, height=64, pictures=2),)


# ---------------------------------------------------------------- as fast with many rows

OUTCOMES = 100_000
EACH = 8  # jobs of a microbatch
FILL = (  # outcomes of two tiers, all of one batch; every fifth microbatch is still to be drawn
    """INSERT INTO microbatch(id, batch_id, window_id, tier, width, height, state, fence, deliveries, deaths,
                              reserved_left, created_ms)
        WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < :microbatches)
        SELECT 'm' || (1000000 + i), :batch, :window, CASE i % 2 WHEN 0 THEN 'edge' ELSE 'cloud' END, 64, 64,
               CASE i % 5 WHEN 0 THEN 'ready' ELSE 'done' END, 1, 0, 0, 0, 1 FROM k""",
    """INSERT INTO job(id, batch_id, seq, custom_id, prompt, seed, n, priority, not_before_ms,
                       cancel_requested, state, microbatch_id, created_ms)
        WITH RECURSIVE k(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM k WHERE i < :jobs - 1)
        SELECT 'j' || (1000000 + i), :batch, 10 + i, 'c' || i, 'a red cube', 1, 1, 0, 0, 0,
               CASE (1 + i / :each) % 5 WHEN 0 THEN 'assigned' ELSE 'done' END,
               'm' || (1000001 + i / :each), 1 FROM k""",
    """INSERT INTO outcome(job_id, state, tier, microbatch_id, fence, micro_usd, seconds, at_ms)
        SELECT j.id, 'succeeded', m.tier, m.id, 1, 0, 0.5, 1
        FROM job j JOIN microbatch m ON m.id = j.microbatch_id WHERE j.state = 'done' AND m.id LIKE 'm%'""",
)


@pytest.fixture
def statements(shop):
    """What is asked of the database, with its parameters, while the test runs."""
    asked = []
    event.listen(
        shop.engine,
        "before_cursor_execute",
        lambda _c, _k, statement, parameters, *_: asked.append((statement, parameters)),
    )
    return asked


def test_no_question_reads_a_whole_table(shop, statements):
    # Given many outcomes, and a planner that knows it
    batch = shop.submit(1)
    shop.window()
    window = shop.read("SELECT id FROM decision_window")
    microbatches = OUTCOMES * 5 // 4 // EACH
    values = {
        "batch": batch,
        "window": window,
        "microbatches": microbatches,
        "jobs": microbatches * EACH,
        "each": EACH,
    }
    with transaction(shop.engine) as connection:
        for statement in FILL:
            wanted = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(text(statement), wanted)
    shop.change("ANALYZE")
    statements.clear()
    # When both questions are asked
    found, work = shop.repository.speeds(), shop.repository.backlog()
    # Then the answers are there, from the newest jobs of each tier
    assert [(one.tier, one.seconds, one.pictures) for one in found] == [
        ("cloud", 0.5, 1_000),
        ("edge", 0.5, 1_000),
    ]
    half = microbatches // 5 // 2 * EACH
    assert [one.pictures for one in work if one.tier] == pytest.approx([half, half], rel=0.01)
    # And every large table is read by an index
    is_sqlite = shop.engine.dialect.name == "sqlite"
    explain = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
    whole = {f"SCAN {name}" for name in ("microbatch", "job", "j", "outcome", "o")}
    with shop.engine.connect() as connection:
        for statement, parameters in list(statements):
            rows = connection.exec_driver_sql(explain + statement, parameters).all()
            for line in (str(row[-1]).strip() for row in rows):
                assert "Seq Scan on " not in line or " waiting" in line or " tiers" in line, rows
                assert line not in whole, rows
    assert len(statements) > 5
