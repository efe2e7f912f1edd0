"""Money and room at once: never over any limit, and near the best of all choices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.allocation.capacity import solve_with_capacity
from scheduler.allocation.knapsack import solve
from scheduler.allocation.options import Bound
from tests.unit.allocation.windows import choices, floor_prices, make_options, tiers_of, windows

ROOM = st.one_of(st.none(), st.integers(-1, 8))


def used(tier, load, *, tiers):
    return [int(load[tier == column].sum()) for column in range(tiers)]


@given(windows(), st.one_of(st.none(), st.integers(-2, 100)), st.sampled_from([0.0, 0.05]), st.data())
def test_never_over_the_budget_nor_over_any_tiers_room(options, budget, price, data):
    # Given any loads, room and money
    load = np.array([data.draw(st.integers(1, 4)) for _ in range(len(options))], dtype=np.int64)
    capacity = [data.draw(ROOM) for _ in range(options.tiers)]
    # When the window is solved
    choice = solve_with_capacity(options, budget=budget, load=load, capacity=capacity, price=price)
    # Then nothing is overspent or overfilled, and each job has one allowed tier or none
    assert budget is None or choice.micro_usd <= max(0, budget)
    for total, most in zip(used(choice.tier, load, tiers=options.tiers), capacity, strict=True):
        assert most is None or total <= max(0, most)
    for row in range(len(options)):
        deferred = choice.bound[row] in (
            Bound.DEFERRED_MONEY,
            Bound.DEFERRED_CAPACITY,
            Bound.DEFERRED_DEADLINE,
        )
        assert deferred == (choice.tier[row] == -1)
        assert deferred or choice.tier[row] in tiers_of(options, row)


@given(windows(), st.one_of(st.none(), st.integers(-2, 100)), st.sampled_from([0.0, 0.05]))
def test_with_room_for_all_it_is_the_choice_of_one_budget(options, budget, price):
    load = np.ones(len(options), dtype=np.int64)
    expected = solve(options, budget=budget, price=price)
    for capacity in ([None] * options.tiers, [len(options)] * options.tiers):
        choice = solve_with_capacity(options, budget=budget, load=load, capacity=capacity, price=price)
        assert choice.tier.tolist() == expected.tier.tolist()
        assert (choice.price, choice.gain) == (expected.price, expected.gain)


def best_served(options, *, budget, capacity):
    """Return the most jobs that can be served with loads of 1, and the highest gain of as many."""
    best = (0, 0.0)
    with_none = make_options(
        np.column_stack([options.micro_usd, np.zeros(len(options))]),
        np.column_stack([options.gain, np.zeros(len(options))]),
    )
    for assigned in choices(with_none):
        columns = [column for _, column in assigned if column < options.tiers]
        if any(columns.count(c) > most for c, most in enumerate(capacity) if most is not None):
            continue
        if budget is not None and sum(with_none.micro_usd[row, c] for row, c in assigned) > budget:
            continue
        best = max(best, (len(columns), sum(with_none.gain[row, c] for row, c in assigned)))
    return best


@given(
    windows(jobs=(1, 6), tiers=(2, 3), masks=False),
    st.one_of(st.none(), st.integers(0, 40)),
    st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=3, max_size=3),
)
def test_it_is_within_one_job_per_limit_of_the_best_of_all_choices(options, spare, room):
    # Given money for all floors and more, and little room
    capacity = room[: options.tiers]
    budget = None if spare is None else sum(floor_prices(options)) + spare
    load = np.ones(len(options), dtype=np.int64)
    # When the window is solved
    choice = solve_with_capacity(options, budget=budget, load=load, capacity=capacity)
    # Then at most one job per limit is served less, or, with as many served, gains less than it could
    served, gain = best_served(options, budget=budget, capacity=capacity)
    limits = (budget is not None) + sum(most is not None for most in capacity)
    spread = float(options.gain.max() - options.gain.min())
    ours = int((choice.tier >= 0).sum())
    assert served - limits <= ours <= served
    if budget is None:
        assert ours == served
    if ours == served:
        assert gain - limits * spread - 1e-9 <= choice.gain


@given(windows(jobs=(1, 6), tiers=(2, 3), masks=False), st.lists(st.integers(0, 4), min_size=3, max_size=3))
def test_without_room_for_all_the_last_rows_wait(options, room):
    capacity = room[: options.tiers]
    choice = solve_with_capacity(
        options, budget=None, load=np.ones(len(options), dtype=np.int64), capacity=capacity
    )
    places = min(len(options), sum(capacity))
    assert (choice.tier >= 0).tolist() == [row < places for row in range(len(options))]
    assert set(choice.bound[places:].tolist()) <= {Bound.DEFERRED_CAPACITY}


def test_a_full_cloud_takes_those_that_gain_most_and_says_so():
    # Given workers for two cloud pictures and money for all
    options = make_options([[1, 9]] * 4, [[0, 0.1], [0, 0.4], [0, 0.3], [0, -0.2]])
    choice = solve_with_capacity(options, budget=None, load=np.ones(4, dtype=np.int64), capacity=[None, 2])
    # Then the two that gain most go there
    assert choice.tier.tolist() == [0, 1, 1, 0]
    assert choice.bound.tolist() == [Bound.CAPACITY, Bound.BEST, Bound.BEST, Bound.WORSE]


def test_a_full_edge_sends_to_the_cloud_those_that_lose_least():
    options = make_options([[1, 9]] * 4, [[0, -0.1], [0, -0.4], [0, -0.3], [0, -0.2]])
    choice = solve_with_capacity(options, budget=30, load=np.ones(4, dtype=np.int64), capacity=[2, None])
    assert choice.tier.tolist() == [1, 0, 0, 1]
    assert choice.micro_usd == 20


def test_room_that_is_too_small_for_the_next_job_is_left_to_a_smaller_one():
    # Given room for three pictures on the cloud, two jobs of two and one of one
    options = make_options([[1, 1]] * 3, [[0, 0.4], [0, 0.3], [0, 0.01]])
    choice = solve_with_capacity(options, budget=None, load=np.array([2, 2, 1]), capacity=[None, 3])
    # Then the second of two pictures has no room, and the small one has
    assert choice.tier.tolist() == [1, 0, 1]
    assert choice.bound.tolist() == [Bound.BEST, Bound.CAPACITY, Bound.BEST]


def test_loads_may_differ_between_tiers():
    # Given a slow tier whose workers have time for one job, and a quick one for three
    options = make_options([[1, 1]] * 4, [[0, 0.4], [0, 0.3], [0, 0.2], [0, 0.1]])
    load = np.tile([30, 10], (4, 1))
    choice = solve_with_capacity(options, budget=None, load=load, capacity=[30, 30])
    assert choice.tier.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(("load", "capacity"), [([1, 1], [1]), ([0, 1], [1, 1])])
def test_what_makes_no_sense_is_refused(load, capacity):
    options = make_options([[1, 9]] * 2, [[0, 0.1]] * 2)
    with pytest.raises(ValueError, match="at least 1"):
        solve_with_capacity(options, budget=None, load=np.array(load), capacity=capacity)


@pytest.mark.parametrize("shares", [(None, 0.3, 0.2), (0.5, 0.4, 0.3), (0.2, None, 0.3)])
def test_many_jobs_are_within_one_job_per_limit_of_the_linear_optimum(shares):
    # Given 300 jobs of three tiers, money for a part, and room for fewer than want to some of them
    linprog = pytest.importorskip("scipy.optimize").linprog
    rng = np.random.default_rng(11)
    n = 300
    gains = rng.normal([0, 0.2, 0.4], [0, 0.2, 0.3], (n, 3))
    options = make_options(np.tile([10, 40, 100], (n, 1)), gains, rank=rng.permutation(n))
    load = rng.integers(1, 5, n)
    capacity = [None if share is None else int(load.sum() * share) for share in shares]
    budget = 45 * n
    # When the window is solved
    choice = solve_with_capacity(options, budget=budget, load=load, capacity=capacity)
    # Then it is near what the linear relaxation of all limits allows
    limits = [(options.micro_usd.ravel(), budget)]
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
    assert -relaxed.fun - len(limits) * np.ptp(gains) <= choice.gain <= -relaxed.fun + 1e-6
