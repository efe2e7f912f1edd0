"""Traces: laws of arrival, mixes and orders, the same for the same seed."""

import time

import numpy as np
import pytest

from routet2i.errors import UsageError
from scheduler.simulation.traces import (
    BURST_RATE,
    DAY,
    EARLIER_DAYS,
    GROWTH,
    KINDS,
    SLOT_SECONDS,
    SWING,
    draw_trace,
)


@pytest.mark.parametrize("name", KINDS)
def test_the_same_seed_gives_the_same_trace_and_another_gives_another(name):
    # Given three draws
    first, same, other = (draw_trace(name, rate=0.05, seconds=DAY, seed=seed) for seed in (1, 1, 2))
    # Then two are equal in everything, the third is not
    for field in ("at", "hardness", "size", "earlier_counts", "earlier_hardness"):
        assert np.array_equal(getattr(first, field), getattr(same, field))
    assert not np.array_equal(first.at, other.at)


@pytest.mark.parametrize("name", KINDS)
def test_arrivals_rise_within_the_trace_and_hardness_is_a_share(name):
    trace = draw_trace(name, rate=0.05, seconds=DAY, seed=3)
    assert (np.diff(trace.at) >= 0).all()
    assert 0 <= trace.at[0] <= trace.at[-1] < DAY
    for hardness in (trace.hardness, trace.earlier_hardness):
        assert hardness.min() >= 0
        assert hardness.max() < 1
    assert len(trace.hardness) == len(trace.size) == len(trace)
    assert len(trace.earlier_counts) == EARLIER_DAYS * DAY / SLOT_SECONDS


@pytest.mark.parametrize("name", [name for name in KINDS if name != "bursty"])
def test_the_number_of_arrivals_is_poisson_around_the_rate(name):
    # Given a mean of 43,200 jobs a day
    trace = draw_trace(name, rate=0.5, seconds=DAY, seed=4)
    # Then day and days before are within five deviations
    assert len(trace) == pytest.approx(43_200, abs=5 * 43_200**0.5)
    assert trace.earlier_counts.sum() == pytest.approx(86_400, abs=5 * 86_400**0.5)


def test_steady_arrivals_scatter_as_poisson_does_and_bursts_scatter_far_more():
    # Given counts per quarter of an hour of many days
    def dispersion(name):
        counts = np.concatenate(
            [draw_trace(name, rate=0.1, seconds=1.0, seed=seed).earlier_counts for seed in range(100)]
        )
        return counts.var() / counts.mean()

    # Then variance over mean is 1 for steady ones (deviation of the ratio: 0.01), and large with bursts
    assert dispersion("poisson") == pytest.approx(1.0, abs=0.05)
    assert dispersion("bursty") > BURST_RATE


def test_the_diurnal_rate_is_lowest_at_midnight_and_highest_at_noon():
    # Given a day
    trace = draw_trace("diurnal", rate=1.0, seconds=DAY, seed=5)
    # When arrivals around noon are held against those around midnight
    noon = (np.abs(trace.at - DAY / 2) < 1_800).sum()
    midnight = ((trace.at < 1_800) | (trace.at > DAY - 1_800)).sum()
    # Then their ratio is that of the rates
    assert noon / midnight == pytest.approx((1 + SWING) / (1 - SWING), rel=0.15)


def test_a_drifting_mix_begins_as_the_days_before_and_ends_reversed():
    # Given both drifts
    harder, easier = (draw_trace(name, rate=0.5, seconds=DAY, seed=6) for name in ("drifting", "easing"))
    tenth = len(harder) // 10
    # Then means go from 1/3 to 2/3 and back, and jobs grow or shrink by the same factor
    assert harder.earlier_hardness.mean() == pytest.approx(1 / 3, abs=0.01)
    assert harder.hardness[:tenth].mean() == pytest.approx(1 / 3 + 1 / 60, abs=0.02)
    assert harder.hardness[-tenth:].mean() == pytest.approx(2 / 3 - 1 / 60, abs=0.02)
    assert easier.earlier_hardness.mean() == pytest.approx(2 / 3, abs=0.01)
    assert easier.hardness[-len(easier) // 10 :].mean() == pytest.approx(1 / 3 + 1 / 60, abs=0.02)
    assert harder.size[-1] / harder.size[0] == pytest.approx(1 + GROWTH, rel=0.01)
    assert easier.size[0] / easier.size[-1] == pytest.approx(1 + GROWTH, rel=0.01)


@pytest.mark.parametrize("name", ["adversarial", "best-first", "blocks"])
def test_orders_change_when_jobs_come_and_not_which(name):
    hardness = draw_trace(name, rate=0.05, seconds=DAY, seed=7).hardness
    assert np.allclose(np.sort(hardness), np.arange(len(hardness)) / len(hardness))


def test_orders_are_the_worst_the_best_and_turns():
    # Given the three orders
    last, first, blocks = (
        draw_trace(name, rate=0.05, seconds=DAY, seed=8).hardness
        for name in ("adversarial", "best-first", "blocks")
    )
    # Then the hardest come last, first, and every other twelfth
    assert (np.diff(last) > 0).all()
    assert (np.diff(first) < 0).all()
    parts = [part.mean() for part in np.array_split(blocks, 12)]
    assert [mean > 0.5 for mean in parts] == [False, True] * 6


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), 1e9])
def test_a_rate_that_brings_nothing_or_too_much_is_refused(rate):
    with pytest.raises(UsageError, match="ask for 1 to 1e8 jobs"):
        draw_trace("poisson", rate=rate, seconds=DAY, seed=0)


def test_an_unknown_trace_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="no trace 'posson'; there are poisson, bursty"):
        draw_trace("posson", rate=1.0, seconds=DAY, seed=0)


def test_a_day_of_five_jobs_a_second_is_drawn_in_well_under_a_second():
    # Given the clock
    started = time.process_time()
    # When 432,000 arrivals are drawn
    trace = draw_trace("drifting", rate=5.0, seconds=DAY, seed=9)
    # Then it took well under a second of this processor
    assert len(trace) > 400_000
    assert time.process_time() - started < 1.0
