"""What readers see: the view, the status, one job's story, and the check of the promises."""

from datetime import UTC, datetime

import pytest

from db.audit import (
    batch_status,
    batches,
    check_invariants,
    job_story,
    mean_scores,
    rows,
    windows,
)
from routet2i.contracts import GenerationRequest, JobState
from routet2i.errors import NotFound
from scheduler.cli.results import tell

COLUMNS = """
    batch_id job_id custom_id prompt tier state reason prs_predicted prs_threshold predictor_version
    cost_reserved_usd cost_charged_usd q_definition q_detail q_clarity q_sharpness q_harmony q_realism q_color
    q_consistency q_layout q_integrity q_alignment image_uri image_sha256 model_id model_revision seed
    attempts worker submitted_at assigned_at started_at finished_at error image_deleted_at
    requested_tier
"""  # issue 2, section 4


def test_the_view_has_the_documented_columns_in_order(shop):
    shop.submit(1)
    [row] = rows(shop.engine)
    assert list(row) == COLUMNS.split()


def test_a_succeeded_job_is_one_row_per_picture_and_its_cost_sums_exactly(shop):
    # Given a job with three pictures for 100 micro-USD
    batch_id = shop.submit(1, pictures=3)
    shop.window(price=100)
    claim = shop.poll(worker="worker-7")
    shop.repository.record(claim, [shop.outcome(claim.jobs[0], charged=100)])
    shop.repository.finish(claim)
    # When its rows are read
    found = list(rows(shop.engine, batch_id=batch_id))
    # Then there are three, in order, and their costs sum to the micro-dollar
    assert [row["seed"] for row in found] == [100, 101, 102]
    assert [round(float(row["cost_charged_usd"]) * 1e6) for row in found] == [34, 33, 33]
    assert [round(float(row["cost_reserved_usd"]) * 1e6) for row in found] == [100, 100, 100]
    row = found[0]
    assert row["state"] == "succeeded"
    assert (row["tier"], row["reason"], row["attempts"]) == ("cloud", "predicted_better_on_cloud", 1)
    assert (row["prs_predicted"], row["prs_threshold"], row["predictor_version"]) == (0.3, 0.4, "1")
    assert (row["q_detail"], row["q_alignment"], row["q_color"]) == (0.25, 0.75, None)
    sha = row["image_sha256"]
    assert row["image_uri"] == f"images/{sha[:2]}/{sha[2:4]}/{sha}.png"
    assert row["worker"] == "worker-7"
    assert row["error"] is None
    # And its times are ISO 8601 in UTC, in the order of the lifecycle
    times = [
        datetime.fromisoformat(row[name])
        for name in ("submitted_at", "assigned_at", "started_at", "finished_at")
    ]
    assert times == sorted(times)
    assert all(time.tzinfo == UTC for time in times)
    assert abs((datetime.now(UTC) - times[-1]).total_seconds()) < 60


def test_rows_come_in_file_order_and_can_be_chosen(shop):
    # Given a batch in several states
    batch_id = shop.submit(12)
    shop.repository.record_window(shop.plan(shop.repository.open_window(limit=6), size=3))
    shop.work()
    claim = shop.poll()
    shop.repository.record(claim, [shop.outcome(claim.jobs[0], fails=True)])
    # Then rows follow the file, whatever their state
    found = list(rows(shop.engine, batch_id=batch_id))
    assert [row["custom_id"] for row in found] == [f"job-{line}" for line in range(1, 13)]
    # And a state, a tier or a job selects
    assert len(list(rows(shop.engine, batch_id=batch_id, state=JobState.SUCCEEDED))) == 3
    assert len(list(rows(shop.engine, state=JobState.RUNNING))) == 2
    assert len(list(rows(shop.engine, tier="edge"))) == 0
    (failed,) = rows(shop.engine, state=JobState.FAILED)
    assert failed["error"] == "GenerationFailed: no picture"
    assert failed["image_uri"] is None
    assert len(list(rows(shop.engine, job_id=failed["job_id"]))) == 1


def test_the_view_counts_attempts_and_names_the_last_worker(shop):
    shop.submit(1)
    shop.window()
    shop.expire(shop.poll(worker="first"))
    shop.sweep()
    shop.work(worker="second")
    (row,) = rows(shop.engine)
    assert (row["attempts"], row["worker"]) == (2, "second")


def test_status_counts_states_tiers_and_money(shop):
    # Given a batch under way
    batch_id = shop.submit(4, budget=1_000)
    shop.repository.record_window(shop.plan(shop.repository.open_window(limit=2), size=1))
    shop.work()
    # When its status is read
    status = batch_status(shop.engine, batch_id)
    # Then it adds up
    assert status.by_state[JobState.SUCCEEDED] == 1
    assert status.by_state[JobState.ASSIGNED] == 1
    assert status.by_state[JobState.QUEUED] == 2
    assert status.by_state[JobState.RUNNING] == 0
    assert status.by_tier == {"cloud": 2}
    assert (status.limit_micro_usd, status.reserved_micro_usd, status.spent_micro_usd) == (1_000, 65, 65)
    assert not status.complete
    assert status.finished_at is None
    # And when all is over it says so
    shop.repository.cancel_batch(batch_id)
    status = batch_status(shop.engine, batch_id)
    assert status.complete
    assert status.finished_at >= status.created_at
    assert [one.batch_id for one in batches(shop.engine, limit=5)] == [batch_id]


def test_a_batch_of_rejections_only_is_complete_at_once(shop):
    batch_id = shop.submit(0)
    assert batch_status(shop.engine, batch_id).complete
    with pytest.raises(NotFound):
        batch_status(shop.engine, "nobody")


def test_a_jobs_story_tells_everything(shop):
    # Given a job whose microbatch was split after two deaths, and which then succeeded
    shop.submit(2, budget=1_000)
    shop.window()
    for _ in range(2):
        shop.expire(shop.poll(worker="unlucky"))
        shop.sweep()
    claim = shop.work(worker="lucky")
    # When its story is read
    story = job_story(shop.engine, claim.jobs[0].job_id)
    # Then the decision, the money, the tries and the picture are all there
    assert story.state is JobState.SUCCEEDED
    assert (story.tier, story.prs, story.threshold) == ("cloud", 0.3, 0.4)
    assert story.predicted == {"cloud": {"detail": 0.5}}
    assert (story.available_micro_usd, story.reserved_micro_usd, story.charged_micro_usd) == (1_000, 65, 65)
    assert [attempt.worker for attempt in story.attempts] == ["unlucky", "unlucky", "lucky"]
    assert [attempt.error_class for attempt in story.attempts] == ["lease_expired", "lease_expired", None]
    assert [line.kind for line in story.ledger] == ["reserve", "settle"]
    assert story.pictures[0].scores == {"detail": 0.25, "alignment": 0.75}
    assert story.finished_at >= story.assigned_at >= story.submitted_at


def test_a_queued_jobs_story_ends_early(shop):
    shop.submit(1)
    story = job_story(shop.engine, shop.read("SELECT id FROM job"))
    assert story.state is JobState.QUEUED
    assert (story.tier, story.attempts, story.ledger, story.pictures) == (None, (), (), ())
    with pytest.raises(NotFound):
        job_story(shop.engine, "nobody")


def test_a_story_says_whether_the_deadline_was_met(shop):
    # Given a job wanted within an hour, one wanted earlier than anybody could, and one at any time
    opened = shop.repository.open_batch(
        client="press", idem_key="k", body_sha256="b", name="n", budget_micro_usd=None
    )
    wanted = ({"within_ms": 3_600_000}, {"deadline_ms": 1_000}, {})
    lines = [
        GenerationRequest(line_no=no, custom_id=f"c{no}", prompt="p", seed=no, **deadline)
        for no, deadline in enumerate(wanted, start=1)
    ]
    shop.repository.add_jobs(opened.batch_id, lines, [], cursor_line=3)
    shop.repository.close_intake(opened.batch_id)
    ids = [shop.read(f"SELECT id FROM job WHERE seq = {no}") for no in (1, 2, 3)]
    before = dict(tell(job_story(shop.engine, ids[0])))
    # When they are drawn
    shop.window()
    shop.work()
    # Then each story tells it, with the client
    told = [dict(tell(job_story(shop.engine, one))) for one in ids]
    assert before["deadline"].endswith(" UTC")
    assert told[0]["deadline"] == f"{before['deadline']}: met"
    assert told[1]["deadline"].startswith("1970-01-01 00:00:01 UTC: missed by ")
    assert "deadline" not in told[2]
    assert told[0]["job"].endswith("of client press")


def test_windows_tell_jobs_and_money_per_decision(shop):
    batch_id = shop.submit(3, budget=1_000)
    shop.repository.record_window(shop.plan(shop.repository.open_window(limit=2)))
    shop.window(tier="edge", price=9)
    first, second = windows(shop.engine, batch_id)
    assert (first.jobs, first.by_tier, first.reserved_micro_usd) == (2, {"cloud": 2}, 130)
    assert (second.jobs, second.by_tier, second.reserved_micro_usd) == (1, {"edge": 1}, 9)
    assert first.threshold == 0.4


def test_mean_scores_are_per_tier_and_metric(shop):
    batch_id = shop.submit(2, pictures=2)
    shop.window()
    shop.work()
    assert mean_scores(shop.engine, batch_id) == {"cloud": {"detail": 0.25, "alignment": 0.75}}


@pytest.mark.parametrize(
    ("invariant", "damage"),
    [
        ("I1", "UPDATE job SET state = 'done' WHERE state = 'queued'"),
        ("I1", "UPDATE job SET state = 'assigned' WHERE state = 'done'"),
        ("I2", "UPDATE batch SET n_accepted = 7"),
        ("I5", "DELETE FROM picture"),
        ("I6", "UPDATE microbatch SET fence = fence + 1 WHERE state = 'claimed'"),
        ("I7", "UPDATE microbatch SET reserved_left = 5 WHERE state = 'done'"),
        ("I8", "UPDATE budget SET spent = spent + 1"),
        ("I8", "UPDATE budget SET reserved = reserved - 1"),
        ("I9", "UPDATE microbatch SET tier = 'edge'"),
        ("I13", "UPDATE waiting SET pictures = pictures + 1"),
    ],
)
def test_a_broken_promise_is_found_and_named(invariant, damage, shop):
    # Given a sound database with jobs done, running and queued
    shop.submit(3, budget=1_000)
    shop.repository.record_window(shop.plan(shop.repository.open_window(limit=2), size=1))
    shop.work()
    shop.poll()
    assert check_invariants(shop.engine) == []
    # When a hand damages it
    shop.change(damage)
    # Then the promise is named
    assert invariant in {violation.invariant for violation in check_invariants(shop.engine)}
