"""Dual descent: the direction of each step, what it comes to in the long run, and the test for drift."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.allocation.knapsack import solve
from scheduler.allocation.mirror import descend, step_size
from tests.unit.allocation.windows import make_options

PRICE = st.floats(0, 10)


@given(PRICE, st.integers(0, 1000), st.floats(0, 1000), st.floats(1e-6, 1))
def test_the_price_rises_after_too_much_falls_after_too_little_and_stays_above_zero(
    price, spent, planned, step
):
    after = descend(price, spent=spent, planned=planned, step=step)
    assert after >= 0
    if spent >= planned:
        assert after >= price
    if spent <= planned:
        assert after <= price


@pytest.mark.parametrize("start", [0.0, 0.2])
def test_over_many_windows_it_spends_as_planned_from_too_low_and_too_high_a_start(start):
    # Given 4000 jobs of one mix in windows of 5, and money for a third of all steps
    rng = np.random.default_rng(2)
    gains = rng.uniform(0, 1, 4000)
    jobs = make_options(np.tile([0, 6], (4000, 1)), np.column_stack([np.zeros(4000), gains]))
    money = left = 4000 * 6 // 3
    step = step_size(efficiency=0.5 / 6, extra=6, jobs=4000)
    # When the price only looks back
    price, gain = start, 0.0
    for first in range(0, 4000, 5):
        part = slice(first, first + 5)
        window = make_options(jobs.micro_usd[part], jobs.gain[part])
        choice = solve(window, budget=left, price=price)
        price = descend(price, spent=choice.micro_usd, planned=money * 5 / 4000, step=step)
        left -= choice.micro_usd
        gain += choice.gain
    # Then it is within a few percent of what could be had
    assert 0 <= left <= 0.06 * money
    assert gain >= 0.95 * solve(jobs, budget=money).gain


def test_a_longer_period_takes_smaller_steps():
    short, long = (step_size(efficiency=0.1, extra=10, jobs=jobs) for jobs in (100, 10_000))
    assert short == pytest.approx(10 * long)
    assert step_size(efficiency=0.1, extra=10, jobs=0) == pytest.approx(0.01)
