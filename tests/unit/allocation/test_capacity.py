"""Money and room at once: never over any limit, and near the best of all choices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.allocation.accounts import solve_nested
from scheduler.allocation.capacity import solve_with_capacity
from scheduler.allocation.options import Bound
from tests.unit.allocation.test_accounts import MONEY, nested, spent
from tests.unit.allocation.windows import (
    choices,
    floor_of,
    floor_prices,
    make_options,
    permuted,
    rows_of,
    tiers_of,
)

ROOM = st.one_of(st.none(), st.integers(-1, 8))
PRICES = st.tuples(*[st.sampled_from([0.0, 0.0, 0.05, 0.3])] * 7).map(np.array)
DEFERRED = (Bound.DEFERRED_MONEY, Bound.DEFERRED_CAPACITY, Bound.DEFERRED_DEADLINE)


def used(tier, load, *, tiers):
    return [int(load[tier == column].sum()) for column in range(tiers)]


def solve(options, *, budget=None, load=None, capacity, price=0.0):
    """Solve a window that one account pays."""
    return solve_with_capacity(
        options,
        accounts=np.zeros((len(options), 1), dtype=np.int32),
        allowance=np.array([10**9 if budget is None else budget]),
        price=np.array([price]),
        load=np.ones(len(options), dtype=np.int64) if load is None else np.array(load),
        capacity=capacity,
    )


def loads_of(data, options):
    return np.array([data.draw(st.integers(1, 4)) for _ in range(len(options))], dtype=np.int64)


def rich(options, accounts, spare):
    """Return allowances that pay all floors, and so much more."""
    prices = np.array(floor_prices(options))
    return np.array(
        [int(prices[(accounts == a).any(axis=1)].sum()) + max(0, money) for a, money in enumerate(spare)]
    )


@given(nested(), st.tuples(*[MONEY] * 7), PRICES, st.data())
@settings(deadline=None)
def test_never_over_any_account_nor_any_tiers_room(window, allowance, price, data):
    # Given any budgets inside budgets, loads and room
    options, accounts = window
    load = loads_of(data, options)
    capacity = [data.draw(ROOM) for _ in range(options.tiers)]
    # When the window is solved
    choice = solve_with_capacity(
        options,
        accounts=accounts,
        allowance=np.array(allowance),
        price=price,
        load=load,
        capacity=capacity,
    )
    # Then nothing is overspent or overfilled
    for total, most in zip(spent(options, accounts, choice, size=7), allowance, strict=True):
        assert total <= max(0, most)
    for total, most in zip(used(choice.tier, load, tiers=options.tiers), capacity, strict=True):
        assert most is None or total <= max(0, most)
    # And each job has one allowed tier or none, with an account where money refused and only there
    for row in range(len(options)):
        assert (choice.bound[row] in DEFERRED) == (choice.tier[row] == -1)
        assert choice.tier[row] == -1 or choice.tier[row] in tiers_of(options, row)
        refused = choice.bound[row] in (Bound.MONEY, Bound.DEFERRED_MONEY)
        assert refused == (choice.account[row] != -1)


@given(nested(), st.tuples(*[MONEY] * 7), PRICES)
@settings(deadline=None)
def test_with_room_for_all_it_is_the_choice_of_the_budgets(window, allowance, price):
    options, accounts = window
    money = {"accounts": accounts, "allowance": np.array(allowance), "price": price}
    expected = solve_nested(options, **money)
    load = np.ones(len(options), dtype=np.int64)
    taken = [int((expected.tier == column).sum()) for column in range(options.tiers)]
    for capacity in ([None] * options.tiers, taken):
        choice = solve_with_capacity(options, **money, load=load, capacity=capacity)
        assert choice.tier.tolist() == expected.tier.tolist()
        assert choice.bound.tolist() == expected.bound.tolist()
        assert choice.account.tolist() == expected.account.tolist()
        assert (choice.price, choice.gain) == (expected.price, expected.gain)


@given(nested(), st.tuples(*[MONEY] * 7), PRICES, st.data())
@settings(deadline=None)
def test_a_dearer_tier_is_bought_for_its_gain_only_and_room_on_the_floor_goes_by_the_order(
    window, spare, price, data
):
    # Given accounts that can pay all floors, and little room
    options, accounts = window
    load = np.ones(len(options), dtype=np.int64)
    capacity = [data.draw(ROOM) for _ in range(options.tiers)]
    choice = solve_with_capacity(
        options,
        accounts=accounts,
        allowance=rich(options, accounts, spare),
        price=price,
        load=load,
        capacity=capacity,
    )
    # Then whoever is not on its floor gains more than its accounts ask for the extra
    dearest = np.append(price, 0.0)[accounts].max(axis=1, initial=0.0)
    waiting = set()
    for row in rows_of(options):
        floor, tier = floor_of(options, row), choice.tier[row]
        if tier == -1:
            waiting.add(floor)
        elif tier == floor:
            # and nobody sits on a floor for which an earlier row waits
            assert floor not in waiting
        else:
            extra = options.micro_usd[row, tier] - options.micro_usd[row, floor]
            assert options.gain[row, tier] - options.gain[row, floor] > dearest[row] * extra - 1e-12
    # And who waits for room finds none on its floor
    full = [
        most is not None and total >= max(0, most)
        for total, most in zip(used(choice.tier, load, tiers=options.tiers), capacity, strict=True)
    ]
    assert all(full[floor] for floor in waiting)


@given(nested(), st.tuples(*[MONEY] * 7), PRICES, st.data())
@settings(deadline=None)
def test_the_order_of_jobs_does_not_matter_while_all_floors_are_paid_and_have_room(
    window, spare, price, data
):
    options, accounts = window
    load = loads_of(data, options)
    floor = {floor_of(options, row) for row in rows_of(options)}
    capacity = [None if column in floor else data.draw(ROOM) for column in range(options.tiers)]
    order = np.array(data.draw(st.permutations(range(len(options)))), dtype=np.int64)
    rest = {"allowance": rich(options, accounts, spare), "price": price, "capacity": capacity}
    straight = solve_with_capacity(options, accounts=accounts, load=load, **rest)
    mixed = solve_with_capacity(permuted(options, order), accounts=accounts[order], load=load[order], **rest)
    assert mixed.tier.tolist() == straight.tier[order].tolist()
    assert mixed.bound.tolist() == straight.bound[order].tolist()
    assert (straight.tier[rows_of(options)] >= 0).all()


def best_of_all(options, accounts, allowance, capacity):
    """Return the highest gain of all choices within every account and all room, every job assigned."""
    best = -np.inf
    for assigned in choices(options):
        columns = [column for _, column in assigned]
        if any(columns.count(c) > most for c, most in enumerate(capacity) if most is not None):
            continue
        total = np.zeros(len(allowance), dtype=np.int64)
        for row, column in assigned:
            total[accounts[row][accounts[row] >= 0]] += options.micro_usd[row, column]
        if (total <= allowance).all():
            best = max(best, sum(options.gain[row, column] for row, column in assigned))
    return best


@given(
    nested(jobs=(1, 6), tiers=(2, 3), masks=False),
    st.tuples(*[MONEY] * 7),
    st.lists(st.integers(0, 4), min_size=3, max_size=3),
)
@settings(deadline=None)
def test_it_is_within_one_job_per_limit_of_the_best_of_all_choices(window, spare, room):
    # Given money for all floors and more, and little room on tiers that are nobody's floor
    options, accounts = window
    allowance = rich(options, accounts, spare)
    floor = {floor_of(options, row) for row in rows_of(options)}
    capacity = [None if column in floor else room[column] for column in range(options.tiers)]
    load = np.ones(len(options), dtype=np.int64)
    # When the window is solved
    choice = solve_with_capacity(
        options, accounts=accounts, allowance=allowance, load=load, capacity=capacity
    )
    # Then the best of all choices is at most a job for each limit ahead
    best = best_of_all(options, accounts, allowance, capacity)
    limits = len(set(accounts.ravel().tolist()) - {-1}) + sum(most is not None for most in capacity)
    spread = float(options.gain.max() - options.gain.min())
    assert best - limits * spread - 1e-9 <= choice.gain <= best + 1e-9


def test_a_full_cloud_takes_those_that_gain_most_and_says_so():
    # Given room for two cloud pictures and money for all
    options = make_options([[1, 9]] * 4, [[0, 0.1], [0, 0.4], [0, 0.3], [0, -0.2]])
    choice = solve(options, capacity=[None, 2])
    # Then the two that gain most go there
    assert choice.tier.tolist() == [0, 1, 1, 0]
    assert choice.bound.tolist() == [Bound.CAPACITY, Bound.BEST, Bound.BEST, Bound.WORSE]


def test_a_full_edge_lets_those_wait_that_gain_nothing_on_the_cloud():
    # Given room for one on the edge, and jobs of which one gains on the cloud
    options = make_options([[1, 9]] * 4, [[0, -0.1], [0, 0.4], [0, -0.3], [0, -0.2]])
    choice = solve(options, budget=30, capacity=[1, None])
    # Then the first of the others has the edge, and nobody pays the cloud for nothing
    assert choice.tier.tolist() == [0, 1, -1, -1]
    assert choice.bound.tolist()[2:] == [Bound.DEFERRED_CAPACITY] * 2
    assert choice.micro_usd == 10


def test_who_finds_the_edge_full_takes_a_step_that_others_had_no_use_for():
    # Given an edge without room, and a cloud with room for the job that gains less
    options = make_options([[1, 9]] * 2, [[0, 0.4], [0, 0.1]])
    choice = solve(options, load=[2, 1], capacity=[0, 1])
    assert choice.tier.tolist() == [-1, 1]
    assert choice.bound.tolist() == [Bound.DEFERRED_CAPACITY, Bound.BEST]


def test_money_that_a_full_tier_leaves_goes_to_another():
    # Given money for one step to the best tier, which is full, or two to the second best
    options = make_options([[0, 4, 8]] * 2, [[0, 0.3, 0.9], [0, 0.3, 0.8]])
    choice = solve(options, budget=8, capacity=[None, None, 0])
    # Then both have the second best, and room is what kept the first of them from more
    assert choice.tier.tolist() == [1, 1]
    assert choice.bound.tolist() == [Bound.CAPACITY, Bound.CAPACITY]
    assert choice.account.tolist() == [-1, -1]


def test_a_job_that_moves_on_leaves_its_room_to_the_next():
    # Given a best tier with room for the small job alone, and a middle one with room for either
    options = make_options([[0, 5, 6], [0, 6, 8]], [[0, 0.125, 0.375], [0, 0.125, 0.625]])
    choice = solve(options, budget=17, load=[1, 2], capacity=[None, 2, 1])
    assert choice.tier.tolist() == [2, 1]
    assert choice.bound.tolist() == [Bound.BEST, Bound.CAPACITY]


def test_an_account_that_cannot_pay_all_floors_buys_nothing_dearer_when_a_floor_is_full():
    # Given money for one floor of two, and an edge without room beside an open cloud
    options = make_options([[4, 5]] * 2, [[0, 0.5]] * 2)
    choice = solve(options, budget=7, capacity=[0, None])
    assert choice.tier.tolist() == [-1, -1]
    assert choice.bound.tolist() == [Bound.DEFERRED_CAPACITY, Bound.DEFERRED_MONEY]


def test_room_that_is_too_small_for_the_next_job_is_left_to_a_smaller_one():
    # Given room for three pictures on the cloud, two jobs of two and one of one
    options = make_options([[1, 1]] * 3, [[0, 0.4], [0, 0.3], [0, 0.01]])
    options = make_options([[1, 2]] * 3, options.gain)
    choice = solve(options, load=[2, 2, 1], capacity=[None, 3])
    # Then the second of two pictures has no room, and the small one has
    assert choice.tier.tolist() == [1, 0, 1]
    assert choice.bound.tolist() == [Bound.BEST, Bound.CAPACITY, Bound.BEST]


def test_loads_may_differ_between_tiers():
    # Given a slow tier whose workers have time for one job, and a quick one for three
    options = make_options([[0, 1]] * 4, [[0, 0.4], [0, 0.3], [0, 0.2], [0, 0.1]])
    choice = solve(options, load=np.tile([30, 10], (4, 1)), capacity=[30, 30])
    assert choice.tier.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(("load", "capacity"), [([1, 1], [1]), ([0, 1], [1, 1])])
def test_what_makes_no_sense_is_refused(load, capacity):
    options = make_options([[1, 9]] * 2, [[0, 0.1]] * 2)
    with pytest.raises(ValueError, match="at least 1"):
        solve(options, load=load, capacity=capacity)


@pytest.mark.parametrize("shares", [(None, 0.3, 0.2), (None, None, 0.15), (None, 0.1, None)])
def test_many_jobs_under_nested_budgets_are_near_the_linear_optimum(shares):
    # Given 300 jobs of four batches, money for a part of them, and room for fewer than want to a tier
    linprog = pytest.importorskip("scipy.optimize").linprog
    rng = np.random.default_rng(11)
    n = 300
    gains = np.column_stack([np.zeros(n), rng.normal(0.2, 0.2, n), rng.normal(0.4, 0.3, n)])
    options = make_options(np.tile([10, 40, 100], (n, 1)), gains, rank=rng.permutation(n))
    load = rng.integers(1, 5, n)
    capacity = [None if share is None else int(load.sum() * share) for share in shares]
    accounts = np.column_stack([rng.integers(0, 4, n), np.full(n, 4)]).astype(np.int32)
    allowance = np.array([45 * n // 4] * 4 + [35 * n])
    # When the window is solved
    choice = solve_with_capacity(
        options, accounts=accounts, allowance=allowance, load=load, capacity=capacity
    )
    # Then it is near what the linear relaxation of all limits allows
    limits = [
        ((options.micro_usd * (accounts == a).any(axis=1)[:, None]).ravel(), most)
        for a, most in enumerate(allowance)
    ]
    for column, most in enumerate(capacity):
        if most is not None:
            row = np.zeros((n, 3))
            row[:, column] = load
            limits.append((row.ravel(), most))
    relaxed = linprog(
        -gains.ravel(),
        A_ub=np.array([row for row, _ in limits]),
        b_ub=[most for _, most in limits],
        A_eq=np.kron(np.eye(n), np.ones(3)),
        b_eq=np.ones(n),
    )
    assert (choice.tier >= 0).all()
    assert -0.99 * relaxed.fun <= choice.gain <= -relaxed.fun + 1e-6
