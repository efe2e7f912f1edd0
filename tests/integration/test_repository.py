"""The verbs one by one, on SQLite and PostgreSQL; in any order they stand in test_protocol.py."""

import re
import time
from dataclasses import replace

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from db import turns
from db.audit import rejections
from db.dialects import run
from db.repository import Repository
from db.session import reading
from routet2i.contracts import (
    BudgetPolicy,
    GenerationRequest,
    JobState,
    Purse,
    Rejection,
    Scope,
)
from routet2i.errors import Conflict, LeaseLost, NotFound, RouteT2IError

# ---------------------------------------------------------------- intake


def hour(limit: int) -> Purse:
    """A limit of the environment for the deployment's first hour."""
    policy = BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="3600s", limit_micro_usd=limit)
    return Purse(policy=policy, now_ms=0)


def open_batch(repository: Repository, *, body="b", key="k", budget=None):
    return repository.open_batch(
        client="t", idem_key=key, body_sha256=body, name="n", budget_micro_usd=budget
    )


def request(line: int, *, custom_id: str | None = None) -> GenerationRequest:
    return GenerationRequest(line_no=line, custom_id=custom_id or f"c{line}", prompt="a cat", seed=line)


def test_the_same_key_and_body_are_the_same_batch_and_another_body_is_a_conflict(repository):
    # Given a batch
    first = open_batch(repository)
    # When the same submission comes again
    again = open_batch(repository)
    # Then it is the same batch
    assert first.created
    assert not again.created
    assert again.batch_id == first.batch_id
    # And another body under that key is refused
    with pytest.raises(Conflict, match="another body"):
        open_batch(repository, body="other")


def test_a_step_of_intake_may_be_repeated_or_overlap(repository, shop):
    # Given a step that was committed
    batch_id = open_batch(repository).batch_id
    bad = Rejection(line_no=2, reason="no prompt", remedy="write one", raw_sha256="ff")
    repository.add_jobs(batch_id, [request(1)], [bad], cursor_line=2)
    # When it is repeated, and when a longer step overlaps it
    repository.add_jobs(batch_id, [request(1)], [bad], cursor_line=2)
    repository.add_jobs(batch_id, [request(1), request(3)], [bad], cursor_line=3)
    # Then each line counts once
    assert open_batch(repository).cursor_line == 3
    assert shop.read("SELECT n_accepted FROM batch") == 2
    assert rejections(shop.engine, batch_id) == [bad]
    assert shop.is_sound()


def test_a_custom_id_that_stands_twice_is_rejected_with_its_line(repository, shop):
    # Given a batch with custom id c1
    batch_id = open_batch(repository).batch_id
    repository.add_jobs(batch_id, [request(1)], [], cursor_line=1)
    # When a later line has it again
    refused = repository.add_jobs(batch_id, [request(2, custom_id="c1"), request(3)], [], cursor_line=3)
    # Then that line alone is rejected
    assert [rejection.line_no for rejection in refused] == [2]
    assert [rejection.line_no for rejection in rejections(shop.engine, batch_id)] == [2]
    assert shop.is_sound()


def test_windows_see_a_batch_only_after_its_intake_is_closed(repository):
    # Given a batch still coming in
    batch_id = open_batch(repository).batch_id
    repository.add_jobs(batch_id, [request(1)], [], cursor_line=1)
    assert repository.open_window(limit=10) is None
    # When intake closes
    repository.close_intake(batch_id)
    # Then its job waits
    work = repository.open_window(limit=10)
    assert work is not None
    assert len(work.jobs) == 1


def test_a_closed_batch_takes_no_more_jobs(repository):
    batch_id = open_batch(repository).batch_id
    repository.close_intake(batch_id)
    with pytest.raises(Conflict, match="takes no more jobs"):
        repository.add_jobs(batch_id, [request(1)], [], cursor_line=1)
    with pytest.raises(NotFound):
        repository.add_jobs("nobody", [request(1)], [], cursor_line=1)


# ---------------------------------------------------------------- leader


def test_there_is_one_leader_and_each_election_has_a_higher_term(repository, shop):
    # Given a leader
    term = repository.elect(holder="a", ttl_seconds=15)
    assert term == 1
    assert repository.elect(holder="b", ttl_seconds=15) is None
    assert repository.keep_leading(holder="a", term=1, ttl_seconds=15)
    # When its lease ends
    shop.change("UPDATE leader SET expires_ms = 1")
    # Then another one is elected, and the first cannot go on
    assert not repository.keep_leading(holder="a", term=1, ttl_seconds=15)
    assert repository.elect(holder="b", ttl_seconds=15) == 2
    assert not repository.keep_leading(holder="a", term=1, ttl_seconds=15)
    # And a leader that resigns makes room at once
    repository.resign(holder="b", term=2)
    assert repository.elect(holder="a", ttl_seconds=15) == 3


def test_a_term_that_the_clock_left_in_the_future_ends_at_once(repository, shop):
    # Given a leader that died as the database's clock went back ten minutes
    assert repository.elect(holder="a", ttl_seconds=15) == 1
    shop.change("UPDATE leader SET expires_ms = expires_ms + 600000")
    # When another one looks, then it leads
    assert repository.elect(holder="b", ttl_seconds=15) == 2
    # And a term that is merely fresh is left alone
    assert repository.elect(holder="a", ttl_seconds=15) is None


def test_a_deposed_leader_records_no_window(repository, shop):
    # Given a plan made in term 1
    shop.submit()
    term = repository.elect(holder="a", ttl_seconds=15)
    plan = shop.plan(repository.open_window(limit=10), term=term)
    # When somebody else leads
    shop.change("UPDATE leader SET expires_ms = 1")
    repository.elect(holder="b", ttl_seconds=15)
    # Then the plan is refused and nothing of it stays
    with pytest.raises(LeaseLost, match="term 1"):
        repository.record_window(plan)
    assert shop.read("SELECT count(*) FROM decision_window") == 0


# ---------------------------------------------------------------- window


def test_a_window_takes_priority_first_then_age_and_tells_the_money(repository, shop):
    # Given an old batch, a younger one, and an urgent one
    old = shop.submit(2, budget=1_000)
    young = shop.submit(1, pictures=3)
    urgent = shop.submit(1, priority=5)
    # When a window opens
    work = repository.open_window(limit=10)
    # Then the jobs come in that order, with each batch's money and waiting pictures
    assert [job.batch_id for job in work.jobs] == [urgent, old, old, young]
    assert [job.prompt for job in work.jobs[1:3]] == ["1 red circles", "2 red circles"]
    assert work.accounts[work.chains[old][0]].limit == 1_000
    assert work.accounts[work.chains[young][0]].limit is None
    assert sum(group.pictures for group in work.waiting[young]) == 3


def test_a_recorded_window_reserves_and_assigns_and_may_be_repeated(repository, shop):
    # Given a plan
    batch_id = shop.submit(3, budget=1_000)
    plan = shop.plan(repository.open_window(limit=10), size=2, price=65)
    # When it is recorded, twice
    first = repository.record_window(plan)
    assert repository.record_window(plan) == first
    # Then there are two microbatches and money for three jobs
    assert (first.assigned, first.deferred, first.fallback) == (3, 0, 0)
    assert shop.money(batch_id) == (195, 0)
    assert shop.states(batch_id) == {"assigned": 3}
    assert repository.open_window(limit=10) is None
    assert shop.is_sound()


def test_a_refused_microbatch_takes_its_fallback_with_the_guard_as_reason(repository, shop):
    # Given money for the edge only
    batch_id = shop.submit(2, budget=20)
    # When the cloud is proposed
    window = shop.window(price=65, fallback_price=9)
    # Then the ledger sends the jobs to the edge
    assert (window.assigned, window.fallback) == (2, 2)
    assert shop.money(batch_id) == (18, 0)
    assert shop.read("SELECT min(reason) FROM assignment") == "budget_guard"
    assert shop.read("SELECT tier FROM microbatch") == "edge"
    assert shop.is_sound()


def test_jobs_without_money_stay_queued_for_a_moment(repository, shop):
    # Given money for nothing
    batch_id = shop.submit(2, budget=5)
    # When a window is recorded
    window = shop.window(price=65, fallback_price=9)
    # Then the jobs wait, and the next window does not see them at once
    assert (window.assigned, window.deferred) == (0, 2)
    assert shop.states(batch_id) == {"queued": 2}
    assert shop.read("SELECT min(defer_reason) FROM job") == "budget"
    assert repository.open_window(limit=10) is None
    # And after their pause it does
    shop.change("UPDATE job SET not_before_ms = 0")
    assert len(repository.open_window(limit=10).jobs) == 2


def test_the_allocator_may_defer_jobs_itself(repository, shop):
    shop.submit(1)
    work = repository.open_window(limit=10)
    plan = replace(shop.plan(work), microbatches=(), deferred=((work.jobs[0].job_id, "budget"),))
    assert repository.record_window(plan).deferred == 1
    assert repository.open_window(limit=10) is None


def test_a_period_budget_binds_several_batches_together(repository, shop):
    # Given two rich batches and a deployment that may spend 100 in this hour
    one, two = shop.submit(1), shop.submit(1)
    # When both want 65
    window = shop.window(price=65, fallback_price=9, purse=hour(100))
    # Then the second one falls back, and both are posted to both budgets
    assert (window.assigned, window.fallback) == (2, 1)
    assert shop.read("SELECT reserved FROM budget WHERE id = 'deployment:default'") == 74
    assert sorted([shop.money(one)[0], shop.money(two)[0]]) == [9, 65]
    shop.work(tier="cloud")
    shop.work(tier="edge")
    assert shop.read("SELECT spent FROM budget WHERE id = 'deployment:default'") == 74
    assert shop.is_sound()


def test_a_job_cancelled_while_the_window_decides_is_dropped(repository, shop):
    # Given a plan for two jobs
    batch_id = shop.submit(2)
    work = repository.open_window(limit=10)
    plan = shop.plan(work)
    # When one of them is cancelled before the plan is recorded
    assert repository.cancel_job(work.jobs[0].job_id) is JobState.QUEUED
    # Then only the other one is assigned and paid for
    assert repository.record_window(plan).assigned == 1
    assert shop.money(batch_id) == (65, 0)
    assert shop.is_sound()


def test_two_leaders_with_the_same_jobs_assign_them_once(repository, shop):
    batch_id = shop.submit(2)
    work = repository.open_window(limit=10)
    first, second = shop.plan(work), shop.plan(work)
    assert repository.record_window(first).assigned == 2
    assert repository.record_window(second).assigned == 0
    assert shop.money(batch_id) == (130, 0)
    assert shop.is_sound()


# ---------------------------------------------------------------- dispatch, claim


def test_no_more_are_sent_than_the_limit_allows(repository, shop):
    # Given four ready microbatches
    shop.submit(4)
    shop.window(size=1)
    # When two may be in flight
    sent = repository.mark_sent(limits={"cloud": 2, "edge": 2})
    # Then two are sent, the oldest, and no more until one is claimed
    assert len(sent) == 2
    assert not repository.mark_sent(limits={"cloud": 2})
    assert repository.claim(sent[0].microbatch_id, tier="cloud", worker="w", lease_seconds=45)
    assert len(repository.mark_sent(limits={"cloud": 2})) == 1


def test_a_claim_is_taken_once_and_by_its_own_tier(repository, shop):
    # Given a sent microbatch
    batch_id = shop.submit(2)
    shop.window()
    (sent,) = repository.mark_sent(limits={"cloud": 3})
    # Then another tier cannot have it
    assert repository.claim(sent.microbatch_id, tier="edge", worker="e", lease_seconds=45) is None
    # And the first of its own tier has it alone
    claim = repository.claim(sent.microbatch_id, tier="cloud", worker="w1", lease_seconds=45)
    assert claim.fence == 1
    assert [job.prompt for job in claim.jobs] == ["1 red circles", "2 red circles"]
    assert [job.micro_usd for job in claim.jobs] == [65, 65]
    assert repository.claim(sent.microbatch_id, tier="cloud", worker="w2", lease_seconds=45) is None
    assert repository.poll(tier="cloud", worker="w2", lease_seconds=45) is None
    assert shop.states(batch_id) == {"running": 2}
    assert repository.renew(claim)
    assert shop.is_sound()


def test_an_expired_lease_is_not_taken_over_by_a_claim(repository, shop):
    shop.submit(1)
    shop.window()
    claim = shop.poll()
    shop.expire(claim)
    assert repository.claim(claim.microbatch_id, tier="cloud", worker="w2", lease_seconds=45) is None


# ---------------------------------------------------------------- record, finish, release


def test_record_and_finish_write_the_end_once(repository, shop):
    # Given a claim of three
    batch_id = shop.submit(3, budget=1_000)
    shop.window()
    claim = shop.poll()
    good, cheap, bad = claim.jobs
    outcomes = [
        shop.outcome(good),
        shop.outcome(cheap, charged=60),
        shop.outcome(bad, fails=True),
    ]
    # When they are recorded, as a whole and again
    assert repository.record(claim, outcomes)
    assert repository.record(claim, outcomes)
    # Then each has one outcome; what was charged is spent and the rest is free
    assert shop.states(batch_id) == {"succeeded": 2, "failed": 1}
    assert shop.money(batch_id) == (0, 125)
    # And closing may be repeated too, and so may a late, uncertain record
    assert repository.finish(claim)
    assert repository.finish(claim)
    assert repository.record(claim, outcomes)
    assert not repository.renew(claim)
    assert shop.is_sound()


def test_a_microbatch_with_undecided_jobs_cannot_be_finished(repository, shop):
    shop.submit(2)
    shop.window()
    claim = shop.poll()
    repository.record(claim, [shop.outcome(claim.jobs[0])])
    with pytest.raises(RouteT2IError, match="1 jobs have no outcome"):
        repository.finish(claim)
    assert shop.is_sound()


def test_an_outcome_cannot_charge_more_than_was_reserved(repository, shop):
    batch_id = shop.submit(1)
    shop.window(price=65)
    claim = shop.poll()
    with pytest.raises(ValueError, match="66 micro-USD"):
        repository.record(claim, [shop.outcome(claim.jobs[0], charged=66)])
    assert shop.states(batch_id) == {"running": 1}
    assert shop.is_sound()


def test_what_the_clock_left_in_the_future_comes_back_as_if_it_had_not_moved(repository, shop):
    # Given claims of a worker that lives and of one that dies as the database's clock goes back ten minutes
    claims = {}
    for worker in ("alive", "dead"):
        shop.submit(1)
        shop.window()
        claims[worker] = shop.poll(worker=worker)
        repository.beat(worker=worker, tier="cloud", device="cpu", version="1", state="busy")
    shop.change("UPDATE worker SET heartbeat_ms = heartbeat_ms + 600000")
    shop.change("UPDATE microbatch SET lease_until_ms = lease_until_ms + 600000 WHERE state = 'claimed'")
    repository.beat(worker="alive", tier="cloud", device="cpu", version="1", state="busy")
    assert repository.renew(claims["alive"])
    # When the sweeper looks
    assert shop.sweep().expired == 0
    # Then no lease is longer than one, and the living worker's is whole
    most = shop.read("SELECT max(lease_until_ms) FROM microbatch")
    assert most - time.time() * 1000 <= 45_000
    assert repository.renew(claims["alive"])
    # And the dead one's ends as if the clock had not moved
    shop.change(
        "UPDATE microbatch SET lease_until_ms = lease_until_ms - 45000 WHERE id = :id",
        id=claims["dead"].microbatch_id,
    )
    assert shop.sweep().expired == 1
    assert shop.is_sound()


def test_a_message_that_was_sent_in_the_future_is_sent_again(repository, shop):
    # Given a message, and a clock that went back ten minutes since
    shop.submit(1)
    shop.window()
    repository.mark_sent(limits={"cloud": 1})
    shop.change("UPDATE microbatch SET sent_at_ms = sent_at_ms + 600000")
    # When the sweeper looks, then it does not wait for that time to come again
    assert shop.sweep().resent == 1


def test_a_released_claim_comes_back_without_a_death(repository, shop):
    # Given a claim with one job done
    batch_id = shop.submit(2)
    shop.window()
    claim = shop.poll()
    repository.record(claim, [shop.outcome(claim.jobs[0])])
    # When its worker gives it back
    assert repository.release(claim, reason="disk full")
    # Then the other job is ready, no death is counted, and the old claim is void
    assert shop.states(batch_id) == {"succeeded": 1, "assigned": 1}
    assert shop.read("SELECT deaths FROM microbatch") == 0
    assert not repository.record(claim, [shop.outcome(claim.jobs[1])])
    assert not repository.release(claim, reason="again")
    second = shop.work()
    assert second.fence > claim.fence
    assert [job.job_id for job in second.jobs] == [claim.jobs[1].job_id]
    assert shop.is_sound()


# ---------------------------------------------------------------- workers


def test_live_workers_are_counted_by_tier(repository, shop):
    for worker, tier, state in [
        ("a", "edge", "idle"),
        ("b", "edge", "busy"),
        ("c", "cloud", "draining"),
        ("d", "cloud", "idle"),
    ]:
        repository.beat(worker=worker, tier=tier, device="cpu", version="0", state=state)
    assert repository.live_workers(within_seconds=60) == {"edge": 2, "cloud": 1}
    shop.change("UPDATE worker SET heartbeat_ms = 1")
    assert repository.live_workers(within_seconds=60) == {}
    assert shop.sweep().lost_workers == 3
    repository.beat(worker="a", tier="edge", device="cpu", version="0", state="idle")
    assert repository.live_workers(within_seconds=60) == {"edge": 1}


# ---------------------------------------------------------------- sweep


def test_a_lost_message_is_sent_again_ever_more_slowly(repository, shop):
    # Given a microbatch sent 40 s ago
    shop.submit(1)
    shop.window()
    repository.mark_sent(limits={"cloud": 1})
    assert shop.sweep().resent == 0
    shop.change("UPDATE microbatch SET sent_at_ms = sent_at_ms - 40000")
    # Then it is ready again after 30 s
    assert shop.sweep().resent == 1
    # And after its second message 40 s are not enough, 80 are
    repository.mark_sent(limits={"cloud": 1})
    shop.change("UPDATE microbatch SET sent_at_ms = sent_at_ms - 40000")
    assert shop.sweep().resent == 0
    shop.change("UPDATE microbatch SET sent_at_ms = sent_at_ms - 40000")
    assert shop.sweep().resent == 1
    # And never longer than five minutes
    repository.mark_sent(limits={"cloud": 1})
    shop.change("UPDATE microbatch SET deliveries = 40, sent_at_ms = sent_at_ms - 301000")
    assert shop.sweep().resent == 1
    # And a message counts no death
    assert shop.read("SELECT deaths FROM microbatch") == 0


def test_a_dead_workers_jobs_come_back_then_go_on_alone_then_are_poison(repository, shop):
    # Given three jobs, of which the second kills its worker
    batch_id = shop.submit(3, budget=1_000)
    shop.window()
    # When two workers die with the whole microbatch
    shop.expire(shop.poll())
    assert shop.sweep() == replace(shop.sweep(), expired=1)
    shop.expire(shop.poll())
    # Then it is split, and each job takes its own money along
    assert shop.sweep().split == 1
    assert shop.money(batch_id) == (195, 0)
    assert shop.is_sound()
    # And the innocent succeed while the guilty one is condemned after two more deaths
    poisoned = 0
    while (claim := repository.poll(tier="cloud", worker="w", lease_seconds=45)) is not None:
        (job,) = claim.jobs
        if job.prompt == "2 red circles":
            shop.expire(claim)
            poisoned += shop.sweep(max_deaths=4).poisoned
        else:
            repository.record(claim, [shop.outcome(job)])
            repository.finish(claim)
        assert shop.is_sound()
    assert poisoned == 1
    assert shop.states(batch_id) == {"succeeded": 2, "failed": 1}
    assert shop.money(batch_id) == (0, 130)
    assert shop.read("SELECT error_class FROM outcome WHERE state = 'failed'") == "poison"
    assert shop.read("SELECT max(deaths) FROM microbatch WHERE state = 'dead'") == 4


def test_a_draining_workers_silence_counts_no_death(repository, shop):
    shop.submit(1)
    shop.window()
    repository.beat(worker="w1", tier="cloud", device="cpu", version="0", state="draining")
    shop.expire(shop.poll(worker="w1"))
    assert shop.sweep().expired == 1
    assert shop.read("SELECT deaths FROM microbatch") == 0


def test_claims_that_nobody_could_renew_count_no_death(repository, shop):
    # Given a claim whose lease ended while the database was away
    shop.submit(1)
    shop.window()
    shop.expire(shop.poll())
    # When the sweeper knows that
    report = repository.sweep(resend_seconds=30, max_deaths=1, heartbeat_seconds=5, innocent=True)
    # Then the job is ready for the next worker and its worker is not counted as dead
    assert (report.expired, report.poisoned) == (1, 0)
    assert shop.read("SELECT deaths FROM microbatch") == 0
    assert shop.read("SELECT state FROM microbatch") == "ready"


def test_a_worker_that_was_cut_off_from_the_database_takes_its_death_back_once(repository, shop):
    # Given a claim that the sweeper ended while its worker could not reach the database
    shop.submit(2)
    shop.window()
    claim = shop.poll()
    shop.expire(claim)
    shop.sweep()
    assert shop.read("SELECT deaths FROM microbatch") == 1
    # When it comes back and says so, twice
    assert repository.report_cut_off(claim)
    assert not repository.report_cut_off(claim)
    # Then no death is counted, and the work goes on
    assert shop.read("SELECT deaths FROM microbatch") == 0
    assert not repository.record(claim, shop.outcomes(claim))
    shop.work()
    assert shop.is_sound()


def test_a_worker_that_comes_back_before_the_sweeper_gives_its_claim_back(repository, shop):
    shop.submit(1)
    shop.window()
    claim = shop.poll()
    shop.expire(claim)
    assert repository.report_cut_off(claim)
    assert shop.read("SELECT state FROM microbatch") == "ready"
    assert shop.sweep().expired == 0
    assert shop.read("SELECT deaths FROM microbatch") == 0


def test_a_death_that_was_handed_down_by_a_split_is_taken_back_from_each_job(repository, shop):
    # Given a microbatch that was split: one worker died with it, the other one was cut off
    shop.submit(2)
    shop.window()
    shop.expire(shop.poll())
    shop.sweep()
    claim = shop.poll()
    shop.expire(claim)
    assert shop.sweep().split == 1
    # When the second comes back after one of the jobs was claimed anew
    taken = shop.poll()
    assert repository.report_cut_off(claim)
    assert not repository.report_cut_off(claim)
    # Then only the job that nobody has taken since has one death less
    assert shop.read("SELECT deaths FROM microbatch WHERE id = :id", id=taken.microbatch_id) == 2
    assert shop.read("SELECT deaths FROM microbatch WHERE state = 'ready'") == 1
    assert shop.is_sound()


def test_a_death_that_was_not_counted_is_not_taken_back(repository, shop):
    # Given a microbatch with a death of its own, whose next claim ended while the database was away
    shop.submit(1)
    shop.window()
    shop.expire(shop.poll())
    shop.sweep()
    claim = shop.poll()
    shop.expire(claim)
    repository.sweep(resend_seconds=30, max_deaths=4, heartbeat_seconds=5, innocent=True)
    # When the worker of that claim says that it was cut off
    assert not repository.report_cut_off(claim)
    # Then the first one's death stands
    assert shop.read("SELECT deaths FROM microbatch") == 1


def test_a_row_that_cannot_be_swept_is_an_alarm_and_keeps_nobody_from_being_swept(repository, shop):
    # Given two dead workers' claims, and a hand that took the money of the first, whose job is cancelled
    for _ in range(2):
        shop.submit(1)
        shop.window()
    first, second = sorted((shop.poll(worker="w1"), shop.poll(worker="w2")), key=lambda c: c.microbatch_id)
    shop.change("UPDATE job SET cancel_requested = 1 WHERE id = :id", id=first.jobs[0].job_id)
    shop.change("UPDATE microbatch SET reserved_left = 0 WHERE id = :id", id=first.microbatch_id)
    shop.expire(first)
    shop.expire(second)
    # When the sweeper comes, twice
    for expired in (1, 0):
        with capture_logs() as lines:
            report = shop.sweep()
        # Then it tells which one it cannot end, and the other one is ready again
        assert (report.expired, report.failed) == (expired, 1)
        (alarm,) = [line for line in lines if line["log_level"] == "critical"]
        assert (alarm["event"], alarm["microbatch"]) == ("sweep_failed", first.microbatch_id)
    assert shop.read("SELECT state FROM microbatch WHERE id = :id", id=second.microbatch_id) == "ready"
    # And with its money back it is swept like any other
    shop.change("UPDATE microbatch SET reserved_left = 65 WHERE id = :id", id=first.microbatch_id)
    assert (shop.sweep().cancelled, shop.sweep().failed) == (1, 0)


def test_a_claim_that_died_after_its_last_record_is_closed(repository, shop):
    batch_id = shop.submit(2)
    shop.window()
    claim = shop.poll()
    repository.record(claim, shop.outcomes(claim))
    shop.expire(claim)
    assert shop.sweep().expired == 1
    assert shop.read("SELECT state FROM microbatch") == "done"
    assert shop.states(batch_id) == {"succeeded": 2}
    assert shop.is_sound()


def test_forgotten_money_of_a_closed_microbatch_is_released(repository, shop):
    # Given a microbatch that a hand closed
    batch_id = shop.submit(1)
    shop.window()
    shop.change("UPDATE microbatch SET state = 'dead'")
    # When the sweeper comes
    assert shop.sweep().released == 1
    # Then its money is free
    assert shop.money(batch_id) == (0, 0)
    assert shop.sweep().released == 0


# ---------------------------------------------------------------- cancel


def test_cancelling_a_batch_ends_what_waits_and_asks_what_runs(repository, shop):
    # Given jobs done, running, assigned and queued
    batch_id = shop.submit(4, budget=1_000)
    work = repository.open_window(limit=3)
    repository.record_window(shop.plan(work, size=1))
    shop.work()
    running = shop.poll()
    # When the batch is cancelled
    report = repository.cancel_batch(batch_id)
    # Then the reply tells them apart
    assert (report.cancelled, report.running, report.already_final) == (2, 1, 1)
    assert shop.states(batch_id) == {"succeeded": 1, "running": 1, "cancelled": 2}
    assert shop.money(batch_id) == (65, 65)
    assert shop.is_sound()
    # And the worker is told, drops its job and closes
    (job,) = running.jobs
    assert repository.cancelled(running) == {job.job_id}
    assert repository.finish(running)
    assert shop.states(batch_id) == {"succeeded": 1, "cancelled": 3}
    assert shop.money(batch_id) == (0, 65)
    assert shop.is_sound()
    # And a second cancellation finds nothing to do
    assert repository.cancel_batch(batch_id).already_final == 4


def test_a_microbatch_of_cancelled_jobs_is_closed_before_anyone_claims_it(repository, shop):
    batch_id = shop.submit(2)
    shop.window()
    repository.cancel_batch(batch_id)
    assert shop.read("SELECT state FROM microbatch") == "cancelled"
    assert repository.poll(tier="cloud", worker="w", lease_seconds=45) is None


def test_cancelling_a_job_tells_what_it_was(repository, shop):
    batch_id = shop.submit(3)
    work = repository.open_window(limit=2)
    repository.record_window(shop.plan(work, size=2))
    queued = shop.read("SELECT id FROM job WHERE state = 'queued'")
    assert repository.cancel_job(queued) is JobState.QUEUED
    assert repository.cancel_job(queued) is JobState.CANCELLED
    assert repository.cancel_job(work.jobs[0].job_id) is JobState.ASSIGNED
    assert shop.is_sound()
    claim = shop.poll()
    assert repository.cancel_job(claim.jobs[0].job_id) is JobState.RUNNING
    repository.finish(claim)
    assert shop.states(batch_id) == {"cancelled": 3}
    with pytest.raises(NotFound):
        repository.cancel_job("nobody")


def test_a_cancellation_survives_its_workers_death(repository, shop):
    batch_id = shop.submit(2)
    shop.window()
    claim = shop.poll()
    repository.cancel_job(claim.jobs[0].job_id)
    shop.expire(claim)
    assert shop.sweep().cancelled == 1
    assert shop.states(batch_id) == {"cancelled": 1, "assigned": 1}
    assert shop.is_sound()


# ---------------------------------------------------------------- lookup


def test_ids_are_found_by_prefix_custom_id_and_last(repository, shop):
    first, second = shop.submit(2), shop.submit(2)
    assert repository.resolve_batch(first) == first
    assert repository.resolve_batch("last") == second
    with pytest.raises(NotFound, match="several"):
        repository.resolve_batch(first[:2])
    with pytest.raises(NotFound, match="no batch 'zzz'"):
        repository.resolve_batch("zzz")
    job = repository.resolve_job("job-2", batch_id=second)
    assert repository.resolve_job(job) == job
    assert repository.resolve_job(job[:-1]) == job
    with pytest.raises(NotFound, match="several"):
        repository.resolve_job("job-2")
    with pytest.raises(NotFound):
        repository.resolve_job("job-9")


# ---------------------------------------------------------------- speed that must not depend on the backlog


def plan_of(engine: Engine, statement: str, **parameters: object) -> str:
    """Return how the database would run a statement, without the cheap plan of a nearly empty table."""
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            rows = run(connection, f"EXPLAIN QUERY PLAN {statement}", parameters)
            return "\n".join(row.detail for row in rows)
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        connection.execute(text("SET LOCAL enable_sort = off"))
        connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        return "\n".join(run(connection, f"EXPLAIN {statement}", parameters).scalars())


def test_claim_and_window_walk_an_index(engine):
    claim = plan_of(
        engine,
        "SELECT id FROM microbatch WHERE tier = :tier AND state = 'ready' ORDER BY id LIMIT 1",
        tier="edge",
    )
    assert "ix_microbatch_tier_state" in claim
    first = plan_of(engine, turns.FIRST, most=512, ids='["a"]', names='["cloud"]')
    assert "ix_job_jump" in first
    oldest = plan_of(engine, turns.OLDEST, most=64, ids='["a"]', names='["cloud"]')
    for window in (first, oldest):
        assert "ix_job_queue" in window
        assert "TEMP B-TREE" not in window
        assert not re.search(r"(SCAN|Seq Scan on) j\b|Sort", window)
    waiting = plan_of(engine, turns.COUNT)
    assert "job" not in re.findall(r"(?:SCAN|Seq Scan on) (\w+)", waiting)
    jobs = plan_of(engine, "SELECT id FROM job WHERE microbatch_id = :id AND state = 'assigned'", id="m")
    assert "ix_job_microbatch" in jobs
    expired = plan_of(engine, "SELECT id FROM microbatch WHERE state = 'claimed' AND lease_until_ms < 5")
    assert "ix_microbatch_lease" in expired
