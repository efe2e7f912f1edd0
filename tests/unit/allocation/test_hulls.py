"""Hulls: against the definition, job by job."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scheduler.allocation.hulls import floors, increments
from scheduler.allocation.options import BLOCK
from tests.unit.allocation.windows import floor_of, floor_prices, hull_of, make_options, windows


@given(windows())
def test_the_floor_is_the_cheapest_allowed_tier_and_of_equal_ones_the_best(options):
    tier, price = floors(options)
    expected = [floor_of(options, row) for row in range(len(options))]
    assert tier.tolist() == [-1 if c is None else c for c in expected]
    assert price.tolist() == floor_prices(options)


@given(windows())
def test_the_steps_are_those_of_the_definition(options):
    # Given each job's hull in fractions
    expected = [(row, *step) for row in range(len(options)) for step in hull_of(options, row)]
    # When all hulls are made at once
    steps = increments(options)
    # Then they are the same, step by step
    assert list(zip(steps.job, steps.tier, steps.extra, strict=True)) == [e[:3] for e in expected]
    np.testing.assert_allclose(steps.efficiency, [float(e[3]) for e in expected], rtol=1e-15)
    assert steps.jobs == len(options)


GAINS = arrays(np.float64, (6, 4), elements=st.floats(-1e300, 1e300))


@given(arrays(np.int64, (6, 4), elements=st.integers(0, 10**12)), GAINS)
def test_efficiencies_fall_within_a_job_whatever_the_rounding(prices, gains):
    steps = increments(make_options(prices, gains))
    same = steps.job[1:] == steps.job[:-1]
    assert (np.diff(steps.efficiency)[same] <= 0).all()
    assert (np.diff(steps.job) >= 0).all()
    assert (steps.efficiency > 0).all()
    assert (steps.extra > 0).all()


def test_tiers_on_one_line_have_steps_that_do_not_get_steeper_by_rounding():
    # Given prices and gains on a line, which floating point cannot meet
    rng = np.random.default_rng(0)
    prices = rng.integers(0, 1000, (2000, 4))
    gains = prices * 0.1 + rng.integers(0, 2, (2000, 1)) * 0.3
    # When the hulls are made
    steps = increments(make_options(prices, gains))
    # Then no later step looks steeper than an earlier one
    same = steps.job[1:] == steps.job[:-1]
    assert same.sum() > 1000
    assert (np.diff(steps.efficiency)[same] <= 0).all()


def test_a_tier_below_the_hull_is_skipped_and_equal_slopes_make_small_steps():
    # Given a middle tier below the line, and one on it
    steps = increments(make_options([[0, 4, 8], [0, 4, 8]], [[0.0, 0.25, 1.0], [0.0, 0.5, 1.0]]))
    # Then the first job has one step, the second two
    assert steps.job.tolist() == [0, 1, 1]
    assert steps.extra.tolist() == [8, 4, 4]


def test_blocks_leave_no_seam():
    # Given more jobs than a block holds
    rng = np.random.default_rng(5)
    n = 2 * BLOCK + 3
    options = make_options(rng.integers(0, 50, (n, 3)), rng.normal(size=(n, 3)))
    # When the jobs around a seam are done alone
    around = slice(BLOCK - 2, BLOCK + 2)
    alone = increments(make_options(options.micro_usd[around], options.gain[around]))
    # Then their steps are the same
    steps = increments(options)
    there = (steps.job >= BLOCK - 2) & (steps.job < BLOCK + 2)
    assert (steps.job[there] - (BLOCK - 2)).tolist() == alone.job.tolist()
    assert steps.extra[there].tolist() == alone.extra.tolist()
    assert (
        floors(options)[0][around].tolist()
        == floors(make_options(options.micro_usd[around], options.gain[around]))[0].tolist()
    )


def test_no_jobs_have_no_steps():
    steps = increments(make_options(np.empty((0, 2)), np.empty((0, 2))))
    assert (len(steps), steps.jobs) == (0, 0)
