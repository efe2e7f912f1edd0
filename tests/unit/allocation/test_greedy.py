"""Greedy filling: against a loop over single items, on every path."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.allocation import greedy
from scheduler.allocation.greedy import ROUNDS, fill, price_of, take

ITEMS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=30)


@pytest.fixture(autouse=True, params=[0, greedy.SORTED], ids=["cut", "sorted"], scope="module")
def path(request):
    """Make small cases take the path of large ones too: cuts down to the last item."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "SORTED", request.param)
        patch.setattr(greedy, "CUTS", 3)
        yield


def one_by_one(extra, order, budget, job):
    mask, skipped = [False] * len(extra), set()
    for i in order:
        if extra[i] > budget or job[i] in skipped:
            skipped.add(job[i])
        else:
            mask[i] = True
            budget -= extra[i]
    return mask


@given(ITEMS, st.integers(-3, 150), st.randoms(use_true_random=False))
def test_items_are_taken_in_falling_efficiency_each_that_still_fits(items, budget, random):
    extra, efficiency = np.array(items, dtype=np.int64).reshape(-1, 2).T
    rank = random.sample(range(len(items)), len(items))
    order = sorted(range(len(items)), key=lambda i: (-efficiency[i], rank[i]))
    mask = take(extra, efficiency.astype(float), np.array(rank, dtype=np.int64), budget)
    assert mask.tolist() == one_by_one(extra, order, max(0, budget), range(len(items)))
    assert extra[mask].sum() <= max(0, budget)


JOBS = st.lists(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5)), min_size=1, max_size=3), max_size=12
)


@given(JOBS, st.integers(0, 150), st.randoms(use_true_random=False))
def test_a_job_stops_at_its_first_item_that_does_not_fit(jobs, budget, random):
    # Given jobs with items of efficiencies that do not rise
    items = [
        (job, extra, efficiency)
        for job, steps in enumerate(jobs)
        for (extra, _), efficiency in zip(steps, sorted((e for _, e in steps), reverse=True), strict=True)
    ]
    job, extra, efficiency = np.array(items, dtype=np.int64).reshape(-1, 3).T
    rank = random.sample(range(len(jobs)), len(jobs))
    # When as much as fits is taken
    mask = take(
        extra, efficiency.astype(float), np.array(rank, dtype=np.int64), budget, job=job.astype(np.int32)
    )
    # Then it is what a loop takes, and of each job the first items
    order = sorted(range(len(items)), key=lambda i: (-efficiency[i], rank[job[i]], i))
    assert mask.tolist() == one_by_one(extra, order, budget, job)
    for number in range(len(jobs)):
        assert (np.diff(mask[job == number].astype(int)) <= 0).all()


@given(ITEMS, st.integers(0, 100))
def test_more_money_never_brings_less_and_the_loss_is_below_one_item(items, budget):
    extra, efficiency = np.array(items, dtype=np.int64).reshape(-1, 2).T
    gain = extra * efficiency
    gains = []
    for money in range(budget, budget + 4):
        mask = take(extra, efficiency.astype(float), np.arange(len(items)), money)
        gains.append(gain[mask].sum())
        # the linear relaxation: whole items in order, then a part of one
        relaxed, left = 0, money
        for i in np.argsort(-efficiency, kind="stable"):
            part = min(int(extra[i]), left)
            relaxed, left = relaxed + part * int(efficiency[i]), left - part
        assert relaxed - gains[-1] <= max(0, gain[~mask].max(initial=0) - 1 if not mask.all() else 0)
    assert gains == sorted(gains)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=10), st.integers(0, 60), st.integers(1, 9))
def test_equal_prices_are_decided_exactly(gains, budget, price):
    mask = take(np.full(len(gains), price), np.array(gains) / price, np.arange(len(gains)), budget)
    assert sum(np.array(gains)[mask]) == sum(sorted(gains, reverse=True)[: budget // price])


@given(ITEMS, st.integers(0, 150), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(items, budget, random):
    extra, efficiency = np.array(items, dtype=np.int64).reshape(-1, 2).T
    rank = np.arange(len(items))
    order = np.array(random.sample(range(len(items)), len(items)), dtype=np.int64)
    straight = take(extra, efficiency.astype(float), rank, budget)
    mixed = take(extra[order], efficiency[order].astype(float), rank[order], budget)
    assert mixed.tolist() == straight[order].tolist()


def test_without_a_budget_everything_is_taken():
    assert take(np.array([5]), np.array([1.0]), np.array([0]), None).tolist() == [True]


def test_the_price_is_the_efficiency_of_the_best_item_not_taken():
    efficiency = np.array([3.0, 2.0, 1.0])
    assert price_of(efficiency, np.array([True, False, False])) == 2.0
    assert price_of(efficiency, np.ones(3, dtype=bool)) == 0.0
    assert price_of(np.empty(0), np.empty(0, dtype=bool)) == 0.0


@pytest.mark.parametrize("together", [False, True])
def test_items_that_fit_only_one_in_two_are_still_filled_in_order(together):
    # Given an order in which every second item just does not fit, for more rounds than are made at once
    pairs = 4 * ROUNDS
    extra = np.array([price for i in range(pairs) for price in (1, 1000 - i)])
    job = np.arange(2 * pairs) % (pairs if together else 2 * pairs)
    # When 1000 are spent on them
    mask = fill(extra, 1000, job=job.astype(np.int32))
    # Then it is what a loop does
    assert mask.tolist() == one_by_one(extra, range(len(extra)), 1000, job)


@pytest.mark.parametrize("seed", range(3))
def test_many_items_are_taken_as_by_a_loop(seed):
    # Given 100,000 items of three steps a job with ties and unlike prices
    rng = np.random.default_rng(seed)
    job = np.repeat(np.arange(33_334, dtype=np.int32), 3)
    extra = rng.choice([1, 7, 50, 3000], len(job)).astype(np.int64)
    efficiency = -np.sort(-rng.integers(1, 400, (33_334, 3)), axis=1).ravel() / 7
    rank = rng.permutation(33_334)
    budget = int(extra.sum() * rng.uniform(0.1, 0.9))
    # When they are taken
    mask = take(extra, efficiency, rank, budget, job=job)
    # Then it is what a loop takes
    order = np.lexsort((np.arange(len(job)), rank[job], -efficiency))
    assert mask.tolist() == one_by_one(extra.tolist(), order.tolist(), budget, job.tolist())
