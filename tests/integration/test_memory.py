"""What a leader knows of the time before it: markets, arrivals, what waits elsewhere; on real databases."""

import time
from dataclasses import replace

import numpy as np
import pytest

from routet2i.contracts import SLOT_MS, Account, BudgetPolicy, GenerationRequest, Prediction, Purse, Scope
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler.deciding import decide_window
from scheduler.demand import NONE
from scheduler.memory import Memory
from scheduler.predictor.interface import Predictor
from scheduler.service import run_window

TIERS = read_tiers(packaged("pocket"))  # edge 9,000 and cloud 65,000 micro-dollars a picture
EDGE, CLOUD = 9_000, 65_000
HOUR = 3_600_000
NOON = 1_790_000_000_000 // HOUR * HOUR


class ByNumber:
    """A predictor for prompts that end in their PRS in millionths."""

    name = "by_number"

    def __init__(self, version="test"):
        self.version = version

    def predict(self, prompts):
        return [Prediction(prs=int(prompt.split()[-1]) / 1e6) for prompt in prompts]


def submit(repository, values, *, key, budget=None, client="default"):
    """Submit a batch with one job for each PRS in millionths, and return its id."""
    batch_id = repository.open_batch(
        client=client, idem_key=key, body_sha256=key, name=key, budget_micro_usd=budget
    ).batch_id
    requests = [
        GenerationRequest(line_no=line, custom_id=str(line), prompt=f"a dog {value}", seed=line)
        for line, value in enumerate(values, 1)
    ]
    repository.add_jobs(batch_id, requests, [], cursor_line=len(requests))
    repository.close_intake(batch_id)
    return batch_id


def window(repository, memory, *, jobs=50, predictor: Predictor | None = None, now=None):
    return run_window(
        repository,
        predictor or ByNumber(),
        tiers=TIERS,
        settings=Settings(),
        term=None,
        memory=memory,
        limit=jobs,
        now=now,
    )


def gain(shop, batch_id):
    """The predicted gain of a decided batch."""
    return shop.read(
        """SELECT sum(0.5 - a.prs) FROM assignment a JOIN job j ON j.id = a.job_id
            WHERE j.batch_id = :batch AND a.tier = 'cloud'""",
        batch=batch_id,
    )


def values_of(jobs, *, seed=0):
    return [int(one) for one in np.random.default_rng(seed).beta(4, 5, jobs) * 1e6]


def budget_for(jobs, *, share):
    return jobs * EDGE + int(share * jobs) * (CLOUD - EDGE)


# ---------------------------------------------------------------- a new leader


@pytest.mark.parametrize("limited", ["batch", "client", "deployment"])
def test_a_new_leader_decides_its_first_window_as_the_one_before_it_would_have(repository, limited):
    # Given a batch that one leader has decided half of
    money = budget_for(400, share=0.2)
    if limited != "batch":
        policy = BudgetPolicy(scope=Scope(limited), name="default", span="month", limit_micro_usd=money)
        repository.set_budget(policy, who="ann", reason="a test")
    submit(repository, values_of(400), key="a", budget=money if limited == "batch" else None)
    known = Memory()
    for _ in range(4):
        window(repository, known)
    # When it and a new one look at the next window
    work = repository.open_window(limit=50, purse=Purse())
    markets = [one.markets(repository, work, ByNumber(), tiers=TIERS) for one in (known, Memory())]
    decisions = [
        decide_window(
            work,
            ByNumber().predict([job.prompt for job in work.jobs]),
            tiers=TIERS,
            yardstick=None,
            markets=one,
        )
        for one in markets
    ]
    # Then price and choice are the same
    (account,) = (one for one, funds in work.accounts.items() if funds.limit is not None)
    reservoirs = [one[account.budget_id].recent for one in markets]
    assert reservoirs[0].jobs == reservoirs[1].jobs == 600  # all 400 were asked about before
    assert np.array_equal(np.sort(reservoirs[0].efficiency), np.sort(reservoirs[1].efficiency))
    assert len(decisions[0].assignments) == 50
    for one, other in zip(decisions[0].assignments, decisions[1].assignments, strict=True):
        assert (one.job_id, one.tier, one.reason) == (other.job_id, other.tier, other.reason)
        assert one.threshold == pytest.approx(other.threshold, abs=1e-9)


def test_changes_of_leader_cost_a_batch_no_gain(repository, shop):
    # Given the same jobs twice
    values, money = values_of(600), budget_for(600, share=0.2)
    gains = []
    for key, leaders in (("a", 1), ("b", 12)):
        batch_id = submit(repository, values, key=key, budget=money)
        memory = Memory()
        # When one leader decides all windows of the one, and each window of the other has a new leader
        for _ in range(12):
            memory = memory if leaders == 1 else Memory()
            window(repository, memory)
        assert shop.read("SELECT count(*) FROM job WHERE state = 'queued'") == 0
        gains.append(gain(shop, batch_id))
    # Then the changes cost nothing
    assert gains[1] >= 0.998 * gains[0]


def test_what_another_version_has_predicted_is_not_believed(repository):
    # Given windows of an older predictor
    submit(repository, values_of(100), key="a", budget=budget_for(100, share=0.2))
    window(repository, Memory(), predictor=ByNumber("old"))
    work = repository.open_window(limit=50, purse=Purse())
    (account,) = work.accounts
    # Then a new leader knows nothing with a new one, and all with the old
    known = [
        Memory().markets(repository, work, ByNumber(version), tiers=TIERS)[account.budget_id].recent.jobs
        for version in ("new", "old")
    ]
    assert known == [0, 50]


def test_of_many_jobs_the_newest_are_read_oldest_first(repository):
    # Given three windows
    values = values_of(90)
    submit(repository, values, key="a", budget=budget_for(90, share=0.2))
    for _ in range(3):
        window(repository, Memory(), jobs=30)
    account = Account(budget_id="deployment:default/day", period="d")
    # When the newest forty jobs are asked for
    found = repository.decided_jobs([account], predictor_name="by_number", predictor_version="test", limit=40)
    # Then they are the last of the file
    assert [one.prediction.prs for one in found[account]] == [value / 1e6 for value in values[50:]]


# ---------------------------------------------------------------- arrivals


def test_arrivals_are_counted_per_client_and_slot(repository, shop):
    # Given jobs of two clients, in the slot that runs and in earlier ones
    submit(repository, [1, 2, 3], key="a", client="ann")
    submit(repository, [1], key="b", client="ann")
    submit(repository, [1, 2], key="c", client="bob")
    now = shop.read("SELECT max(slot_ms) FROM arrivals")
    assert shop.read("SELECT sum(jobs) FROM arrivals WHERE client = 'ann'") == 4
    shop.change("UPDATE arrivals SET slot_ms = slot_ms - :ago WHERE client = 'ann'", ago=3 * SLOT_MS)
    # When they are asked for
    ann, all_ = (Account(budget_id=one, period="d") for one in ("client:ann/day", "deployment:d/day"))
    found = repository.arrivals([ann, all_], now_ms=now + 7)
    # Then complete slots are told without a gap, and a deployment's are everybody's
    assert found[ann].jobs == (4, 0, 0)
    assert (found[ann].pictures, found[all_].jobs) == (4, (4, 0, 0))
    later = repository.arrivals([ann, all_], now_ms=now + SLOT_MS)
    assert (later[ann].jobs, later[all_].jobs) == ((4, 0, 0, 0), (4, 0, 0, 2))
    # And a sweep deletes what is two weeks old
    shop.change("UPDATE arrivals SET slot_ms = 0 WHERE client = 'ann'")
    shop.sweep()
    assert shop.read("SELECT sum(jobs) FROM arrivals") == 2


def test_a_line_that_was_refused_or_repeated_did_not_arrive(repository, shop):
    opened = repository.open_batch(
        client="ann", idem_key="k", body_sha256="k", name="k", budget_micro_usd=None
    )
    one = GenerationRequest(line_no=1, custom_id="same", prompt="a dog", seed=1, n=2)
    for _ in range(2):
        repository.add_jobs(opened.batch_id, [one, replace(one, line_no=2)], [], cursor_line=2)
    assert shop.read("SELECT sum(jobs) FROM arrivals") == 1
    assert shop.read("SELECT sum(pictures) FROM arrivals") == 2


def test_only_limits_with_an_end_expect_jobs_and_counts_are_read_once_a_slot(repository, shop):
    # Given a day in which 100 jobs came in every slot
    purse = Purse(now_ms=NOON)
    for scope, span in (("client", "day"), ("client", "total"), ("deployment", "hour")):
        policy = BudgetPolicy(scope=Scope(scope), name="default", span=span, limit_micro_usd=10**9)
        repository.set_budget(policy, who="ann", reason="a test", now_ms=NOON)
    batch_id = submit(repository, [1, 2], key="a", budget=10**6)
    policy = BudgetPolicy(scope=Scope.BATCH, name=batch_id, span="day", limit_micro_usd=10**6)
    repository.set_budget(policy, who="ann", reason="a test", now_ms=NOON)
    shop.change("DELETE FROM arrivals")
    for slot in range(1, 289):
        shop.change(
            "INSERT INTO arrivals(client, slot_ms, jobs, pictures) VALUES('default', :slot, 100, 200)",
            slot=NOON - slot * SLOT_MS,
        )
    # When a window asks what will come
    work, memory = repository.open_window(limit=10, purse=purse), Memory()
    found = {one.budget_id: demand for one, demand in memory.demands(repository, work).items()}
    # Then the client expects the rest of its day, the deployment that of its hour, and nobody else anything
    assert set(found) == {"client:default/day", "deployment:default/hour"}
    ends = {one.budget_id: funds.ends_ms for one, funds in work.accounts.items()}
    for budget_id, demand in found.items():
        slots = (ends[budget_id] - NOON) / SLOT_MS
        assert 85 * slots < demand.jobs < 100 * slots
        assert demand.pictures == pytest.approx(2 * demand.jobs)
    # And counts that change are seen with the next slot, not before
    shop.change("DELETE FROM arrivals")
    assert memory.demands(repository, work) != dict.fromkeys(memory.demands(repository, work), NONE)
    work = replace(work, now_ms=NOON + SLOT_MS)
    assert set(memory.demands(repository, work).values()) == {NONE}


# ---------------------------------------------------------------- what is to be expected


def best_gain(values, *, cloud):
    """The most that so many jobs on the cloud gain."""
    return sum(0.5 - one / 1e6 for one in sorted(values)[:cloud] if one < 500_000)


@pytest.mark.parametrize("order", ["best first", "best last", "by chance"])
def test_a_sorted_file_does_not_fool_the_price(repository, shop, order):
    # Given a file of 1,000 jobs and money for 200 on the cloud
    values = values_of(1_000)
    if order != "by chance":
        values.sort(reverse=order == "best last")
    batch_id = submit(repository, values, key="a", budget=budget_for(1_000, share=0.2))
    # When it is decided in twenty windows
    memory = Memory()
    while window(repository, memory) is not None:
        pass
    # Then it gains nearly what hindsight would
    assert shop.states(batch_id) == {"assigned": 1_000}
    assert gain(shop, batch_id) >= 0.97 * best_gain(values, cloud=200)
    assert shop.is_sound()


def test_a_period_expects_what_the_one_before_it_brought(repository, shop):
    # Given a client's limit per hour, and an hour whose jobs came by chance
    policy = BudgetPolicy(
        scope=Scope.CLIENT, name="default", span="hour", limit_micro_usd=budget_for(600, share=0.2)
    )
    repository.set_budget(policy, who="ann", reason="a test")
    memory = Memory()
    submit(repository, values_of(600), key="first")
    while window(repository, memory, jobs=100) is not None:
        pass
    # When that hour is over and another one brings such jobs, the worst first
    values = sorted(values_of(600, seed=1), reverse=True)
    batch_id = submit(repository, values, key="second")
    later = time.time() + 7_200
    while window(repository, memory, jobs=100, now=later) is not None:
        pass
    # Then money was kept for the best
    assert gain(shop, batch_id) >= 0.9 * best_gain(values, cloud=120)


def test_what_fits_one_window_is_not_asked_about_before(repository):
    # Given a batch that one window decides
    submit(repository, values_of(50), key="a", budget=budget_for(50, share=0.2))
    predictor = ByNumber()
    work = repository.open_window(limit=50, purse=Purse())
    asked = []
    predictor.predict = lambda prompts: asked.append(prompts) or ByNumber.predict(predictor, prompts)
    # When a memory looks at it, then nobody was asked
    Memory().markets(repository, work, predictor, tiers=TIERS)
    assert asked == []


def test_the_sample_of_a_batch_is_spread_over_its_file_and_always_the_same(repository):
    batch_id = submit(repository, range(1_000, 11_000), key="a")
    sample = repository.sampled_jobs(batch_id, jobs=100)
    assert sample == repository.sampled_jobs(batch_id, jobs=100)
    lines = [int(job.prompt.split()[-1]) - 1_000 for job in sample]
    assert [line // 100 for line in lines] == list(range(100))
    assert len(repository.sampled_jobs(batch_id, jobs=20_000)) == 10_000


# ---------------------------------------------------------------- what waits elsewhere


@pytest.mark.parametrize("scope", ["client", "deployment"])
def test_one_batch_does_not_buy_with_the_floor_money_of_another(repository, shop, scope):
    # Given two batches and money that just covers all floors
    policy = BudgetPolicy(
        scope=Scope(scope), name="default", span="month", limit_micro_usd=20 * EDGE + CLOUD - EDGE - 1
    )
    repository.set_budget(policy, who="ann", reason="a test")
    first = submit(repository, [100_000] * 10, key="a")
    second = submit(repository, [100_000] * 10, key="b")
    # When windows take one batch each
    work = repository.open_window(limit=10, purse=Purse())
    assert {job.batch_id for job in work.jobs} == {first}
    for _ in range(2):
        window(repository, Memory(), jobs=10)
    # Then nothing dear was bought, and every job has its tier
    assert shop.read("SELECT count(*) FROM assignment WHERE tier = 'cloud'") == 0
    assert shop.read("SELECT count(*) FROM assignment") == 20
    assert shop.states(second) == {"assigned": 10}
    assert shop.is_sound()


def test_another_clients_jobs_and_cancelled_ones_are_kept_no_money_for(repository, shop):
    # Given a client's batch, one of another client and one that was cancelled
    policy = BudgetPolicy(scope=Scope.CLIENT, name="ann", span="month", limit_micro_usd=EDGE + CLOUD)
    repository.set_budget(policy, who="ann", reason="a test")
    submit(repository, [100_000] * 2, key="a", client="ann")
    submit(repository, [100_000] * 9, key="b", client="bob")
    repository.cancel_batch(submit(repository, [100_000] * 9, key="c", client="ann"))
    (account,) = (
        one for one in repository.open_window(limit=4, purse=Purse()).accounts if one.scope is Scope.CLIENT
    )
    work = repository.open_window(limit=4, purse=Purse())
    assert sum(group.jobs for group in work.elsewhere[account]) == 0
    # When a window that the two share is decided
    window(repository, Memory(), jobs=4)
    # Then its money buys what it can
    of_ann = "FROM assignment a JOIN job j ON j.id = a.job_id WHERE j.client = 'ann'"
    assert shop.read(f"SELECT count(*) {of_ann}") == 2
    assert shop.read(f"SELECT count(*) {of_ann} AND a.tier = 'cloud'") == 1
