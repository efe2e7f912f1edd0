"""The bid price: one window and its future as one knapsack, re-solved until the money is gone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.allocation.bid_price import SAMPLE_JOBS, Reservoir, bid_price, guard
from scheduler.allocation.hulls import increments
from scheduler.allocation.knapsack import solve
from scheduler.allocation.options import Options
from tests.unit.allocation.windows import make_options, permuted, windows

JOBS_LEFT = st.floats(0, 50)


def rows(options, part):
    return Options(micro_usd=options.micro_usd[part], gain=options.gain[part], rank=options.rank[part])


def decide(window, *, reservoir, money, jobs_left):
    """Choose the tiers of a window of jobs whose floors cost nothing."""
    steps = increments(window)
    price = bid_price(steps, reservoir, money=money, jobs_left=jobs_left)
    most = guard(steps, reservoir, price=price, money=money, jobs_left=jobs_left)
    return solve(window, budget=most, price=price)


@given(windows(), windows(), st.integers(-5, 200), JOBS_LEFT)
def test_at_the_price_the_expected_jobs_do_not_spend_more_than_the_money(now, before, money, jobs_left):
    # Given a window and a sample of the jobs before it
    steps, reservoir = increments(now), Reservoir.empty().with_jobs(before)
    # When the price is asked for
    price = bid_price(steps, reservoir, money=money, jobs_left=jobs_left)
    # Then what is dearer than the marginal step can be paid, and with the marginal steps it cannot
    scale = jobs_left / reservoir.jobs if reservoir.jobs else 0.0
    own = 1.0 if reservoir.jobs else 1 + jobs_left / max(1, steps.jobs)
    efficiency = np.concatenate([steps.efficiency, reservoir.efficiency])
    extra = np.concatenate([steps.extra * own, reservoir.extra * scale])
    marginal = np.nextafter(price, np.inf)
    assert extra[efficiency > marginal].sum() <= max(0, money) + 1e-9
    if price > 0:
        assert extra[efficiency >= price].sum() > money - 1e-9
    else:
        assert extra.sum() <= max(0, money) + 1e-9


@given(windows(), windows(), JOBS_LEFT)
def test_the_price_falls_with_money(now, before, jobs_left):
    steps, reservoir = increments(now), Reservoir.empty().with_jobs(before)
    prices = [bid_price(steps, reservoir, money=money, jobs_left=jobs_left) for money in range(-2, 80, 5)]
    assert prices == sorted(prices, reverse=True)


@given(windows(), windows(), st.integers(-5, 200), JOBS_LEFT)
def test_a_window_never_spends_more_than_its_guard_nor_the_guard_more_than_the_money(
    now, before, money, jobs_left
):
    steps, reservoir = increments(now), Reservoir.empty().with_jobs(before)
    price = bid_price(steps, reservoir, money=money, jobs_left=jobs_left)
    most = guard(steps, reservoir, price=price, money=money, jobs_left=jobs_left)
    assert 0 <= most <= max(0, money)
    above = int(steps.extra[steps.efficiency > np.nextafter(price, np.inf)].sum())
    assert most >= min(above, max(0, money))


@given(windows(masks=False), st.data())
def test_neither_sample_nor_price_depends_on_the_order_of_a_window(options, data):
    order = np.array(data.draw(st.permutations(range(len(options)))), dtype=np.int64)
    straight, mixed = options, permuted(options, order)
    prices = [
        bid_price(increments(one), Reservoir.empty().with_jobs(one), money=20, jobs_left=7.0)
        for one in (straight, mixed)
    ]
    assert prices[0] == prices[1]


def test_with_all_windows_known_the_price_is_that_of_the_whole():
    # Given a window that is its own future
    rng = np.random.default_rng(3)
    window = make_options([[0, 5]] * 100, np.column_stack([np.zeros(100), rng.random(100)]))
    reservoir = Reservoir.empty().with_jobs(window)
    # When money pays a fifth of the steps of a thousand jobs
    price = bid_price(increments(window), reservoir, money=1000, jobs_left=900.0)
    # Then a fifth of the window's steps are above the price
    assert (window.gain[:, 1] / 5 > price).sum() == pytest.approx(20, abs=1)


@pytest.mark.parametrize(("money", "bought"), [(24, False), (25, True)])
def test_a_window_of_one_job_buys_if_half_of_such_steps_can_be_paid(money, bought):
    # Given a job like the nine that are still to come, each with a step of 5
    window = make_options([[0, 5]], [[0, 1.0]])
    # When there is money for a half of them, or a bit less
    choice = decide(window, reservoir=Reservoir.empty().with_jobs(window), money=money, jobs_left=9.0)
    # Then the first is bought, or left to the others
    assert choice.tier.tolist() == [int(bought)]


def test_without_money_nothing_is_bought_and_without_jobs_the_price_is_zero():
    window = make_options([[0, 5]], [[0, 1.0]])
    steps, nothing = increments(window), Reservoir.empty()
    assert bid_price(steps, nothing, money=0, jobs_left=0.0) == 0.2
    assert guard(steps, nothing, price=0.2, money=0, jobs_left=0.0) == 0
    none = increments(make_options(np.empty((0, 2)), np.empty((0, 2))))
    assert bid_price(none, nothing, money=0, jobs_left=5.0) == 0.0


def test_the_sample_keeps_the_newest_jobs_and_counts_those_without_steps():
    # Given jobs of which every second has no step
    def window(n, *, efficiency):
        gains = np.zeros((n, 2))
        gains[::2, 1] = efficiency
        return make_options(np.tile([0, 1], (n, 1)), gains)

    # When more come than fit
    reservoir = Reservoir.empty().with_jobs(window(SAMPLE_JOBS, efficiency=1.0))
    reservoir = reservoir.with_jobs(window(1000, efficiency=2.0))
    # Then the oldest are gone
    assert reservoir.jobs == SAMPLE_JOBS
    assert (reservoir.efficiency == 2.0).sum() == 500
    assert (reservoir.efficiency == 1.0).sum() == (SAMPLE_JOBS - 1000) // 2
    assert reservoir.jobs - len(np.unique(reservoir.job)) == SAMPLE_JOBS // 2
    assert reservoir.job.min() >= 0
    assert reservoir.job.max() < SAMPLE_JOBS


def test_of_a_large_window_the_sample_is_spread_over_all_ranks():
    n = 4 * SAMPLE_JOBS
    window = make_options(np.tile([0, 1], (n, 1)), np.column_stack([np.zeros(n), np.arange(1, n + 1)]))
    reservoir = Reservoir.empty().with_jobs(window)
    assert reservoir.jobs == SAMPLE_JOBS
    assert reservoir.efficiency.mean() == pytest.approx(n / 2, rel=0.001)


@pytest.mark.parametrize("jobs_per_window", [1, 7, 64])
@pytest.mark.parametrize("kind", ["unlike", "ties", "equal"])
def test_windows_one_by_one_come_close_to_the_whole_and_never_overspend(kind, jobs_per_window):
    # Given 2000 jobs in windows, and money for a third of all steps
    rng = np.random.default_rng(jobs_per_window)
    n = 2000
    gains = {
        "unlike": rng.normal(0.2, 0.3, n),
        "ties": rng.choice([0.1, 0.3], n),
        "equal": np.full(n, 0.2),
    }[kind]
    prices = np.column_stack(
        [np.zeros(n, dtype=np.int64), rng.integers(3, 9, n) if kind == "unlike" else [5] * n]
    )
    jobs = make_options(prices, np.column_stack([np.zeros(n), gains]), rank=rng.permutation(n))
    money = left = int(prices.sum()) // 3
    # When each is decided with what is left, and knows how many jobs are to come
    reservoir, gain = Reservoir.empty(), 0.0
    for start in range(0, n, jobs_per_window):
        window = rows(jobs, slice(start, start + jobs_per_window))
        reservoir = reservoir.with_jobs(window)
        choice = decide(
            window, reservoir=reservoir, money=left, jobs_left=float(max(0, n - start - jobs_per_window))
        )
        left -= choice.micro_usd
        gain += choice.gain
    # Then nearly all that could be had was had
    assert 0 <= left <= 0.01 * money
    assert gain >= 0.99 * solve(jobs, budget=money).gain
