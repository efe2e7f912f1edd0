"""One budget: against dynamic programming, against the definition, and order and money as properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.allocation.hulls import increments
from scheduler.allocation.knapsack import solve
from scheduler.allocation.options import Bound
from tests.unit.allocation.windows import (
    best_gain,
    floor_of,
    floor_prices,
    hull_of,
    make_options,
    permuted,
    tiers_of,
    windows,
)

BUDGETS = st.one_of(st.none(), st.integers(-2, 100))


def totals(options, choice):
    rows = np.flatnonzero(choice.tier >= 0)
    columns = choice.tier[rows]
    return int(options.micro_usd[rows, columns].sum()), float(options.gain[rows, columns].sum())


@given(windows(), BUDGETS, st.sampled_from([0.0, 0.05, 0.5]))
def test_never_over_the_budget_and_each_job_once(options, budget, price):
    choice = solve(options, budget=budget, price=price)
    assert (choice.micro_usd, choice.gain) == totals(options, choice)
    assert choice.micro_usd <= max(0, budget) if budget is not None else True
    assert len(choice.tier) == len(choice.bound) == len(options)
    for row, (tier, bound) in enumerate(zip(choice.tier, choice.bound, strict=True)):
        deferred = bound in (Bound.DEFERRED_MONEY, Bound.DEFERRED_DEADLINE)
        assert (tier == -1) == deferred
        assert deferred or tier in tiers_of(options, row)


@given(windows(jobs=(1, 8)), st.integers(0, 60))
def test_the_gain_is_within_one_step_of_dynamic_programming(options, spare):
    # Given a budget that pays all floors
    budget = sum(floor_prices(options)) + spare
    # When the window is solved
    choice = solve(options, budget=budget)
    # Then less than one refused step is missing to the best of all choices, and nothing where none is refused
    lost = best_gain(options, budget) - choice.gain
    highest = increments(options).gain.max(initial=0)
    assert lost < highest or lost == 0
    if Bound.MONEY not in choice.bound:
        assert lost == 0


@given(windows(jobs=(1, 12), tiers=(2, 2), masks=False), st.integers(0, 60), st.integers(1, 12))
def test_two_tiers_with_equal_extra_prices_are_exact(options, spare, extra):
    prices = options.micro_usd.copy()
    prices[:, 1] = prices[:, 0] + extra
    options = make_options(prices, options.gain, rank=options.rank)
    budget = int(prices[:, 0].sum()) + spare
    assert solve(options, budget=budget).gain == best_gain(options, budget)


@given(windows(), st.integers(0, 80), st.sampled_from([0.0, 0.1]), st.data())
def test_the_order_of_jobs_does_not_matter_while_all_floors_are_paid(options, spare, price, data):
    budget = sum(floor_prices(options)) + spare
    order = np.array(data.draw(st.permutations(range(len(options)))), dtype=np.int64)
    straight = solve(options, budget=budget, price=price)
    mixed = solve(permuted(options, order), budget=budget, price=price)
    assert mixed.tier.tolist() == straight.tier[order].tolist()
    assert mixed.bound.tolist() == straight.bound[order].tolist()
    assert (mixed.price, mixed.micro_usd, mixed.gain) == (
        straight.price,
        straight.micro_usd,
        straight.gain,
    )


@given(windows(), st.sampled_from([0.0, 0.1]))
def test_more_money_never_brings_less_gain(options, price):
    least = sum(floor_prices(options))
    gains = [solve(options, budget=least + spare, price=price).gain for spare in range(0, 60, 3)]
    assert gains == sorted(gains)
    assert solve(options, budget=None, price=price).gain >= gains[-1]


@given(windows(), st.integers(-2, 40))
def test_floors_that_do_not_fit_are_paid_in_order_and_nothing_dearer_is_bought(options, budget):
    # Given less money than the floors cost
    floors = floor_prices(options)
    choice = solve(options, budget=min(budget, sum(floors) - 1))
    # Then each job in turn gets its floor if it still fits
    left = max(0, min(budget, sum(floors) - 1))
    for row, price in enumerate(floors):
        floor = floor_of(options, row)
        if floor is None:
            assert choice.bound[row] == Bound.DEFERRED_DEADLINE
        elif price <= left:
            assert choice.tier[row] == floor
            left -= price
        else:
            assert (choice.tier[row], choice.bound[row]) == (-1, Bound.DEFERRED_MONEY)


@given(windows(), st.integers(0, 60))
def test_more_money_never_defers_a_more_urgent_job(options, budget):
    # "more urgent" is lexicographic: the first job that differs is paid by the larger budget
    served = [(solve(options, budget=money).tier >= 0).tolist() for money in range(budget, budget + 4)]
    assert served == sorted(served)


@given(windows(), st.sampled_from([0.0, 0.03, 0.125, 1.0]))
def test_without_a_limit_each_job_gets_what_is_worth_the_price(options, price):
    choice = solve(options, budget=None, price=price)
    for row in range(len(options)):
        worth = [step for step in hull_of(options, row) if float(step[2]) > price]
        expected = worth[-1][0] if worth else floor_of(options, row)
        assert choice.tier[row] == (-1 if expected is None else expected)


@given(windows(), BUDGETS, st.sampled_from([0.0, 0.05]))
def test_what_bound_a_job_is_true(options, budget, price):
    choice = solve(options, budget=budget, price=price)
    for row, (tier, bound) in enumerate(zip(choice.tier, choice.bound, strict=True)):
        steps = hull_of(options, row)
        top = steps[-1][0] if steps else floor_of(options, row)
        if tier == -1:
            assert bound == (Bound.DEFERRED_DEADLINE if top is None else Bound.DEFERRED_MONEY)
            continue
        others = range(options.tiers)
        if tier != top:
            expected = Bound.MONEY
        elif any(
            c not in tiers_of(options, row) and options.gain[row, c] > options.gain[row, top] for c in others
        ):
            expected = Bound.DEADLINE
        elif not steps and any(
            options.micro_usd[row, c] > options.micro_usd[row, top] for c in tiers_of(options, row)
        ):
            expected = Bound.WORSE
        else:
            expected = Bound.BEST
        assert bound == expected


@given(windows(), BUDGETS)
def test_no_job_is_moved_where_it_gains_less_than_on_its_floor(options, budget):
    choice = solve(options, budget=budget)
    for row in np.flatnonzero(choice.tier >= 0):
        assert options.gain[row, choice.tier[row]] >= options.gain[row, floor_of(options, row)]


def test_the_price_is_that_of_the_best_step_refused():
    # Given three jobs whose second tier costs 4 more and gains 3, 2 and 1 eighths
    options = make_options([[1, 5]] * 3, [[0, 0.375], [0, 0.25], [0, 0.125]])
    # When there is money for one, two or all
    prices = [solve(options, budget=3 + money).price for money in (4, 8, 12)]
    # Then the price is what the next one would have brought
    assert prices == [0.0625, 0.03125, 0.0]
    assert solve(options, budget=15, price=0.05).price == 0.05


def test_a_dear_job_that_does_not_fit_leaves_its_money_to_the_next():
    options = make_options([[0, 10], [0, 6], [0, 3]], [[0, 8], [0, 4], [0, 1]])
    choice = solve(options, budget=9)
    assert choice.tier.tolist() == [0, 1, 1]
    assert choice.price == 0.8


def test_an_empty_window_is_decided():
    choice = solve(make_options(np.empty((0, 2)), np.empty((0, 2))), budget=5)
    assert (choice.tier.tolist(), choice.micro_usd, choice.gain, choice.price) == ([], 0, 0.0, 0.0)


@pytest.mark.parametrize("tiers", [2, 4])
def test_many_jobs_are_within_one_step_of_the_linear_optimum(tiers):
    # Given 50,000 jobs with unlike prices
    rng = np.random.default_rng(tiers)
    prices = rng.integers(1, 5, (50_000, 1)) * np.array([1000, 6000, 15000, 40000])[:tiers]
    gains = rng.normal(0.1, 0.2, prices.shape).cumsum(axis=1)
    options = make_options(prices, gains - gains[:, :1], rank=rng.permutation(50_000))
    floor = int(prices[:, 0].sum())
    spare = int(prices[:, -1].sum() - floor) // 5
    # When a fifth of the money for the dearest tier is there
    choice = solve(options, budget=floor + spare)
    # Then the linear optimum, by duality at the choice's price, is less than a step away
    values = gains - gains[:, :1] - choice.price * (prices - prices[:, :1])
    bound = float(values.max(axis=1).sum()) + choice.price * spare
    assert 0 <= bound - choice.gain < increments(options).gain.max()
    assert floor < choice.micro_usd <= floor + spare
