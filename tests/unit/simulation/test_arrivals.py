"""Expected arrivals of a simulation, from its own clock."""

from itertools import pairwise

import numpy as np
import pytest

from scheduler.simulation.arrivals import Arrivals
from scheduler.simulation.traces import DAY, SLOT_SECONDS, draw_trace

NOTHING = np.zeros(0, dtype=np.int64)


def test_counts_are_those_of_the_slots_however_the_arrivals_were_told():
    # Given five hours of arrivals, told in uneven parts
    at = draw_trace("poisson", rate=0.1, seconds=18_000.0, seed=1).at
    arrivals = Arrivals(counts=np.array([7]))
    edges = [0.0, 100.0, 901.0, 950.0, 4_000.0, 17_999.0]
    for start, end in pairwise(edges):
        arrivals = arrivals.with_jobs(at[(at >= start) & (at < end)], now=end)
    # Then every complete slot has its count, behind those of before
    counts = np.histogram(at, np.arange(0, 17_999.0, SLOT_SECONDS))[0]
    assert arrivals.counts.tolist() == [7, *counts.tolist()]
    assert arrivals.begun == (at[at < 17_999.0] >= 17_100.0).sum()


def test_without_days_before_jobs_go_on_coming_as_they_came():
    arrivals = Arrivals(counts=NOTHING).with_jobs(np.array([1.0, 2.0, 3.0]), now=60.0)
    assert arrivals.expected(60.0, until=660.0).jobs == pytest.approx(30.0)
    assert arrivals.expected(60.0, until=60.0).jobs == 0.0


def test_a_diurnal_day_is_expected_by_its_time_of_day():
    # Given the days before a diurnal day, of 8,640 jobs
    trace = draw_trace("diurnal", rate=0.1, seconds=DAY, seed=2)
    arrivals = Arrivals(counts=trace.earlier_counts)
    # When it is morning
    now = DAY / 4
    come = trace.at[trace.at < now]
    rest = arrivals.with_jobs(come, now=now).expected(now, until=DAY)
    # Then the afternoon that is to come is expected, not three more such mornings
    assert rest.jobs == pytest.approx(len(trace) - len(come), rel=0.1)
    assert rest.jobs > 4 * len(come)
    assert 0 < rest.error < 0.1 * rest.jobs
