"""Pools: first come, first served, by several workers in microbatches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.simulation.pools import Pool, serve, workers_needed


def jobs(count, *, seed=0, span=100.0):
    rng = np.random.default_rng(seed)
    return np.sort(rng.integers(0, int(span), count)).astype(float), np.ones(count, dtype=np.int64)


def test_one_worker_draws_one_after_the_other():
    # Given three jobs ready at once and one later, two seconds each, one per message
    pool = Pool(workers=1, seconds=2.0, microbatch=1)
    served = serve(pool, ready=np.array([0.0, 0.0, 0.0, 10.0]), pictures=np.ones(4, dtype=np.int64))
    # Then each waits for the one before, and the last for nobody
    assert served.done.tolist() == [2.0, 4.0, 6.0, 12.0]
    assert served.longest_queue == 2
    assert served.utilisation == pytest.approx(8 / 12)


def test_a_second_worker_takes_what_waits():
    pool = Pool(workers=2, seconds=2.0, microbatch=1)
    served = serve(pool, ready=np.zeros(4), pictures=np.ones(4, dtype=np.int64))
    assert served.done.tolist() == [2.0, 2.0, 4.0, 4.0]
    assert served.utilisation == 1.0


def test_jobs_of_one_window_share_a_microbatch_and_those_of_two_do_not():
    # Given three jobs of one window and one of the next, four pictures per message at most
    pool = Pool(workers=4, seconds=1.0, microbatch=4)
    served = serve(pool, ready=np.array([0.0, 0.0, 0.0, 1.0]), pictures=np.ones(4, dtype=np.int64))
    # Then the three are there together
    assert served.done.tolist() == [3.0, 3.0, 3.0, 2.0]


def test_a_microbatch_holds_pictures_not_jobs_and_at_least_one_job():
    # Given jobs of 3, 2 and 9 pictures, four per message
    pool = Pool(workers=3, seconds=1.0, microbatch=4)
    served = serve(pool, ready=np.zeros(3), pictures=np.array([3, 2, 9]))
    # Then no two fit together, and the large one is drawn in one piece
    assert served.done.tolist() == [3.0, 2.0, 9.0]


def test_nothing_to_do_takes_no_time():
    pool = Pool(workers=1, seconds=1.0, microbatch=1)
    assert serve(pool, ready=np.zeros(0), pictures=np.zeros(0, dtype=np.int64)).utilisation == 0.0


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    pictures=st.data(),
    workers=st.integers(1, 4),
    microbatch=st.integers(1, 5),
)
def test_nobody_is_served_early_and_more_workers_never_finish_later(gaps, pictures, workers, microbatch):
    # Given any jobs
    ready = np.cumsum(gaps).astype(float)
    n = np.array(pictures.draw(st.lists(st.integers(1, 6), min_size=len(gaps), max_size=len(gaps))))
    # When pools of two sizes serve them
    few, more = (
        serve(Pool(workers=count, seconds=0.5, microbatch=microbatch), ready=ready, pictures=n)
        for count in (workers, workers + 1)
    )
    # Then each job takes at least its own time, none is later with more workers, and nobody works too much
    assert (few.done >= ready + 0.5 * n - 1e-9).all()
    assert (more.done <= few.done + 1e-9).all()
    assert 0 < few.utilisation <= 1 + 1e-9
    assert few.longest_queue >= more.longest_queue >= 0


def test_the_workers_needed_are_enough_and_one_less_is_not():
    # Given 3,000 jobs in 100 seconds, 0.1 seconds each: three workers' work
    ready, pictures = jobs(3_000)
    pool = Pool(workers=1, seconds=0.1, microbatch=1)
    # When workers are planned for two seconds
    count = workers_needed(pool, ready=ready, pictures=pictures, arrived=ready, latency=2.0)

    def p95(workers):
        tried = Pool(workers=workers, seconds=0.1, microbatch=1)
        return np.percentile(serve(tried, ready=ready, pictures=pictures).done - ready, 95)

    # Then it is the fewest
    assert count is not None
    assert p95(count) <= 2.0 < p95(count - 1)


def test_a_latency_below_the_drawing_itself_needs_no_number_of_workers():
    ready, pictures = jobs(10)
    pool = Pool(workers=1, seconds=5.0, microbatch=1)
    assert workers_needed(pool, ready=ready, pictures=pictures, arrived=ready, latency=1.0) is None
