"""Budgets inside budgets: never over any, one budget as a special case, near the best of all choices."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.allocation.accounts import solve_nested
from scheduler.allocation.hulls import increments
from scheduler.allocation.knapsack import solve
from scheduler.allocation.options import Bound
from tests.unit.allocation.windows import (
    choices,
    floor_of,
    floor_prices,
    make_options,
    permuted,
    rows_of,
    tiers_of,
    windows,
)

MONEY = st.integers(-1, 40)


@st.composite
def nested(draw, **kwargs):
    """Draw a window whose batches belong to clients, which belong to the deployment; some pay for nothing."""
    options = draw(windows(**kwargs))
    batch = draw(st.lists(st.integers(0, 3), min_size=len(options), max_size=len(options)))
    client_of = draw(st.tuples(*[st.integers(4, 5)] * 4))
    rows = [(b, client_of[b], 6) for b in batch]
    accounts = np.array(rows, dtype=np.int32).reshape(-1, 3)
    gone = draw(st.sets(st.integers(0, 6), max_size=3))
    accounts[np.isin(accounts, list(gone))] = -1
    return options, accounts


def spent(options, accounts, choice, *, size):
    total = [0] * size
    for row in np.flatnonzero(choice.tier >= 0):
        for account in accounts[row][accounts[row] >= 0]:
            total[account] += int(options.micro_usd[row, choice.tier[row]])
    return total


@given(windows(), st.data())
def test_no_account_is_overspent_nested_or_not(options, data):
    # Given any three levels of accounts, each of which stands at one level
    size = (len(options), 3)
    levels = [st.sampled_from([-1, 3 * level, 3 * level + 1, 3 * level + 2]) for level in range(3)]
    accounts = np.array([data.draw(st.tuples(*levels)) for _ in range(len(options))], dtype=np.int32)
    allowance = np.array(data.draw(st.tuples(*[MONEY] * 9)), dtype=np.int64)
    price = np.array(data.draw(st.tuples(*[st.sampled_from([0.0, 0.05, 0.3])] * 9)))
    # When the window is solved
    accounts = accounts.reshape(size)
    choice = solve_nested(options, accounts=accounts, allowance=allowance, price=price)
    # Then each has its money, and each job one allowed tier or none
    for total, most in zip(spent(options, accounts, choice, size=9), allowance, strict=True):
        assert total <= max(0, most)
    for row in range(len(options)):
        assert choice.tier[row] == -1 or choice.tier[row] in tiers_of(options, row)
        deferred = choice.bound[row] in (Bound.DEFERRED_MONEY, Bound.DEFERRED_DEADLINE)
        assert deferred == (choice.tier[row] == -1)
        refused = choice.bound[row] in (Bound.MONEY, Bound.DEFERRED_MONEY)
        assert refused == (choice.account[row] != -1)
        assert choice.account[row] in (-1, *accounts[row])


@given(windows(), MONEY, st.sampled_from([0.0, 0.05]), st.integers(1, 3), st.data())
def test_one_account_is_one_budget(options, budget, price, levels, data):
    # Given one account at some level
    accounts = np.full((len(options), levels), -1, dtype=np.int32)
    accounts[:, data.draw(st.integers(0, levels - 1))] = 0
    choice = solve_nested(options, accounts=accounts, allowance=np.array([budget]), price=np.array([price]))
    # Then the choice is that of one budget
    expected = solve(options, budget=budget, price=price)
    assert choice.tier.tolist() == expected.tier.tolist()
    assert choice.bound.tolist() == expected.bound.tolist()
    assert (choice.price, choice.micro_usd, choice.gain) == (
        expected.price,
        expected.micro_usd,
        expected.gain,
    )


@given(windows())
def test_without_accounts_money_has_no_limit(options):
    accounts = np.full((len(options), 2), -1, dtype=np.int32)
    choice = solve_nested(options, accounts=accounts, allowance=np.empty(0, dtype=np.int64))
    assert choice.tier.tolist() == solve(options, budget=None).tier.tolist()


@given(nested(jobs=(1, 5), tiers=(1, 3)), st.tuples(*[MONEY] * 7))
def test_the_gain_is_within_one_step_per_account_of_the_best_of_all_choices(window, spare):
    # Given accounts that pay all floors and something more
    options, accounts = window
    floors = np.array(floor_prices(options))
    allowance = np.array(
        [int(floors[(accounts == a).any(axis=1)].sum()) + max(0, money) for a, money in enumerate(spare)]
    )
    # When the window is solved
    choice = solve_nested(options, accounts=accounts, allowance=allowance)
    # Then the best of all choices is at most one step of each account's jobs ahead
    best = -np.inf
    for assigned in choices(options):
        total = np.zeros(7, dtype=np.int64)
        for row, column in assigned:
            total[accounts[row][accounts[row] >= 0]] += options.micro_usd[row, column]
        if (total <= allowance).all():
            best = max(best, sum(options.gain[row, column] for row, column in assigned))
    steps = increments(options)
    gain = steps.gain
    slack = sum(gain[(accounts[steps.job] == a).any(axis=1)].max(initial=0) for a in range(7))
    assert choice.gain <= best + 1e-12
    assert choice.gain >= best - slack - 1e-12
    assert (choice.tier >= 0).sum() == len(rows_of(options))


@given(nested(), st.tuples(*[MONEY] * 6))
def test_more_money_in_the_outermost_account_never_brings_less_gain(window, others):
    options, accounts = window
    floors = np.array(floor_prices(options))
    outside = int(floors[(accounts == 6).any(axis=1)].sum())
    rest = [int(floors[(accounts == a).any(axis=1)].sum()) + max(0, m) for a, m in enumerate(others)]
    gains = [
        solve_nested(options, accounts=accounts, allowance=np.array([*rest, outside + money])).gain
        for money in range(0, 40, 2)
    ]
    assert gains == sorted(gains)


@given(nested(), st.tuples(*[MONEY] * 7), st.data())
def test_the_order_of_jobs_does_not_matter_while_all_floors_are_paid(window, spare, data):
    options, accounts = window
    floors = np.array(floor_prices(options))
    allowance = np.array(
        [int(floors[(accounts == a).any(axis=1)].sum()) + max(0, money) for a, money in enumerate(spare)]
    )
    order = np.array(data.draw(st.permutations(range(len(options)))), dtype=np.int64)
    straight = solve_nested(options, accounts=accounts, allowance=allowance)
    mixed = solve_nested(permuted(options, order), accounts=accounts[order], allowance=allowance)
    assert mixed.tier.tolist() == straight.tier[order].tolist()
    assert mixed.account.tolist() == straight.account[order].tolist()
    assert mixed.prices.tolist() == straight.prices.tolist()


@given(nested(), st.tuples(*[MONEY] * 7))
def test_floors_are_paid_in_order_by_all_accounts_or_by_none(window, allowance):
    # Given accounts of which some may be short
    options, accounts = window
    choice = solve_nested(options, accounts=accounts, allowance=np.array(allowance))
    # Then a loop over the jobs that pays floors finds the same jobs served
    left = [max(0, money) for money in allowance]
    short = [
        sum(price for row, price in enumerate(floor_prices(options)) if a in accounts[row]) > left[a]
        for a in range(7)
    ]
    for row, price in enumerate(floor_prices(options)):
        payers = [a for a in accounts[row].tolist() if a >= 0]
        fits = all(price <= left[a] for a in payers)
        if floor_of(options, row) is None:
            assert choice.bound[row] == Bound.DEFERRED_DEADLINE
        elif fits:
            assert choice.tier[row] >= 0
        else:
            assert choice.bound[row] == Bound.DEFERRED_MONEY
            assert short[choice.account[row]]
        if fits:
            for a in payers:
                left[a] -= price
        # and an account that is short buys nothing dearer
        if any(short[a] for a in payers):
            assert choice.tier[row] in (-1, floor_of(options, row))


def test_the_account_that_refused_is_named():
    # Given two batches of one client: the first poor, the second rich, and a client with money for one step
    options = make_options([[0, 4]] * 4, [[0, 1.0], [0, 0.75], [0, 0.5], [0, 0.25]])
    accounts = np.array([[0, 2], [0, 2], [1, 2], [1, 2]], dtype=np.int32)
    # When the window is solved
    choice = solve_nested(options, accounts=accounts, allowance=np.array([4, 100, 11]))
    # Then the first batch refuses its second job, and the client the second batch's
    assert choice.tier.tolist() == [1, 0, 1, 0]
    assert choice.account.tolist() == [-1, 0, -1, 2]
    assert choice.prices.tolist() == [0.1875, 0.0, 0.0625]
    assert choice.price == 0.1875


def test_the_account_that_refused_the_next_step_is_named_not_that_of_a_later_one():
    # Given a batch that cannot pay the second step, and a client that cannot even pay the first
    options = make_options([[0, 4, 8]], [[0, 1.0, 1.5]])
    accounts = np.array([[0, 1]], dtype=np.int32)
    choice = solve_nested(options, accounts=accounts, allowance=np.array([5, 3]))
    # Then the client is what the job waits for
    assert (choice.tier.tolist(), choice.account.tolist()) == ([0], [1])
    assert choice.prices.tolist() == [0.125, 0.25]


def test_the_highest_price_of_a_jobs_accounts_counts():
    options = make_options([[0, 4]] * 2, [[0, 1.0], [0, 0.5]])
    accounts = np.array([[0, 1], [-1, 1]], dtype=np.int32)
    choice = solve_nested(options, accounts=accounts, allowance=np.array([9, 9]), price=np.array([0.25, 0.1]))
    assert choice.tier.tolist() == [0, 1]
    assert choice.account.tolist() == [0, -1]


@pytest.mark.parametrize(
    ("accounts", "prices", "sentence"),
    [
        ([[0, 1], [1, 0]], [0.0, 0.0], "two levels"),
        ([[0, 2], [0, 2]], [0.0, 0.0], "below 2"),
        ([[0, -2], [0, 1]], [0.0, 0.0], "below 2"),
        ([[0, 1]], [0.0, 0.0], "do not match"),
        ([[0, 1], [0, 1]], [0.0], "do not match"),
    ],
)
def test_accounts_that_make_no_sense_are_refused(accounts, prices, sentence):
    options = make_options([[0, 4]] * 2, [[0, 1.0]] * 2)
    with pytest.raises(ValueError, match=sentence):
        solve_nested(
            options,
            accounts=np.array(accounts, dtype=np.int32),
            allowance=np.array([9, 9]),
            price=np.array(prices),
        )


def test_all_choices_are_listed_once():
    options = make_options([[0, 1, 2], [0, 1, 2]], [[0, 1, 2]] * 2, allowed=[[1, 1, 0], [1, 1, 1]])
    assert [[c for _, c in one] for one in choices(options)] == [
        list(pair) for pair in product([0, 1], [0, 1, 2])
    ]
