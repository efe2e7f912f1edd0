"""The report of `make allocation`: its pure parts, and each measurement once in small."""

import random

import numpy as np
import pytest

from routet2i.figures import Figure
from scheduler.allocation.knapsack import solve
from tests.allocation import gateway
from tests.allocation.fairness import places_off, windows_until_decided
from tests.allocation.parts import PARTS, merged, named, part_of
from tests.allocation.processes import in_threads
from tests.allocation.speed import budget_of, bytes_per_job, draw_options, speed_figures
from tests.allocation.windows import jobs_per_second
from tests.allocation.workload import (
    DEAREST,
    FULL,
    QUICK,
    batch_of,
    bill,
    chain_of,
    client_of,
    excess,
    wish,
)


def row(name, value=1.0):
    return Figure(figure=name, value=value, unit="", baseline="", target="", holds=None, command="make x")


def test_parts_that_are_not_measured_keep_their_rows_in_the_order_of_the_report():
    # Given a report, and a new measurement of its second part
    before = [*named("overspend", [row("a"), row("b")]), *named("speed", [row("c")])]
    now = [*named("speed", [row("d"), row("e: f")]), *named("optimality", [row("g")])]
    # When they are merged
    after = merged(before, now, measured=["speed", "optimality"])
    # Then old rows of measured parts are gone, and the parts stand in their order
    assert [one.figure for one in after] == [
        "overspend: a",
        "overspend: b",
        "optimality: g",
        "speed: d",
        "speed: e: f",
    ]
    assert {part_of(one) for one in after} <= set(PARTS)


def test_excess_is_that_of_the_limit_that_is_broken_most():
    limits = {"a": 10, "b": 20, "c": 30}
    assert excess({"a": 10, "b": 3}, limits) == 0
    assert excess({"a": 12, "b": 27, "c": 0}, limits) == 7


@pytest.mark.parametrize("workload", [FULL, QUICK])
def test_every_writer_draws_on_limits_that_exist_and_inner_ones_can_bind(workload):
    # Given the limits of a workload
    limits = workload.limits
    for number in range(workload.processes):
        batch, client, deployment = chain_of(number)
        # Then a writer's batch, client and deployment have one each
        assert (batch, client, deployment) == (batch_of(number), client_of(number), "deployment")
        assert limits[batch] < limits[client] + limits[batch]
        assert limits[batch] < limits[deployment]
    # And inner limits together are more than the outer one, so that all of them bind somewhere
    assert sum(limit for name, limit in limits.items() if name.startswith("batch")) > workload.limit
    assert sum(limit for name, limit in limits.items() if name.startswith("client")) > workload.limit
    assert limits["deployment"] > DEAREST


def test_the_full_workload_is_the_one_that_was_promised():
    assert (FULL.writers, FULL.schedulers) == (256, 4)
    assert FULL.kills > 0


def test_a_bill_is_never_above_what_was_asked_for():
    draw = random.Random(1)
    for _ in range(200):
        price = wish(draw)
        assert 0 <= bill(draw, price) <= price <= DEAREST


def test_an_error_in_a_writers_thread_is_not_lost():
    def body(number):
        if number == 2:
            raise KeyError(number)

    with pytest.raises(KeyError):
        in_threads(body, 4)


def test_without_the_gateway_the_row_says_so(monkeypatch):
    monkeypatch.setattr(gateway, "find_spec", lambda _name: None)
    assert gateway.told(QUICK) == "LiteLLM's Router cap: not installed"


def test_the_drawn_decision_is_neither_free_nor_out_of_reach():
    # Given drawn jobs and their budget
    options = draw_options(2_000, tiers=4, seed=0)
    budget = budget_of(options)
    # When they are decided
    choice = solve(options, budget=budget)
    # Then money binds, everybody is drawn, and all tiers are in use
    assert 0.99 * budget < choice.micro_usd <= budget
    assert choice.price > 0
    assert set(np.unique(choice.tier)) == {0, 1, 2, 3}


def test_speed_has_its_three_rows_with_verdicts():
    figures = list(speed_figures(jobs=20_000, command="make x"))
    assert len(figures) == 3
    assert all(figure.holds is not None and figure.value > 0 for figure in figures)
    assert bytes_per_job(20_000, tiers=2) < bytes_per_job(20_000, tiers=4)


def test_the_window_loop_decides_what_it_measures(tmp_path, sqlite_template):
    # Given an empty database
    file = tmp_path / "routet2i.db"
    file.write_bytes(sqlite_template)
    # When windows of all pending jobs are recorded and dispatched, batch after batch
    rate = jobs_per_second(f"sqlite+pysqlite:///{file}", tmp_path, pending=1_000)
    # Then there is a rate
    assert rate > 0


def test_few_jobs_wait_for_one_window_and_the_former_order_for_many(tmp_path, sqlite_template):
    # Given an empty database
    file = tmp_path / "routet2i.db"
    file.write_bytes(sqlite_template)
    # When one client comes behind another
    ours, former = windows_until_decided(f"sqlite+pysqlite:///{file}", tmp_path, queued=3_000)
    # Then it waits for one window, and would have waited for all that was queued
    assert (ours, former) == (1, 3)


def test_shares_by_weight_are_measured_against_the_order_of_arrival(tmp_path, sqlite_template):
    file = tmp_path / "routet2i.db"
    file.write_bytes(sqlite_template)
    off, former = places_off(f"sqlite+pysqlite:///{file}", tmp_path, windows=2)
    assert off <= 1
    assert former == 2 * 512 / 4
