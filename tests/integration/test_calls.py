"""Paid calls: permitted before, settled after, counted as spent while nobody knows; on both databases."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from db.reconciling import reconcile
from db.repository import Repository
from routet2i.contracts import Bought, Claim, Permit, Withheld
from scheduler.usage_export import Billed

SHA = "a" * 64


def intend(repository, claim: Claim, *, job: int = 0, index: int = 0, cost: int = 65, repeatable=False):
    return repository.intend(
        claim, job_id=claim.jobs[job].job_id, index=index, cost_max=cost, repeatable=repeatable
    )


def bought(repository, claim: Claim, *, job: int = 0, index: int = 0, cost: int = 65) -> Permit:
    permit = intend(repository, claim, job=job, index=index)
    repository.settle_call(permit.call_id, cost=cost, image_sha256=SHA)
    return permit


def total(shop, side: str) -> int:
    """Return what the ledger has left on one side of the first batch's budget."""
    return shop.read(
        """SELECT COALESCE(sum(CASE WHEN to_side = :side THEN micro_usd WHEN from_side = :side THEN -micro_usd
            ELSE 0 END), 0) FROM ledger""",
        side=side,
    )


@pytest.fixture
def claim(shop) -> Claim:
    """A claim of three cloud jobs at 65 each, in a batch of 1,000."""
    shop.submit(3, budget=1_000)
    shop.window(price=65)
    return shop.poll()


def test_money_goes_from_the_microbatch_to_the_call_and_is_spent_when_the_bill_comes(repository, shop, claim):
    # When a picture is permitted
    permit = intend(repository, claim)
    # Then the microbatch holds less by its price, the budget as much as before
    assert shop.read("SELECT reserved_left FROM microbatch") == 130
    assert shop.read("SELECT reserved FROM budget") == 195
    assert shop.is_sound()
    # And the bill turns it into spending, what it saved is free, and the outcome charges what it cost
    assert repository.settle_call(permit.call_id, cost=60, image_sha256=SHA) == 0
    assert (total(shop, "reserved"), total(shop, "spent")) == (130, 60)
    repository.settle_call(permit.call_id, cost=60, image_sha256=SHA)  # safe to repeat
    assert repository.record(claim, [shop.outcome(claim.jobs[0], fails=True)])
    assert shop.read("SELECT micro_usd FROM outcome") == 60
    assert shop.is_sound()


def test_a_picture_that_was_paid_for_is_not_bought_again(repository, shop, claim):
    bought(repository, claim)
    repository.release(claim, reason="drain")
    assert intend(repository, shop.poll()) == Bought(sha256=SHA)
    assert shop.is_sound()


def test_an_old_claim_gets_no_permission_but_records_what_it_bought(repository, shop, claim):
    # Given a claim whose lease ends while its call is out
    permit = intend(repository, claim)
    shop.expire(claim)
    shop.sweep()
    assert shop.read("SELECT state FROM call") == "unknown"
    assert (total(shop, "unknown"), total(shop, "reserved")) == (65, 130)
    assert shop.is_sound()
    # When it comes back
    assert intend(repository, claim, job=1) is Withheld.STALE
    repository.settle_call(permit.call_id, cost=65, image_sha256=SHA)
    # Then its purchase is known, and the next claim takes the picture
    assert (total(shop, "unknown"), total(shop, "spent")) == (0, 65)
    assert intend(repository, shop.poll()) == Bought(sha256=SHA)
    assert shop.is_sound()


@pytest.mark.parametrize("how", ["repeatable", "remote_id"])
def test_a_call_that_can_be_resumed_stays_open_when_its_claim_ends(repository, shop, claim, how):
    # Given a call that may be sent again, or that the provider has named
    first = intend(repository, claim, repeatable=how == "repeatable")
    if how == "remote_id":
        repository.accept_call(first.call_id, remote_id="r-1")
    shop.expire(claim)
    shop.sweep()
    # When somebody else claims the microbatch
    again = intend(repository, shop.poll())
    # Then it is the same call, and no money moved
    assert again.resumed
    assert (again.call_id, again.idem_key) == (first.call_id, first.idem_key)
    assert again.remote_id == ("r-1" if how == "remote_id" else None)
    assert shop.read("SELECT count(*) FROM call") == 1
    assert total(shop, "unknown") == 0
    assert shop.is_sound()


def test_a_picture_lost_once_is_bought_once_more_for_money_granted_anew(repository, shop, claim):
    # Given a call whose answer was lost
    first = intend(repository, claim)
    repository.doubt_call(first.call_id, error="timed out")
    # When it is permitted again
    second = intend(repository, claim)
    # Then its money is reserved for it alone
    assert second.call_id != first.call_id
    assert shop.read("SELECT reserved_left FROM microbatch") == 130
    assert (total(shop, "reserved"), total(shop, "unknown")) == (195, 65)
    assert shop.is_sound()
    # And there is no third time
    repository.doubt_call(second.call_id, error="timed out")
    assert intend(repository, claim) is Withheld.UNKNOWN_CHARGE
    assert repository.record(claim, [shop.outcome(claim.jobs[0], fails=True)])
    assert shop.read("SELECT micro_usd FROM outcome") == 130
    assert shop.is_sound()


def test_no_second_try_without_money(repository, shop):
    # Given a batch whose budget covers its jobs exactly
    shop.submit(1, budget=65)
    shop.window(price=65)
    claim = shop.poll()
    repository.doubt_call(intend(repository, claim).call_id, error="timed out")
    # Then the ledger refuses another try
    assert intend(repository, claim) is Withheld.UNKNOWN_CHARGE
    assert shop.is_sound()


def test_a_call_that_was_not_billed_gives_its_money_back(repository, shop, claim):
    # Given a call that never reached the provider
    permit = intend(repository, claim)
    repository.void_call(claim, permit.call_id, error="connection refused")
    # Then the microbatch holds its money again, and the next one is bought as if nothing had been
    assert shop.read("SELECT reserved_left FROM microbatch") == 195
    assert not intend(repository, claim).resumed
    assert shop.is_sound()
    # And money granted for a second try goes back to the accounts
    second = intend(repository, claim, job=1)
    repository.doubt_call(second.call_id, error="timed out")
    third = intend(repository, claim, job=1)
    repository.void_call(claim, third.call_id, error="connection refused")
    assert (total(shop, "reserved"), total(shop, "unknown")) == (130, 65)
    assert shop.is_sound()


def test_a_bill_above_the_price_is_an_overrun_and_the_tier_pauses_until_somebody_accepts_it(
    repository, shop, claim
):
    # Given a bill of 80 for 65
    permit = intend(repository, claim)
    assert repository.settle_call(permit.call_id, cost=80, image_sha256=SHA) == 15
    # Then the limit does not give way, and nothing more is bought there
    assert shop.read("SELECT spent + reserved FROM budget") == 195
    assert shop.read("SELECT overrun FROM budget") == 15
    assert intend(repository, claim, job=1) is Withheld.PAUSED
    assert repository.paused_tiers() == {"cloud": 15}
    assert shop.is_sound()
    # And a person may let it go on
    shop.change("UPDATE call SET settled_ms = settled_ms - 5")
    assert repository.resume_tier("cloud", who="ann", reason="new price")
    assert not repository.resume_tier("cloud", who="ann", reason="twice")
    assert isinstance(intend(repository, claim, job=1), Permit)


def test_a_bill_for_a_call_that_was_void_is_an_overrun(repository, shop, claim):
    permit = intend(repository, claim)
    repository.void_call(claim, permit.call_id, error="refused")
    assert repository.settle_call(permit.call_id, cost=65, image_sha256=None) == 65
    assert shop.is_sound()


def test_a_cancelled_job_is_not_bought_and_its_open_call_counts_as_spent(repository, shop, claim):
    # Given a job whose call is out, and one that is not bought yet
    permit = intend(repository, claim, repeatable=True)
    for job in claim.jobs[:2]:
        repository.cancel_job(job.job_id)
    assert intend(repository, claim, job=1) is Withheld.CANCELLED
    # When the worker gives the microbatch back
    repository.release(claim, reason="drain")
    # Then both are cancelled, and the open call is spent until somebody knows
    assert shop.read("SELECT state FROM call") == "unknown"
    assert shop.read("SELECT sum(micro_usd) FROM outcome") == 65
    assert shop.is_sound()
    # And the late answer says what it cost
    repository.settle_call(permit.call_id, cost=50, image_sha256=SHA)
    assert (total(shop, "unknown"), total(shop, "spent")) == (0, 50)
    assert shop.is_sound()


def test_a_split_microbatch_leaves_each_job_what_it_has_not_paid(repository, shop, claim):
    # Given one job that was bought, one that is out, one untouched, and two dead workers
    bought(repository, claim)
    intend(repository, claim, job=1, repeatable=True)
    for _ in range(2):
        shop.expire(claim)
        shop.sweep()
        shop.is_sound()
        if shop.read("SELECT count(*) FROM microbatch WHERE state = 'ready'") == 1:
            claim = shop.poll()
    # Then there is one microbatch per job, with what its job has left
    assert shop.read("SELECT count(*) FROM microbatch WHERE parent_id IS NOT NULL") == 3
    assert shop.read("SELECT sum(reserved_left) FROM microbatch") == 65
    # And they are bought to the end
    for _ in range(3):
        child = shop.poll()
        permit = intend(repository, child)
        if isinstance(permit, Permit):
            repository.settle_call(permit.call_id, cost=65, image_sha256=SHA)
        repository.record(child, [shop.outcome(child.jobs[0], fails=True)])
        repository.finish(child)
        assert shop.is_sound()
    assert (total(shop, "reserved"), total(shop, "spent")) == (0, 195)


def test_poison_ends_its_calls(repository, shop):
    # Given one job whose call is out each time its worker dies
    shop.submit(1, budget=1_000)
    shop.window(price=65)
    for _ in range(4):
        claim = shop.poll()
        intend(repository, claim, repeatable=True)
        shop.expire(claim)
        shop.sweep()
    # Then it failed as poison, and its call counts as spent
    assert shop.read("SELECT error_class FROM outcome") == "poison"
    assert shop.read("SELECT micro_usd FROM outcome") == 65
    assert shop.is_sound()
    assert shop.sweep().released == 0


def test_history_of_calls_is_fixed(repository, shop, claim):
    permit = bought(repository, claim)
    for change in ("cost_actual = 1", "cost_max = 99", "idem_key = 'x'", "state = 'unknown'"):
        with pytest.raises(Exception, match="append-only"):
            shop.change(f"UPDATE call SET {change} WHERE id = :id", id=permit.call_id)
    with pytest.raises(Exception, match="append-only"):
        shop.change("DELETE FROM call")


# ---------------------------------------------------------------- two at once


def at_once(*works: Callable[[], Any]) -> None:
    """Do all of it in threads that start at the same moment."""
    barrier = threading.Barrier(len(works), timeout=10)

    def start(work: Callable[[], Any]) -> None:
        barrier.wait()
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(start, work) for work in works]:
            future.result(60)


ENDS: dict[str, Callable[[Any, Any, Claim, Permit], Any]] = {
    "settle": lambda repository, shop, claim, permit: repository.settle_call(
        permit.call_id, cost=50, image_sha256=SHA
    ),
    "doubt": lambda repository, shop, claim, permit: repository.doubt_call(permit.call_id, error="lost"),
    "void": lambda repository, shop, claim, permit: repository.void_call(
        claim, permit.call_id, error="refused"
    ),
    "record": lambda repository, shop, claim, permit: repository.record(
        claim, [shop.outcome(job, fails=True) for job in claim.jobs]
    ),
    "release": lambda repository, shop, claim, permit: repository.release(claim, reason="drain"),
    "expire": lambda repository, shop, claim, permit: (shop.expire(claim), shop.sweep()),
    "cancel": lambda repository, shop, claim, permit: repository.cancel_batch(
        shop.read("SELECT max(batch_id) FROM job")
    ),
    "reconcile": lambda repository, shop, claim, permit: reconcile(
        shop.engine, [Billed(line_no=1, idem_key=permit.idem_key, remote_id=None, micro_usd=50)]
    ),
}


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("other", list(ENDS))
def test_a_bill_and_whatever_else_ends_its_call_at_that_moment_leave_sound_books(
    repository, shop, other, repeatable
):
    for _ in range(3):
        # Given two calls that are out
        shop.submit(2, budget=1_000)
        shop.window(price=65)
        claim = shop.poll()
        permits = [intend(repository, claim, job=job, repeatable=repeatable) for job in (0, 1)]
        # When both bills come while something else ends the first call, or its job, or its claim
        at_once(
            partial(ENDS["settle"], repository, shop, claim, permits[0]),
            partial(ENDS["settle"], repository, shop, claim, permits[1]),
            partial(ENDS[other], repository, shop, claim, permits[0]),
        )
        # Then both purchases are on record, whoever came first
        assert shop.is_sound()
        assert shop.read("SELECT count(*) FROM call WHERE state <> 'charged'") == 0
        shop.repository.cancel_batch(shop.read("SELECT max(batch_id) FROM job"))
        shop.change("UPDATE microbatch SET lease_until_ms = 1 WHERE state = 'claimed'")
        shop.sweep()
        shop.change("UPDATE call SET settled_ms = settled_ms - 5 WHERE overrun > 0")
        repository.resume_tier("cloud", who="test", reason="void before the bill")
        assert shop.is_sound()


# ---------------------------------------------------------------- in any order


class Purchases(RuleBasedStateMachine):
    """Every verb on calls, by current claims and by old ones, in any order; the books stay sound."""

    make: Callable[[], Any]

    @initialize(budget=st.sampled_from([195, 300, 1_000, None]), pictures=st.integers(1, 2))
    def begin(self, budget: int | None, pictures: int) -> None:
        self.shop = type(self).make()
        self.repository: Repository = self.shop.repository
        self.shop.submit(3, budget=None if budget is None else budget * pictures, pictures=pictures)
        self.shop.window(price=65)
        self.pictures = pictures
        self.claims: list[Claim] = []
        self.permits: list[tuple[Claim, Permit]] = []

    def claim(self, data: st.DataObject) -> Claim | None:
        return data.draw(st.sampled_from(self.claims)) if self.claims else None

    @rule()
    def poll(self) -> None:
        claim = self.repository.poll(tier="cloud", worker="w", lease_seconds=45)
        if claim is not None:
            self.claims.append(claim)

    @rule(data=st.data(), repeatable=st.booleans(), index=st.integers(0, 1))
    def intend(self, data: st.DataObject, repeatable: bool, index: int) -> None:
        claim = self.claim(data)
        if claim is None or not claim.jobs or index >= self.pictures:
            return
        job = data.draw(st.sampled_from(claim.jobs))
        out = self.shop.read(
            """SELECT count(*) FROM call WHERE job_id = :job AND idx = :idx AND state = 'intent'
                AND repeatable = 0 AND remote_id IS NULL""",
            job=job.job_id,
            idx=index,
        )
        if out:  # a worker does not ask twice while its own call is out
            return
        permit = self.repository.intend(
            claim, job_id=job.job_id, index=index, cost_max=65, repeatable=repeatable
        )
        if isinstance(permit, Permit):
            self.permits.append((claim, permit))

    @rule(data=st.data(), verb=st.sampled_from(["settle", "doubt", "void", "accept", "bill"]))
    def answer(self, data: st.DataObject, verb: str) -> None:
        if not self.permits:
            return
        claim, permit = data.draw(st.sampled_from(self.permits))
        cost = data.draw(st.sampled_from([0, 40, 65, 80]))
        if verb == "settle":
            sha = data.draw(st.sampled_from([SHA, None]))
            self.repository.settle_call(permit.call_id, cost=cost, image_sha256=sha)
        elif verb == "doubt":
            self.repository.doubt_call(permit.call_id, error="lost")
        elif verb == "void":
            self.repository.void_call(claim, permit.call_id, error="refused")
        elif verb == "accept":
            self.repository.accept_call(permit.call_id, remote_id=f"r-{permit.call_id}")
        else:
            bill = Billed(line_no=1, idem_key=permit.idem_key, remote_id=None, micro_usd=cost)
            reconcile(self.shop.engine, [bill])

    @rule(data=st.data())
    def record(self, data: st.DataObject) -> None:
        claim = self.claim(data)
        if claim is not None and claim.jobs:
            job = data.draw(st.sampled_from(claim.jobs))
            self.repository.record(claim, [self.shop.outcome(job, fails=True)])

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claim = self.claim(data)
        if claim is not None:
            self.repository.release(claim, reason="drain")

    @rule()
    def expire(self) -> None:
        self.shop.change("UPDATE microbatch SET lease_until_ms = 1 WHERE state = 'claimed'")
        self.shop.sweep(max_deaths=3)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        claim = self.claim(data)
        if claim is not None and claim.jobs:
            self.repository.cancel_job(data.draw(st.sampled_from(claim.jobs)).job_id)

    @rule()
    def resume(self) -> None:
        self.repository.resume_tier("cloud", who="test", reason="seen")

    @invariant()
    def the_books_are_sound(self) -> None:
        assert self.shop.is_sound()

    def teardown(self) -> None:
        if hasattr(self, "shop"):
            self.shop.engine.dispose()


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_purchases_in_any_order_keep_the_books_sound(dialect, make_database, shop_of):
    class Here(Purchases):
        make = staticmethod(lambda: shop_of(Repository(make_database(dialect))))

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=60 if dialect == "sqlite" else 15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
