"""Forecasts of arrivals: exact where nothing scatters, honest about their error where something does."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.allocation.forecast import expected_jobs

COUNTS = st.lists(st.integers(0, 10_000), max_size=60)


@given(st.integers(0, 1000), st.integers(1, 60), st.floats(0, 100))
def test_a_steady_stream_goes_on(count, slots, ahead):
    forecast = expected_jobs([count] * slots, ahead=ahead, slots_per_day=288)
    assert forecast.jobs == pytest.approx(count * ahead)
    assert not forecast.seasonal


@given(COUNTS, st.floats(0, 100), st.integers(1, 12))
def test_it_is_a_finite_number_with_an_error_for_any_counts(counts, ahead, slots_per_day):
    forecast = expected_jobs(counts, ahead=ahead, slots_per_day=slots_per_day)
    assert forecast.jobs >= 0
    assert forecast.error >= 0
    assert math.isfinite(forecast.jobs)
    assert math.isfinite(forecast.error) or not counts


@given(COUNTS, st.integers(1, 12))
def test_nothing_is_expected_of_no_time(counts, slots_per_day):
    forecast = expected_jobs(counts, ahead=0, slots_per_day=slots_per_day)
    assert (forecast.jobs, forecast.error) == (0.0, 0.0)


def test_without_counts_nothing_is_known():
    forecast = expected_jobs([], ahead=3, slots_per_day=24)
    assert (forecast.jobs, forecast.error) == (0.0, math.inf)


def test_newer_counts_weigh_more():
    rising = expected_jobs([10] * 50 + [100] * 12, ahead=1, slots_per_day=288)
    assert 50 < rising.jobs < 100


@pytest.mark.parametrize("start", [0, 5, 23])
def test_from_two_days_on_the_time_of_day_counts(start):
    # Given two days and some hours of a daily wave
    def wave(hours):
        return 5000 * (1 + 0.8 * np.sin(2 * np.pi * hours / 24))

    known = wave(np.arange(48 + start))
    # When the next eight hours are asked for
    forecast = expected_jobs(known, ahead=8, slots_per_day=24)
    # Then they follow the wave, which one day alone would not show
    truth = wave(np.arange(48 + start, 56 + start)).sum()
    assert forecast.seasonal
    assert forecast.jobs == pytest.approx(truth, rel=0.01)
    assert not expected_jobs(known[:47], ahead=8, slots_per_day=24).seasonal


def test_a_part_of_a_slot_counts_as_that_part():
    half = expected_jobs([8, 8], ahead=2.5, slots_per_day=24)
    assert half.jobs == pytest.approx(20)


def test_the_truth_lies_within_two_errors_as_often_as_it_should():
    # Given Poisson streams of an unknown rate
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(1000):
        counts = rng.poisson(rng.uniform(1, 50), 60)
        truth = counts[40:].sum()
        forecast = expected_jobs(counts[:40], ahead=20, slots_per_day=288)
        inside += abs(forecast.jobs - truth) <= 2 * forecast.error
    # Then about 95 % of the forecasts hold
    assert 0.92 <= inside / 1000 <= 0.99


@pytest.mark.parametrize(("counts", "ahead", "slots_per_day"), [([-1], 1, 24), ([1], -1, 24), ([1], 1, 0)])
def test_what_cannot_be_is_refused(counts, ahead, slots_per_day):
    with pytest.raises(ValueError, match="at least"):
        expected_jobs(counts, ahead=ahead, slots_per_day=slots_per_day)
