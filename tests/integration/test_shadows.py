"""Shadows on real databases: drawn in the window's transaction, paid by themselves, invisible to users."""

from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy import text

from db import audit
from db.session import transaction
from routet2i.contracts import (
    SHADOW_REASON,
    BudgetPolicy,
    JobState,
    Purse,
    Scope,
    ShadowPlan,
    ShadowTier,
    TierKind,
    Yardstick,
)
from routet2i.errors import NotFound

YARDSTICK = Yardstick(weights={"detail": 1.0}, spans={"detail": 0.5})
EDGE, CLOUD = 9, 65  # micro-USD a picture


def shadows(*, share=1.0, drawn=(), limit=10_000, key="default:0", **changes):
    tiers = {
        "edge": ShadowTier(tier="cloud", kind=TierKind.CLOUD, width=64, height=64, micro_usd=CLOUD),
        "cloud": ShadowTier(tier="edge", kind=TierKind.EDGE, width=64, height=64, micro_usd=EDGE),
    }
    plan = ShadowPlan(
        share=share,
        drawn=frozenset(drawn),
        other=tiers,
        key=key,
        limit_micro_usd=limit,
        microbatch_jobs=16,
        yardstick=YARDSTICK,
    )
    return replace(plan, **changes)


def record(shop, *, drawn=None, **options):
    """Record a window of all that waits; `drawn` = positions of the jobs that chance has hit, default all."""
    plan_options = {name: options.pop(name) for name in ("tier", "price", "purse", "size") if name in options}
    work = shop.repository.open_window(limit=1_000, purse=plan_options.get("purse", Purse()))
    hit = [job.job_id for i, job in enumerate(work.jobs) if drawn is None or i in drawn]
    plan = replace(shop.plan(work, **plan_options), shadows=shadows(drawn=hit, **options))
    shop.repository.record_window(plan)
    return plan


def rows(shop, query, **values):
    with shop.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), values)]


def shadow_batch(shop):
    return shop.read("SELECT id FROM batch WHERE client = 'shadow'")


def propensities(shop):
    return Counter(propensity for (propensity,) in rows(shop, "SELECT propensity FROM assignment"))


def finish_all(shop):
    for tier in ("edge", "cloud"):
        while rows(shop, "SELECT 1 FROM microbatch WHERE state = 'ready' AND tier = :tier", tier=tier):
            shop.work(tier=tier, worker=f"w-{tier}")


# ---------------------------------------------------------------- the draw


def test_a_drawn_job_gets_one_shadow_on_the_other_tier_with_its_prompt_and_seed(shop):
    # Given three jobs for the cloud, two of which chance has hit
    shop.submit(3)
    record(shop, drawn={0, 2})
    # When the shadows are looked at
    found = rows(
        shop,
        """SELECT j.seq, s.prompt = j.prompt, s.seed = j.seed, s.n, a.tier, b.tier, b.reason, b.micro_usd,
                s.seq FROM job s JOIN job j ON j.id = s.shadow_of
            JOIN assignment a ON a.job_id = j.id JOIN assignment b ON b.job_id = s.id ORDER BY j.seq""",
    )
    # Then each repeats its job for the price of one edge picture
    assert found == [
        (1, True, True, 1, "cloud", "edge", SHADOW_REASON, EDGE, 1),
        (3, True, True, 1, "cloud", "edge", SHADOW_REASON, EDGE, 2),
    ]
    assert shop.is_sound()


def test_only_the_first_picture_of_a_job_is_repeated(shop):
    shop.submit(1, pictures=3)
    record(shop)
    finish_all(shop)
    assert rows(shop, "SELECT n FROM job WHERE shadow_of IS NOT NULL") == [(1,)]
    assert len(shop.repository.shadow_pairs()) == 1
    assert shop.is_sound()


def test_without_a_share_nothing_is_written(shop):
    shop.submit(2)
    shop.window()
    assert rows(shop, "SELECT count(*) FROM batch WHERE client = 'shadow'") == [(0,)]
    assert rows(shop, "SELECT DISTINCT propensity FROM assignment") == [(None,)]


def test_every_job_that_could_have_had_a_shadow_knows_its_propensity(shop):
    # Given a share of a quarter that hit one of four jobs
    shop.submit(4)
    record(shop, share=0.25, drawn={1})
    # Then all four tell the probability, and the shadow has none
    assert propensities(shop) == Counter({0.25: 4, None: 1})


def test_a_window_recorded_twice_draws_its_shadows_once(shop):
    # Given a plan whose commit was uncertain
    shop.submit(3)
    plan = record(shop)
    # When it is recorded again
    shop.repository.record_window(plan)
    # Then there is one shadow a job
    assert shop.read("SELECT count(*) FROM job WHERE shadow_of IS NOT NULL") == 3
    assert shop.is_sound()


def test_a_window_that_fails_leaves_no_shadow_behind(shop):
    # Given a second leader whose plan of the same jobs comes too late
    shop.submit(2)
    work = shop.repository.open_window(limit=10)
    late = replace(shop.plan(work), shadows=shadows(drawn=[job.job_id for job in work.jobs]))
    shop.window()
    # When it is recorded
    recorded = shop.repository.record_window(late)
    # Then nothing of it counts, its shadows neither
    assert recorded.assigned == 0
    assert shop.read("SELECT count(*) FROM job WHERE shadow_of IS NOT NULL") == 0
    assert shop.is_sound()


def test_a_job_cannot_have_two_shadows(shop):
    # Given a job with a shadow
    shop.submit(1)
    record(shop)
    # When a hand writes another one, then the database refuses
    with pytest.raises(Exception, match=r"(?i)unique"), transaction(shop.engine) as connection:
        connection.execute(
            text(
                """INSERT INTO job(id, batch_id, seq, custom_id, prompt, seed, n, priority, not_before_ms,
                                   cancel_requested, state, created_ms, shadow_of)
                    SELECT 'other', batch_id, 99, 'other', prompt, seed, 1, 0, 0, 0, 'queued', 0, shadow_of
                    FROM job WHERE shadow_of IS NOT NULL"""
            )
        )


# ---------------------------------------------------------------- money


def test_shadows_spend_their_own_money_only(shop):
    # Given a batch and a deployment with limits of their own
    batch_id = shop.submit(2, budget=2 * CLOUD)
    policy = BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="3600s", limit_micro_usd=1_000)
    record(shop, purse=Purse(policy=policy))
    finish_all(shop)
    # Then the user's batch and the deployment paid for the user's pictures, and the shadows for themselves
    assert shop.money(batch_id) == (0, 2 * CLOUD)
    assert shop.read("SELECT spent FROM budget WHERE id = 'deployment:default'") == 2 * CLOUD
    assert shop.money(shadow_batch(shop)) == (0, 2 * EDGE)
    spending = shop.repository.shadow_spending(batch_id)
    assert (spending.jobs, spending.unfinished, spending.spent_micro_usd) == (2, 0, 2 * EDGE)
    assert shop.is_sound()


def test_when_their_money_ends_there_is_no_shadow_and_no_propensity(shop):
    # Given money for one dear shadow and a bit, and four jobs on the edge
    shop.submit(4)
    record(shop, tier="edge", price=EDGE, limit=CLOUD + 20, share=0.5)
    # Then one job has its shadow, and those behind it were not eligible
    assert shop.read("SELECT count(*) FROM job WHERE shadow_of IS NOT NULL") == 1
    assert propensities(shop) == Counter({0.5: 1, None: 4})
    assert shop.is_sound()


def test_a_jobs_tier_does_not_decide_whether_it_is_eligible(shop):
    # Given money for an edge picture, but not for a cloud picture, and jobs on the cloud
    shop.submit(2)
    record(shop, limit=CLOUD - 1)
    # Then their shadows, cheap as they are, are not drawn: a job on the edge could not have had one
    assert shop.read("SELECT count(*) FROM job WHERE shadow_of IS NOT NULL") == 0
    assert shop.is_sound()


def test_windows_of_one_period_share_one_budget_and_the_next_period_has_its_own(shop):
    # Given three windows, two of them in one period
    for key in ("default:0", "default:0", "default:3600"):
        shop.submit(1)
        record(shop, tier="edge", price=EDGE, limit=CLOUD, key=key)
    # Then each period has one shadow batch with one shadow
    assert rows(shop, "SELECT name, n_accepted FROM batch WHERE client = 'shadow' ORDER BY name") == [
        ("shadow default:0", 1),
        ("shadow default:3600", 1),
    ]
    assert shop.is_sound()


def test_cancelling_the_shadow_batch_ends_shadows_for_the_period(shop):
    # Given a shadow batch that somebody cancels
    shop.submit(1)
    record(shop)
    report = shop.repository.cancel_batch(shadow_batch(shop))
    assert report.cancelled == 1
    # When the next window comes
    shop.submit(1)
    record(shop)
    # Then it draws none, and users' jobs go on
    assert shop.read("SELECT count(*) FROM job WHERE shadow_of IS NOT NULL") == 1
    finish_all(shop)
    assert shop.is_sound()


# ---------------------------------------------------------------- what users see


def test_a_users_batch_does_not_know_of_its_shadows(shop):
    # Given a batch whose jobs have shadows, all drawn
    batch_id = shop.submit(3)
    record(shop)
    finish_all(shop)
    # When its user looks
    status = audit.batch_status(shop.engine, batch_id)
    # Then counts, tiers, money, rows and scores are its own
    assert status.complete
    assert (status.n_accepted, dict(status.by_tier)) == (3, {"cloud": 3})
    assert status.by_state[JobState.SUCCEEDED] == 3
    assert status.spent_micro_usd == 3 * CLOUD
    assert [row["tier"] for row in audit.rows(shop.engine)] == ["cloud"] * 3
    assert set(audit.mean_scores(shop.engine, batch_id)) == {"cloud"}
    assert [window.jobs for window in audit.windows(shop.engine, batch_id)] == [3]
    # And neither the list of batches nor `last` shows the shadows' batch
    assert [one.batch_id for one in audit.batches(shop.engine, limit=10)] == [batch_id]
    assert shop.repository.resolve_batch("last") == batch_id
    # And a job's id means the job
    job_id = shop.read("SELECT id FROM job WHERE shadow_of IS NULL ORDER BY id LIMIT 1")
    assert shop.repository.resolve_job(job_id) == job_id


def test_a_batch_of_shadows_alone_is_not_last(shop):
    shop.submit(1)
    record(shop)
    shop.change("UPDATE batch SET client = 'shadow'")
    with pytest.raises(NotFound, match="no batch yet"):
        shop.repository.resolve_batch("last")


def test_a_shadows_own_story_can_be_told(shop):
    shop.submit(1)
    record(shop)
    finish_all(shop)
    shadow = shop.read("SELECT id FROM job WHERE shadow_of IS NOT NULL")
    story = audit.job_story(shop.engine, shop.repository.resolve_job(shadow))
    assert (story.reason, story.tier, story.state) == (SHADOW_REASON, "edge", JobState.SUCCEEDED)


# ---------------------------------------------------------------- pairs


def test_a_pair_is_complete_once_both_pictures_are_there(shop):
    # Given two jobs with shadows, of which only the users' pictures are drawn
    batch_id = shop.submit(2)
    record(shop, share=0.5)
    shop.work(tier="cloud", worker="w-cloud")
    assert shop.repository.shadow_pairs() == []
    assert shop.repository.shadow_spending(batch_id).unfinished == 2
    # When the shadows are drawn too
    finish_all(shop)
    # Then both pairs are there, with what was predicted and by whom
    pairs = shop.repository.shadow_pairs(batch_id=batch_id)
    assert [pair.prompt for pair in pairs] == ["1 red circles", "2 red circles"]
    assert {(pair.prs, pair.propensity, pair.tier, pair.predictor_version) for pair in pairs} == {
        (0.3, 0.5, "cloud", "1")
    }
    assert all(set(pair.sides) == {"edge", "cloud"} for pair in pairs)
    assert pairs[0].sides["edge"].scores == {"detail": 0.25, "alignment": 0.75}
    # And the newest one, and those of another version, can be asked for
    assert [pair.prompt for pair in shop.repository.shadow_pairs(limit=1)] == ["2 red circles"]
    assert shop.repository.shadow_pairs(version="other") == []
    assert shop.repository.yardsticks() == {("constant", "1"): YARDSTICK}


def test_a_failed_shadow_is_no_pair_and_costs_nothing(shop):
    # Given a shadow that cannot be drawn
    batch_id = shop.submit(1)
    record(shop)
    shop.work(tier="cloud", worker="w-cloud")
    claim = shop.poll(tier="edge", worker="w-edge")
    assert shop.repository.record(claim, [shop.outcome(claim.jobs[0], fails=True)])
    assert shop.repository.finish(claim)
    # Then there is no pair, and the user's batch ended well
    assert shop.repository.shadow_pairs() == []
    assert shop.repository.shadow_spending(batch_id).spent_micro_usd == 0
    assert shop.states(batch_id) == {"succeeded": 1}
    assert shop.is_sound()


def test_a_yardstick_is_written_once_and_never_changes(shop):
    for _ in range(2):
        shop.submit(1)
        record(shop)
    assert len(shop.repository.yardsticks()) == 1
    with pytest.raises(Exception, match="append-only"), transaction(shop.engine) as connection:
        connection.execute(text("UPDATE yardstick SET spans = '{}'"))


@pytest.mark.parametrize(
    "break_it",
    [
        "UPDATE job SET seed = seed + 1 WHERE shadow_of IS NOT NULL",
        "UPDATE job SET prompt = 'another' WHERE shadow_of IS NOT NULL",
        "UPDATE batch SET client = 'default' WHERE client = 'shadow'",
        "UPDATE job SET shadow_of = NULL",
    ],
)
def test_the_invariants_notice_a_shadow_that_is_none(shop, break_it):
    # Given a sound shadow
    shop.submit(1)
    record(shop)
    assert shop.is_sound()
    # When a hand spoils it, then the checker says so
    shop.change(break_it)
    assert "I11" in {violation.invariant for violation in audit.check_invariants(shop.engine)}
