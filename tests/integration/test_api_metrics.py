"""`/metrics` on both databases: what stands in the rows is what Prometheus reads."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from starlette.testclient import TestClient

from db.gauges import SETTLED_MS, Totals, gauges
from db.keys import Role
from routet2i.contracts import (
    BudgetPolicy,
    Carry,
    Purse,
    Scope,
    ShadowPlan,
    ShadowTier,
    TierKind,
    Yardstick,
)
from routet2i.settings import Settings
from scheduler.api.application import make_application
from scheduler.api.metrics import _outcomes

Read = Callable[[], dict[tuple[str, frozenset[tuple[str, str]]], float]]


@pytest.fixture
def browser(repository, tmp_path) -> Iterator[TestClient]:
    application = make_application(Settings(home=tmp_path), repository)
    with TestClient(application, base_url="http://localhost:8765", client=("127.0.0.1", 1)) as found:
        yield found


@pytest.fixture
def read(browser, monkeypatch) -> Read:
    monkeypatch.setattr("scheduler.api.metrics.FRESH_SECONDS", -1.0)

    def values() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        answer = browser.get("/metrics")
        assert answer.status_code == 200
        return {
            (sample.name.removeprefix("routet2i_"), frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    return values


def of(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def test_an_empty_database_has_metrics_of_zero(read):
    values = read()
    assert values["queue_jobs", of()] == 0
    assert values["queue_oldest_job_seconds", of()] == 0
    assert values["leader", of()] == 0
    assert not [name for name, _ in values if name == "window_seconds"]


def test_what_waits_runs_ends_and_costs_is_told(shop, read):
    # Given a day's budget, five jobs done, one of them failed, and three whose claim is running
    shop.repository.set_budget(
        BudgetPolicy(
            scope=Scope.CLIENT, name="default", span="day", limit_micro_usd=2_000_000, carry=Carry.NONE
        ),
        who="t",
        reason="",
    )
    shop.repository.elect(holder="a", ttl_seconds=60)
    shop.repository.beat(worker="w1", tier="cloud", device="cpu", version="0", state="busy")
    shop.submit(5, pictures=2)
    shop.window()
    claim = shop.poll()
    outcomes = [shop.outcome(claim.jobs[0], fails=True), *(shop.outcome(job) for job in claim.jobs[1:])]
    assert shop.repository.record(claim, outcomes)
    assert shop.repository.finish(claim)
    shop.submit(3)
    shop.window(price=100)
    running = shop.poll()
    shop.submit(4, pictures=3)
    # When they are asked for
    values = read()
    # Then each is there
    assert values["queue_jobs", of()] == 4
    assert values["queue_pictures", of()] == 12
    assert values["jobs", of(tier="", state="queued")] == 4
    assert values["jobs", of(tier="cloud", state="running")] == 3
    assert values["microbatches", of(tier="cloud", state="claimed")] == 1
    assert values["jobs_finished_total", of(tier="cloud", state="succeeded")] == 4
    assert values["job_failures_total", of(tier="cloud", error="GenerationFailed")] == 1
    assert values["attempts_total", of(tier="cloud", end="ok")] == 4
    assert values["attempts_total", of(tier="cloud", end="GenerationFailed")] == 1
    assert values["device_seconds_total", of(tier="cloud")] == pytest.approx(2.0)
    assert values["spent_usd_total", of(tier="cloud")] == pytest.approx(4 * 130e-6)
    assert values["reserved_usd", of(tier="cloud")] == pytest.approx(300e-6)
    budget = {"scope": "client", "name": "default", "span": "day"}
    assert values["budget_limit_usd", of(**budget)] == 2
    assert values["budget_spent_usd", of(**budget)] == pytest.approx(4 * 130e-6)
    assert values["budget_reserved_usd", of(**budget)] == pytest.approx(300e-6)
    assert values["window_seconds", of(quantile="0.5")] == pytest.approx(7e-6)
    assert values["wait_seconds", of(quantile="0.99")] >= 0
    assert 0 <= values["window_age_seconds", of()] < 60
    assert values["tier_oldest_job_seconds", of(tier="cloud")] >= 0
    assert values["workers", of(tier="cloud", state="busy")] == 1
    assert values["leader", of()] == 1
    # And when the claim has ended and is swept, that is counted too
    shop.expire(running)
    assert read()["overdue_claims", of()] == 1
    shop.sweep()
    values = read()
    assert values["sweeper_findings_total", of(finding="expired")] == 1
    assert values["overdue_claims", of()] == 0


def test_the_age_of_the_oldest_job_grows_with_its_wait(shop, read):
    batch = shop.submit(1)
    shop.change("UPDATE batch SET created_ms = created_ms - 90000 WHERE id = :id", id=batch)
    assert 90 <= read()["queue_oldest_job_seconds", of()] < 120
    shop.change("UPDATE job SET created_ms = created_ms - 90000")
    shop.window()
    values = read()
    assert values["queue_oldest_job_seconds", of()] == 0
    assert 90 <= values["tier_oldest_job_seconds", of(tier="cloud")] < 120
    assert values["jobs", of(tier="cloud", state="ready")] == 1


def test_predicted_and_measured_superiority_stand_side_by_side(shop, read):
    # Given pairs of pictures: predicted 0.3, and both tiers drew equally good ones
    shop.submit(3)
    work = shop.repository.open_window(limit=10)
    other = {
        "edge": ShadowTier(tier="cloud", kind=TierKind.CLOUD, width=64, height=64, micro_usd=65),
        "cloud": ShadowTier(tier="edge", kind=TierKind.EDGE, width=64, height=64, micro_usd=9),
    }
    shadows = ShadowPlan(
        share=1.0,
        drawn=frozenset(job.job_id for job in work.jobs),
        other=other,
        key="default:0",
        limit_micro_usd=10_000,
        microbatch_jobs=16,
        yardstick=Yardstick(weights={"detail": 1.0}, spans={"detail": 0.5}),
    )
    shop.repository.record_window(replace(shop.plan(work), shadows=shadows))
    for tier in ("cloud", "edge"):
        shop.work(tier=tier, worker=tier)
    # When they are asked for
    values = read()
    # Then equals are half superior
    labels = of(predictor="constant", version="1")
    assert values["prs_pairs", labels] == 3
    assert values["prs_predicted", labels] == pytest.approx(0.3)
    assert values["prs_measured", labels] == pytest.approx(0.5)


def test_outcomes_that_are_settled_are_read_once_and_none_is_lost_or_counted_twice(shop, monkeypatch):
    def work() -> None:
        shop.submit(2)
        shop.window()
        shop.work()

    # Given outcomes that have settled
    totals = Totals()
    work()
    monkeypatch.setattr("db.gauges.SETTLED_MS", -1)
    assert totals.read(shop.engine).jobs == {("cloud", "succeeded"): 2}
    assert totals._settled.jobs == {("cloud", "succeeded"): 2}
    # When others come
    monkeypatch.undo()
    for expected in (4, 6):
        time.sleep(0.01)  # the clock of rows counts milliseconds
        work()
        # Then they are added as long as they are new, and the others stay as they were
        assert totals.read(shop.engine).jobs == {("cloud", "succeeded"): expected}
        assert totals._settled.jobs == {("cloud", "succeeded"): 2}
    monkeypatch.setattr("db.gauges.SETTLED_MS", -1)
    assert totals.read(shop.engine).jobs == {("cloud", "succeeded"): 6}
    assert totals._settled.jobs == {("cloud", "succeeded"): 6}


def counters(totals: Totals, engine: Engine) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in _outcomes(totals.read(engine))
        for sample in family.samples
    }


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
def test_no_counter_ever_falls_and_all_processes_tell_the_same(shop, seed):
    # Given a process that reads outcomes while they come, and while they settle sooner or later
    rng = Random(seed)
    shop.submit(36)
    shop.window(size=3)
    old, told = Totals(), [{}]
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(12):
            claim = shop.poll()
            outcomes = [
                replace(shop.outcome(job, fails=rng.random() < 0.1), seconds=rng.uniform(0.0001, 20))
                for job in claim.jobs
            ]
            assert shop.repository.record(claim, outcomes)
            assert shop.repository.finish(claim)
            for settled_ms in rng.choices((2, 5, 20, 60), k=2):
                patch.setattr("db.gauges.SETTLED_MS", settled_ms)
                told.append(counters(old, shop.engine))
            # Then one that was just started tells the same, to the last bit
            assert told[-1] == counters(Totals(), shop.engine)
    # And nothing is ever less than it was
    for before, after in pairwise(told):
        assert all(after[name] >= value for name, value in before.items())
    assert {name for name, _ in told[-1]} >= {"routet2i_device_seconds_total", "routet2i_spent_usd_total"}


def test_a_clock_that_went_back_is_followed(shop):
    totals = Totals()
    shop.submit(2)
    shop.window()
    shop.work()
    assert sum(totals.read(shop.engine).jobs.values()) == 2
    # When what was read lies in the future
    totals._until_ms += 10 * SETTLED_MS
    # Then all is read anew
    assert sum(totals.read(shop.engine).jobs.values()) == 2


def test_openmetrics_is_spoken_where_it_is_asked_for(shop, browser):
    shop.submit(1)
    shop.window()
    shop.work()
    answer = browser.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in open_families(answer.text)}
    assert families["routet2i_jobs_finished"].type == "counter"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "metrics.example"},  # a name that somebody else's DNS lets point here
        {"X-Forwarded-For": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
        {"Origin": "http://localhost:8765"},
    ],
)
def test_who_is_not_of_this_machine_needs_a_key(browser, headers):
    assert browser.get("/metrics", headers=headers).status_code == 401


def test_a_key_that_sees_everything_opens_the_metrics_from_anywhere(repository, tmp_path):
    application = make_application(Settings(home=tmp_path), repository)
    for role in Role:
        repository.add_key(f"k-{role}", client="ann", role=role, name="")
    with TestClient(application, client=("203.0.113.7", 1), base_url="http://localhost") as browser:
        status = {
            role: browser.get("/metrics", headers={"Authorization": f"Bearer k-{role}"}).status_code
            for role in Role
        }
        assert browser.get("/metrics").status_code == 401
    assert status == {Role.SUBMITTER: 403, Role.AUDITOR: 200, Role.ADMIN: 200}


def test_a_flood_of_scrapes_asks_once_a_second(shop, browser):
    shop.submit(1)
    first = browser.get("/metrics").text
    shop.submit(1)
    assert browser.get("/metrics").text == first


def test_jobs_beyond_the_sample_are_reckoned(shop, monkeypatch):
    monkeypatch.setattr("db.gauges.SAMPLE", 2)
    shop.submit(20)
    shop.window(size=2, purse=Purse())
    assert gauges(shop.engine).tiers["cloud"].jobs == {"ready": 20, "sent": 0, "claimed": 0}
