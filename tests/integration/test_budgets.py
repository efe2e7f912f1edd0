"""Limits of batches, clients and deployments per span: set, binding together, carried over."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from db import balances, budgets, ledger
from db.audit import check_invariants
from db.ledger import MOVES, Side, Wish, batch_account
from db.repository import Repository
from db.session import make_engine, reading, transaction, write
from routet2i.contracts import (
    DEFERRED_BY,
    GUARDED_BY,
    BudgetPolicy,
    Carry,
    GenerationRequest,
    Purse,
    Scope,
    new_id,
)
from routet2i.errors import UsageError
from scheduler.allocator import REASONS

HOUR = 3_600_000  # milliseconds
NOON = 1_790_000_000_000 // HOUR * HOUR


def client(limit, *, span="hour", carry=Carry.NONE, cap=None, name="default"):
    return BudgetPolicy(
        scope=Scope.CLIENT, name=name, span=span, limit_micro_usd=limit, carry=carry, cap_micro_usd=cap
    )


def put(repository, policy, *, now_ms=NOON):
    return repository.set_budget(policy, who="ann@desk", reason="a test", now_ms=now_ms)


def balance(shop, policy, *, now_ms=NOON):
    """(limit, carried, reserved, spent, free) of the period that runs at a moment."""
    purse = Purse(now_ms=now_ms)
    (one,) = [
        one
        for one in balances.balances(shop.engine, purse=purse, scope=policy.scope, name=policy.name)
        if one.span == policy.span
    ]
    return (
        one.limit_micro_usd,
        one.carried_micro_usd,
        one.reserved_micro_usd,
        one.spent_micro_usd,
        one.free_micro_usd,
    )


def spend(shop, *, pictures, now_ms, price=10):
    """Submit, assign and finish so many pictures; return how many the ledger granted."""
    shop.submit(pictures)
    shop.change("UPDATE job SET not_before_ms = 0 WHERE state = 'queued'")
    window = shop.window(price=price, size=1, purse=Purse(now_ms=now_ms))
    for _ in range(window.assigned):
        shop.work()
    return window.assigned


# ---------------------------------------------------------------- limits bind together


def test_a_client_a_batch_and_a_deployment_bind_together_and_the_one_that_refuses_is_named(repository, shop):
    # Given money for five at the client, four at the deployment, and a fallback at 1
    put(repository, client(50))
    put(repository, BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="day", limit_micro_usd=41))
    batch_id = shop.submit(6)
    # When six are wanted at 10
    window = shop.window(price=10, fallback_price=1, size=1, purse=Purse(now_ms=NOON))
    # Then four get them, one falls back for the deployment's sake, and one waits for it
    assert (window.assigned, window.fallback, window.deferred) == (5, 1, 1)
    reasons = "SELECT count(*) FROM assignment WHERE reason = 'deployment_budget_guard'"
    assert shop.read(reasons) == 1
    assert shop.read("SELECT defer_reason FROM job WHERE state = 'queued'") == "deployment_budget"
    # And all three accounts hold the same
    assert shop.money(batch_id) == (41, 0)
    assert (
        shop.read("SELECT min(reserved) FROM budget") == shop.read("SELECT max(reserved) FROM budget") == 41
    )
    assert shop.is_sound()
    shop.repository.cancel_batch(batch_id)
    assert shop.read("SELECT max(reserved) FROM budget") == 0
    assert shop.is_sound()


def test_every_code_of_the_ledger_has_a_sentence():
    assert {*GUARDED_BY.values(), *DEFERRED_BY.values()} <= set(REASONS)


def test_a_window_sees_the_chain_of_each_batch_innermost_first(repository, shop):
    # Given limits of three scopes and another client's
    put(repository, client(50))
    put(repository, client(9, name="other"))
    put(repository, BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="month", limit_micro_usd=70))
    batch_id = shop.submit(2, budget=30, pictures=3)
    put(repository, BudgetPolicy(scope=Scope.BATCH, name=batch_id, span="minute", limit_micro_usd=20))
    # When a window opens
    environment = BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="900s", limit_micro_usd=60)
    work = repository.open_window(limit=10, purse=Purse(policy=environment, now_ms=NOON))
    # Then its chain names them from the batch outwards, with limit and waiting pictures
    chain = work.chains[batch_id]
    assert [account.scope for account in chain] == ["batch", "batch", "client", "deployment", "deployment"]
    assert [work.accounts[account].limit for account in chain] == [30, 20, 50, 70, 60]


def test_a_period_that_ends_while_a_window_decides_is_followed_by_the_next_one(repository, shop):
    # Given a plan made in one hour
    put(repository, client(100))
    shop.submit(2)
    plan = shop.plan(repository.open_window(limit=10, purse=Purse(now_ms=NOON + HOUR - 1)), price=10)
    # When it is recorded in the next one
    repository.record_window(replace(plan, purse=Purse(now_ms=NOON + HOUR)))
    # Then that one pays
    assert balance(shop, client(100))[2] == 0
    assert balance(shop, client(100), now_ms=NOON + HOUR)[2] == 20
    assert shop.is_sound()


# ---------------------------------------------------------------- carry-over


@pytest.mark.parametrize(
    ("carry", "cap", "later", "idle"),
    [(Carry.NONE, None, 0, 0), (Carry.ALL, None, 70, 270), (Carry.CAPPED, 90, 70, 90)],
)
def test_what_is_left_is_carried_over_as_declared(carry, cap, later, idle, repository, shop):
    # Given 100 an hour, of which 30 are spent
    policy = client(100, carry=carry, cap=cap)
    put(repository, policy)
    assert spend(shop, pictures=3, now_ms=NOON) == 3
    # When the next hour is looked at, it would take over what is left; and so would one after two idle hours
    assert balance(shop, policy, now_ms=NOON + HOUR)[:2] == (100, later)
    assert balance(shop, policy, now_ms=NOON + 3 * HOUR)[:2] == (100, idle)
    # When that one opens
    wanted = (100 + idle) // 10
    assert spend(shop, pictures=wanted + 2, now_ms=NOON + 3 * HOUR) == wanted
    # Then exactly that much could be spent, and the ledger says where it came from
    assert balance(shop, policy, now_ms=NOON + 3 * HOUR) == (100, idle, 0, wanted * 10, (100 + idle) % 10)
    assert shop.is_sound()


def test_a_late_release_is_not_carried_on(repository, shop):
    # Given a reservation of the first hour that is open while the second begins
    policy = client(100, carry=Carry.ALL)
    put(repository, policy)
    batch_id = shop.submit(4)
    shop.window(price=10, purse=Purse(now_ms=NOON))
    shop.submit(1)
    shop.window(price=10, purse=Purse(now_ms=NOON + HOUR))
    # When it is released
    repository.cancel_batch(batch_id)
    # Then the first hour has it back, and the second has what was free when it began
    assert balance(shop, policy, now_ms=NOON)[2:] == (0, 0, 40)
    assert balance(shop, policy, now_ms=NOON + HOUR) == (100, 60, 10, 0, 150)
    assert shop.is_sound()


def test_a_clock_that_goes_back_finds_no_money_twice(repository, shop):
    # Given an hour that took over an idle one
    policy = client(100, carry=Carry.ALL)
    put(repository, policy)
    spend(shop, pictures=1, now_ms=NOON + 2 * HOUR)
    # When the clock goes back into the idle hour
    assert spend(shop, pictures=1, now_ms=NOON + HOUR) == 0
    # Then it has nothing of its own
    assert shop.read("SELECT sum(lim) FROM budget WHERE id LIKE 'client:%'") == 300
    assert shop.is_sound()


# ---------------------------------------------------------------- limits change


def test_a_limit_is_raised_lowered_and_lifted_with_who_and_why(repository, shop):
    # Given a limit of 100 with 30 spent
    put(repository, client(100))
    spend(shop, pictures=3, now_ms=NOON)
    # When it is raised, lowered and lifted
    put(repository, client(150))
    assert balance(shop, client(150)) == (150, 0, 0, 30, 120)
    put(repository, client(30))
    assert balance(shop, client(30)) == (30, 0, 0, 30, 0)
    put(repository, client(None))
    # Then it binds no more, each change is in the ledger with a name, and all of it balances
    assert spend(shop, pictures=9, now_ms=NOON) == 9
    lines = [line for line in balances.ledger_lines(shop.engine) if line["who"] is not None]
    assert [(line["from_side"], line["to_side"], str(line["usd"])) for line in lines] == [
        ("owner", "available", "0.000100"),
        ("owner", "available", "0.000050"),
        ("available", "owner", "0.000120"),
        ("available", "owner", "0.000030"),
    ]
    assert {(line["who"], line["reason"]) for line in lines} == {("ann@desk", "a test")}
    assert shop.is_sound()
    # And it can be set again
    put(repository, client(40))
    assert balance(shop, client(40)) == (40, 0, 0, 30, 10)
    assert shop.is_sound()


def test_a_limit_below_what_is_spent_is_refused_with_what_to_type(repository, shop):
    put(repository, client(100))
    spend(shop, pictures=3, now_ms=NOON)
    with pytest.raises(UsageError, match=r"type --limit 0\.000030 or more"):
        put(repository, client(29))
    assert balance(shop, client(100))[0] == 100
    assert shop.read("SELECT count(*) FROM budget_policy") == 1
    assert shop.is_sound()


def test_a_batch_that_waits_for_money_goes_on_when_its_limit_is_raised(repository, shop):
    # Given a batch with money for one picture of two
    batch_id = shop.submit(2, budget=10)
    assert shop.window(price=10, size=1).assigned == 1
    # When it gets more
    put(repository, BudgetPolicy(scope=Scope.BATCH, name=batch_id, span="total", limit_micro_usd=20))
    shop.change("UPDATE job SET not_before_ms = 0")
    # Then the other one goes on
    assert shop.window(price=10, size=1).assigned == 1
    assert shop.money(batch_id) == (20, 0)
    assert shop.is_sound()


def test_lifting_what_never_was_changes_nothing(repository, shop):
    assert put(repository, client(None)) is None
    assert shop.read("SELECT count(*) FROM ledger") == 0


# ---------------------------------------------------------------- the ledger's own law


def test_only_the_moves_of_each_kind_can_be_written(repository, shop):
    # Given an account
    shop.submit(1, budget=10)
    account = {"id": shop.read("SELECT id FROM budget"), "period": "total"}
    line = """INSERT INTO ledger(event_id, budget_id, period, kind, from_side, to_side, micro_usd, at_ms)
              VALUES(:event, :id, :period, :kind, :source, :target, :amount, 0)"""

    def write_line(kind, source, target, amount=1):
        values = {"event": new_id(), "kind": kind, "source": source, "target": target, "amount": amount}
        with transaction(shop.engine) as connection:
            connection.execute(text(line), account | values)

    # Then what MOVES lists is accepted, and nothing else
    for kind in MOVES:
        for source in Side:
            for target in Side:
                if (source, target) in MOVES[kind]:
                    write_line(kind, source.value, target.value)
                else:
                    with pytest.raises(IntegrityError):
                        write_line(kind, source.value, target.value)
    with pytest.raises(IntegrityError):
        write_line("reserve", "available", "reserved", -1)


@pytest.mark.parametrize(
    "statement", ["UPDATE budget_policy SET limit_micro_usd = 9", "DELETE FROM budget_policy"]
)
def test_policies_can_be_neither_changed_nor_deleted(statement, repository, shop):
    put(repository, client(100))
    with pytest.raises(DBAPIError, match="append-only"), shop.engine.begin() as connection:
        connection.execute(text(statement))


def test_unknown_counts_as_spent_until_somebody_knows(repository, shop):
    # Given a purchase of 10 that nobody answered, and one of 20 whose bill was 25
    account = batch_account(shop.submit(budget=100))
    reserve(shop.engine, "m", (account,), 30)

    def post(*movements):
        write(shop.engine, lambda c: ledger.post(c, movements, accounts=(account,)))

    post(ledger.unknown("call-1", micro_usd=10))
    assert shop.read("SELECT spent FROM budget") == 10
    # When the provider's list says 4, and the other bill comes
    post(ledger.charged("call-1", micro_usd=4), ledger.voided("call-1", micro_usd=6))
    post(ledger.settled("call-2", micro_usd=20), ledger.overrun("call-2", micro_usd=5))
    # Then 4 and 20 are spent, 5 stand beside the limit, and what was not bought is free again
    with reading(shop.engine) as connection:
        row = connection.execute(text("SELECT lim, reserved, spent, overrun FROM budget")).one()
    assert tuple(row) == (100, 0, 24, 5)
    assert [one for one in check_invariants(shop.engine) if "sides" in one.detail] == []


def reserve(engine, name, accounts, micro_usd):
    wish = Wish(microbatch_id=name, accounts=accounts, prices=(micro_usd,))

    def ask(connection):
        return ledger.reserve(connection, [wish], free=ledger.lock(connection, accounts))[0].granted == 0

    return write(engine, ask)


# ---------------------------------------------------------------- many at once

WRITERS = 16


def test_sixteen_writers_never_exceed_any_of_five_limits(engine, shop):
    # Given two batches of one client, each under five limits, the tightest for 40 pictures at 10
    repository = shop.repository
    put(repository, client(400, span="total"), now_ms=None)
    put(repository, client(900, span="month", carry=Carry.ALL), now_ms=None)
    deployment = BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="month", limit_micro_usd=600)
    put(repository, deployment, now_ms=None)
    put(repository, replace(deployment, span="total", limit_micro_usd=500), now_ms=None)
    batches = [shop.submit(1, budget=250), shop.submit(1, budget=250)]
    with reading(engine) as connection:
        chains = budgets.chains(connection, batches, purse=Purse()).accounts
    assert {len(chain) for chain in chains.values()} == {5}
    granted: list[int] = []
    barrier = threading.Barrier(WRITERS + 1, timeout=60)

    def writer(number: int) -> None:
        mine = make_engine(engine.url.render_as_string(hide_password=False))
        chain = chains[batches[number % 2]]
        barrier.wait()
        for turn in range(8):
            name = f"{number}-{turn}"
            price = 10 + number % 3
            if reserve(mine, name, chain, price):
                charge = price if turn % 2 else price - 3
                movements = [
                    ledger.settled(name, micro_usd=charge),
                    ledger.released(name, micro_usd=price - charge),
                ]
                write(mine, partial(ledger.post, movements=movements, accounts=chain))
                granted.append(charge)
        mine.dispose()

    def owner() -> None:
        barrier.wait()
        for limit in (410, 405, 400):
            with suppress(UsageError):  # the writers were faster, and have spent more than that
                put(repository, client(limit, span="total"), now_ms=None)

    # When sixteen want far more than that, while somebody changes a limit
    with ThreadPoolExecutor(WRITERS + 1) as pool:
        for future in [*(pool.submit(writer, number) for number in range(WRITERS)), pool.submit(owner)]:
            future.result(120)
    # Then every account has spent what was granted, no more than its limit, and the ledger agrees
    total = sum(granted)
    assert 390 < total <= 410
    assert shop.read("SELECT max(spent) FROM budget") == total
    assert shop.read("SELECT count(*) FROM budget WHERE reserved + spent > lim") == 0
    assert shop.read("SELECT sum(reserved) FROM budget") == 0
    assert [one for one in check_invariants(engine) if "outcomes" not in one.detail] == []


def test_many_who_open_one_period_open_it_once(engine, shop):
    # Given an hour with 70 left, and sixteen windows that want the next one
    policy = client(100, carry=Carry.ALL)
    put(shop.repository, policy)
    spend(shop, pictures=3, now_ms=NOON)
    shop.submit(1)
    barrier = threading.Barrier(WRITERS, timeout=60)

    def opens() -> int | None:
        repository = Repository(make_engine(engine.url.render_as_string(hide_password=False)))
        barrier.wait()
        work = repository.open_window(limit=10, purse=Purse(now_ms=NOON + HOUR))
        repository.engine.dispose()
        return max(one.limit for one in work.accounts.values() if one.limit is not None)

    # When all come at once
    with ThreadPoolExecutor(WRITERS) as pool:
        limits = [future.result(60) for future in [pool.submit(opens) for _ in range(WRITERS)]]
    # Then the money was carried once
    assert set(limits) == {170}
    assert shop.read("SELECT count(*) FROM ledger WHERE kind = 'carry'") == 2
    assert shop.is_sound()


def test_windows_workers_and_cancellations_across_a_rollover_keep_every_promise(engine, shop_of):
    # Given limits of client and deployment that carry over, and eight hands in one shop
    first = shop_of(Repository(engine))
    put(first.repository, client(400, carry=Carry.ALL))
    day = BudgetPolicy(scope=Scope.DEPLOYMENT, name="default", span="day", limit_micro_usd=900)
    put(first.repository, day)
    hands = 8
    barrier = threading.Barrier(hands, timeout=60)

    def hand(number: int) -> None:
        repository = Repository(make_engine(engine.url.render_as_string(hide_password=False)))
        mine = shop_of(repository)
        barrier.wait()
        for turn in range(4):
            purse = Purse(now_ms=NOON + turn * HOUR)
            opened = repository.open_batch(
                client="default", idem_key=f"{number}-{turn}", body_sha256="b", name="n", budget_micro_usd=90
            )
            lines = [GenerationRequest(line_no=i, custom_id=f"c{i}", prompt="p", seed=i) for i in range(1, 7)]
            repository.add_jobs(opened.batch_id, lines, [], cursor_line=6)
            repository.close_intake(opened.batch_id)
            if (work := repository.open_window(limit=40, purse=purse)) is not None:
                plan = mine.plan(work, size=2, price=20, fallback_price=5, purse=purse)
                repository.record_window(plan)
            claim = repository.poll(tier="cloud", worker=f"w{number}", lease_seconds=45)
            if claim is not None:
                repository.record(claim, [mine.outcome(job, charged=job.micro_usd - 1) for job in claim.jobs])
                repository.finish(claim)
            if turn % 2:
                repository.cancel_batch(opened.batch_id)
        repository.engine.dispose()

    # When all decide, draw and cancel while hours pass
    with ThreadPoolExecutor(hands) as pool:
        for future in [pool.submit(hand, number) for number in range(hands)]:
            future.result(120)
    # Then nothing is exceeded, lost or counted twice
    assert check_invariants(engine) == []
    assert first.read("SELECT count(*) FROM ledger WHERE kind = 'carry'") > 0
    assert first.read("SELECT max(spent) FROM budget WHERE id = 'deployment:default/day'") > 0


# ---------------------------------------------------------------- any order


class BudgetMachine(RuleBasedStateMachine):
    """Sets limits, reserves, settles and lets time pass in any order, beside a model in plain Python."""

    def __init__(self, engine, shop):
        super().__init__()
        self.engine, self.shop = engine, shop
        self.repository = shop.repository
        self.now = NOON
        self.batch = shop.submit(1, budget=None)
        self.policy = None  # of the client's hour
        self.last = None  # [period number, lim, reserved, spent] of the model's newest hour
        self.carried = 0  # of its limit
        self.open = []  # (name, chain, period number, micro-USD) still reserved
        self.count = 0

    def _roll(self):
        """Open the model's period of this hour."""
        number = self.now // HOUR
        limit = self.policy.limit_micro_usd
        if self.last is None or limit is None or self.last[0] == number:
            if self.last is None and limit is not None:
                self.last = [number, limit, 0, 0]
            return
        left = 0
        if self.last[1] is not None and self.policy.carry is not Carry.NONE:
            left = self.last[1] - self.last[2] - self.last[3]
            for _ in range(number - self.last[0] - 1):
                left = self._capped(left) + limit
            left = self._capped(left)
        self.last, self.carried = [number, limit + left, 0, 0], left

    def _capped(self, left):
        cap = self.policy.cap_micro_usd
        return left if cap is None else min(left, cap)

    @rule(
        limit=st.one_of(st.none(), st.integers(0, 60)), carry=st.sampled_from(Carry), cap=st.integers(0, 40)
    )
    def set_limit(self, limit, carry, cap):
        policy = client(limit, carry=carry, cap=cap if carry is Carry.CAPPED else None)
        if self.policy is not None:
            self._roll()
        number = self.now // HOUR
        current = self.last if self.last is not None and self.last[0] == number else None
        carried = self.carried if current is not None and limit is not None else 0
        if current is not None and limit is not None and current[2] + current[3] > limit + carried:
            with pytest.raises(UsageError):
                put(self.repository, policy, now_ms=self.now)
            return
        put(self.repository, policy, now_ms=self.now)
        self.policy = policy
        self.carried = carried
        if current is not None:
            current[1] = None if limit is None else limit + carried
        elif limit is not None:
            self.last = [number, limit, 0, 0]

    @rule(price=st.integers(0, 40))
    def reserve(self, price):
        self.count += 1
        name = f"m{self.count}"
        work = self.repository.open_window(limit=1, purse=Purse(now_ms=self.now))
        chain = work.chains[self.batch]
        bound = self.policy is not None and self.policy.limit_micro_usd is not None
        assert len(chain) == 1 + bound
        if bound:
            self._roll()
            granted = price <= self.last[1] - self.last[2] - self.last[3]
        else:
            granted = True
        assert reserve(self.engine, name, chain, price) == granted
        if granted:
            self.open.append((name, chain, self.last[0] if bound else None, price))
            if bound:
                self.last[2] += price

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.sampled_from([0, 0.5, 1]))
    def settle(self, data, share):
        name, chain, number, price = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        charge = int(price * share)
        movements = [
            ledger.settled(name, micro_usd=charge),
            ledger.released(name, micro_usd=price - charge),
        ]
        write(self.engine, lambda c: ledger.post(c, movements, accounts=chain))
        if number is not None and self.last[0] == number:
            self.last[2] -= price
            self.last[3] += charge

    @rule(hours=st.integers(0, 3))
    def wait(self, hours):
        self.now += hours * HOUR

    @invariant()
    def the_database_agrees_with_the_model_and_balances(self):
        wrong = [
            one for one in check_invariants(self.engine) if "sides" in one.detail or one.invariant == "I3"
        ]
        wrong += [one for one in check_invariants(self.engine) if "carries" in one.detail]
        assert wrong == []
        if self.last is not None and self.policy.limit_micro_usd is not None:
            with reading(self.engine) as connection:
                row = connection.execute(
                    text(
                        """SELECT lim, reserved, spent FROM budget WHERE id = :id
                            ORDER BY period DESC LIMIT 1"""
                    ),
                    {"id": self.policy.budget_id},
                ).one()
            assert list(row) == self.last[1:]

    def teardown(self):
        """Let go of the database."""
        self.engine.dispose()


@pytest.mark.parametrize(("dialect", "examples"), [("sqlite", 40), ("postgresql", 8)])
def test_limits_hold_and_balance_after_each_step_in_any_order(dialect, examples, make_database, shop_of):
    def machine():
        engine = make_database(dialect)
        return BudgetMachine(engine, shop_of(Repository(engine)))

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
