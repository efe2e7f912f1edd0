"""Each condition of claim, hold and sweep by itself: what is not its case is left alone."""

from functools import partial

import pytest

from db import sweeping
from db.session import write
from routet2i.errors import RouteT2IError

OTHER_STATES = ("claimed", "done", "split", "dead", "cancelled")


@pytest.fixture
def sent(repository, shop):
    """The id of a microbatch of three jobs on the cloud tier that was sent."""
    shop.submit(3)
    shop.window()
    (one,) = repository.mark_sent(limits={"cloud": 1})
    return one.microbatch_id


def force(shop, microbatch_id, state):
    """Let a hand make a microbatch something else."""
    lease = 1 if state == "claimed" else None
    shop.change(
        "UPDATE microbatch SET state = :state, lease_until_ms = :lease WHERE id = :id",
        state=state,
        lease=lease,
        id=microbatch_id,
    )


def beat(repository, worker="w9", *, tier="cloud", state="idle"):
    repository.beat(worker=worker, tier=tier, device="cpu", version="0", state=state)


# ---------------------------------------------------------------- claim


@pytest.mark.parametrize("state", OTHER_STATES)
def test_nothing_but_what_waits_is_claimed(repository, shop, sent, state):
    force(shop, sent, state)
    assert repository.claim(sent, tier="cloud", worker="w", lease_seconds=9) is None
    assert repository.poll(tier="cloud", worker="w", lease_seconds=9) is None
    assert shop.read("SELECT count(*) FROM attempt") == 0


def test_nobody_claims_for_another_tier_and_polls_leave_alone_what_is_sent(repository, shop, sent):
    assert repository.claim(sent, tier="edge", worker="w", lease_seconds=9) is None
    assert repository.poll(tier="cloud", worker="w", lease_seconds=9) is None
    shop.change("UPDATE microbatch SET state = 'ready'")
    assert repository.poll(tier="edge", worker="w", lease_seconds=9) is None
    assert shop.poll().microbatch_id == sent


def test_a_claim_leaves_out_jobs_that_somebody_cancelled(repository, shop, sent):
    # Given a claim of three jobs, one of which is cancelled while it runs, and a worker that dies
    first = repository.claim(sent, tier="cloud", worker="w1", lease_seconds=45)
    shop.change("UPDATE job SET cancel_requested = 1 WHERE id = :id", id=first.jobs[0].job_id)
    # When the microbatch is ready again before anybody has closed that job
    shop.change("UPDATE microbatch SET state = 'ready', lease_until_ms = NULL, fence = fence + 1")
    second = shop.poll()
    # Then the next one gets the two others, and has attempts of them only
    assert second.jobs == first.jobs[1:]
    assert shop.read("SELECT count(*) FROM attempt WHERE fence = :fence", fence=second.fence) == 2


def test_progress_counts_the_jobs_that_have_their_outcome(repository, shop, sent):
    # Given a claim of three jobs
    claim = repository.claim(sent, tier="cloud", worker="w1", lease_seconds=45)
    assert repository.progress(sent) == (0, 3)
    # When one is drawn
    repository.record(claim, [shop.outcome(claim.jobs[0])])
    # Then it is one of three, and a microbatch that nobody knows has no jobs
    assert repository.progress(sent) == (1, 3)
    assert repository.progress("no such") == (0, 0)


# ---------------------------------------------------------------- hold


def test_only_the_very_claim_holds(repository, shop, sent):
    # Given a claim whose successor has a newer fence
    first = repository.claim(sent, tier="cloud", worker="w1", lease_seconds=45)
    shop.expire(first)
    shop.sweep()
    assert shop.read("SELECT fence FROM microbatch") == first.fence + 1  # void already, before anybody claims
    second = shop.poll(worker="w2")
    # Then the first one writes nothing
    before = shop.read("SELECT lease_until_ms FROM microbatch")
    assert not repository.renew(first)
    assert not repository.record(first, shop.outcomes(first))
    assert not repository.finish(first)
    assert not repository.release(first, reason="late")
    assert shop.read("SELECT lease_until_ms FROM microbatch") == before
    # And what the second one has recorded is not taken for the first one's
    assert repository.record(second, shop.outcomes(second))
    assert not repository.record(first, shop.outcomes(first))
    assert repository.finish(second)
    assert repository.finish(second)
    assert not repository.finish(first)
    assert shop.is_sound()


def test_a_hold_renews_a_lease_that_nobody_has_ended(repository, shop, sent):
    # Given a claim whose lease has ended, and no sweeper yet
    claim = repository.claim(sent, tier="cloud", worker="w1", lease_seconds=45)
    shop.expire(claim)
    # When its worker writes, then the lease runs again, and the sweeper leaves it alone
    assert repository.renew(claim)
    assert shop.sweep().expired == 0
    assert shop.read("SELECT lease_until_ms FROM microbatch") > 1
    assert repository.record(claim, shop.outcomes(claim))


def test_a_release_closes_what_has_no_job_left_that_anybody_wants(repository, shop, sent):
    # Given a claim of which one job is done and two are asked to be cancelled
    claim = repository.claim(sent, tier="cloud", worker="w1", lease_seconds=45)
    repository.record(claim, [shop.outcome(claim.jobs[0])])
    for job in claim.jobs[1:]:
        repository.cancel_job(job.job_id)
    # When it is given back, then it is done
    assert repository.release(claim, reason="drained")
    assert shop.read("SELECT state FROM microbatch") == "done"
    assert shop.is_sound()


def test_jobs_without_an_outcome_keep_a_claim_from_being_finished(repository, shop, sent):
    claim = repository.claim(sent, tier="cloud", worker="w1", lease_seconds=45)
    repository.record(claim, [shop.outcome(claim.jobs[0])])
    with pytest.raises(RouteT2IError, match="2 jobs have no outcome"):
        repository.finish(claim)
    assert shop.is_sound()


# ---------------------------------------------------------------- sweep


def test_a_claim_that_was_renewed_after_a_sweeper_has_seen_it_is_left_alone(repository, shop, sent):
    # Given a sweeper that has read which claims have ended, and one of them that is renewed then
    claim = repository.claim(sent, tier="cloud", worker="w1", lease_seconds=45)
    shop.expire(claim)
    assert repository.renew(claim)
    # When the sweeper comes to it, then it does nothing
    expire = partial(sweeping.expire, microbatch_id=sent, max_deaths=4)
    assert write(shop.engine, expire) is None
    assert repository.renew(claim)
    assert shop.read("SELECT deaths FROM microbatch") == 0


@pytest.mark.parametrize(
    ("state", "deaths"), [("idle", 1), ("busy", 1), ("lost", 1), ("draining", 0), ("stopped", 0)]
)
def test_silence_of_a_worker_that_said_goodbye_is_no_death(repository, shop, sent, state, deaths):
    claim = repository.claim(sent, tier="cloud", worker="w9", lease_seconds=45)
    beat(repository, state=state)
    beat(repository, "another", state="draining")
    shop.expire(claim)
    assert shop.sweep().expired == 1
    assert shop.read("SELECT deaths FROM microbatch") == deaths


@pytest.mark.parametrize("max_deaths", [1, 2, 3, 4])
def test_a_microbatch_of_several_is_split_at_the_second_death_and_never_poison(
    repository, shop, sent, max_deaths
):
    # Given three jobs whose workers die again and again
    kinds = []
    for _ in range(2):
        claim = repository.poll(tier="cloud", worker="w", lease_seconds=45) or repository.claim(
            sent, tier="cloud", worker="w", lease_seconds=45
        )
        shop.expire(claim)
        report = shop.sweep(max_deaths=max_deaths)
        kinds.append((report.split, report.poisoned, shop.read("SELECT max(deaths) FROM microbatch")))
    # Then the first death changes nothing, the second splits, and no job is condemned with others beside it
    assert kinds == [(0, 0, 1), (1, 0, 2)]
    assert shop.read("SELECT count(*) FROM microbatch WHERE state = 'ready' AND deaths = 2") == 3
    assert shop.read("SELECT count(*) FROM outcome") == 0
    assert shop.is_sound()
    # And alone each is condemned at its own next death, or at the declared number of them
    claim = shop.poll()
    deaths = 2
    while not shop.read("SELECT count(*) FROM outcome"):
        shop.expire(claim)
        shop.sweep(max_deaths=max_deaths)
        deaths += 1
        claim = repository.claim(claim.microbatch_id, tier="cloud", worker="w", lease_seconds=45)
    assert deaths == max(3, max_deaths)
    assert claim is None
    assert shop.read("SELECT state FROM microbatch WHERE deaths > 2") == "dead"
    assert shop.is_sound()


@pytest.mark.parametrize(
    ("tier", "state", "age_ms", "resent"),
    [
        ("cloud", "idle", 0, 1),  # an idle worker hears nothing: the message is lost
        ("cloud", "busy", 0, 0),
        ("edge", "idle", 0, 0),  # it serves another queue
        ("cloud", "idle", 3_600_000, 0),  # it has died long ago
    ],
)
def test_a_second_message_is_hurried_only_where_an_idle_worker_of_the_tier_lives(
    repository, shop, sent, tier, state, age_ms, resent
):
    # Given a second message, sent longer ago than one pause and less than two
    shop.change("UPDATE microbatch SET deliveries = 2, sent_at_ms = sent_at_ms - 40000")
    beat(repository, tier=tier, state=state)
    shop.change("UPDATE worker SET heartbeat_ms = heartbeat_ms - :age", age=age_ms)
    assert shop.sweep(resend_seconds=30).resent == resent


@pytest.mark.parametrize(
    ("deliveries", "age_ms", "resent"),
    [(1, 29_000, 0), (1, 31_000, 1), (3, 119_000, 0), (3, 121_000, 1), (30, 299_000, 0), (30, 301_000, 1)],
)
def test_the_pause_doubles_up_to_five_minutes(shop, sent, deliveries, age_ms, resent):
    shop.change(
        "UPDATE microbatch SET deliveries = :deliveries, sent_at_ms = sent_at_ms - :age",
        deliveries=deliveries,
        age=age_ms,
    )
    assert shop.sweep(resend_seconds=30).resent == resent


@pytest.mark.parametrize("state", ["done", "split", "dead", "cancelled"])
def test_money_that_any_final_microbatch_still_holds_is_released(shop, state):
    # Given a microbatch that a hand has ended
    batch_id = shop.submit(2, budget=1_000)
    shop.window(price=65)
    assert shop.money(batch_id) == (130, 0)
    shop.change("UPDATE microbatch SET state = :state", state=state)
    # When the sweeper passes, then its money is free, once
    assert shop.sweep().released == 1
    assert shop.sweep().released == 0
    assert shop.money(batch_id) == (0, 0)
    assert shop.read("SELECT sum(micro_usd) FROM ledger WHERE kind = 'release'") == 130


@pytest.mark.parametrize("state", ["ready", "sent"])
def test_money_of_what_still_waits_is_not(shop, state):
    batch_id = shop.submit(2, budget=1_000)
    shop.window(price=65)
    shop.change("UPDATE microbatch SET state = :state, sent_at_ms = 1e13", state=state)
    assert shop.sweep().released == 0
    assert shop.money(batch_id) == (130, 0)
