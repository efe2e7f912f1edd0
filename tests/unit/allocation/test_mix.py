"""The mix of a period: what is alike, what is sorted, what is refuted, and what is still to come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.allocation.mix import Mix, worth
from scheduler.allocation.options import Options

KNOWN = np.random.default_rng(0).normal(0.1, 0.15, 20_000)


def day(seed, count=10_000):
    return np.random.default_rng(seed).normal(0.1, 0.15, count)


def looks(values, *, windows=50):
    """Yield the mix after each window of a day."""
    mix = Mix.of(KNOWN)
    for part in np.array_split(values, windows):
        mix = mix.with_jobs(part)
        yield mix


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_day_like_the_days_before_is_neither_sorted_nor_refuted(seed):
    assert not any(mix.is_sorted(total=10_000) or mix.is_refuted(total=10_000) for mix in looks(day(seed)))


@pytest.mark.parametrize("direction", [1, -1])
def test_a_sorted_day_is_seen_at_once_and_never_refuted(direction):
    # Given the same kind of day, the best jobs last or first
    seen = list(looks(np.sort(day(4))[::direction]))
    # Then it is sorted from the first window on, and at no time more of a kind came than was due
    assert seen[0].is_sorted(total=10_000)
    assert not any(mix.is_refuted(total=10_000) for mix in seen)


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_day_of_other_jobs_is_refuted_before_it_is_half_over(shift):
    refuted = [mix.is_refuted(total=10_000) for mix in looks(day(5) + shift)]
    assert not refuted[0]
    assert any(refuted[:25])


@settings(max_examples=30, deadline=None)
@given(come=st.integers(0, 9_999), seed=st.integers(0, 5), ordered=st.booleans())
def test_what_is_left_and_what_has_come_are_the_whole_as_far_as_chance_allows(come, seed, ordered):
    # Given any part of a day, shuffled or sorted
    values = np.sort(day(seed)) if ordered else day(seed)
    mix = Mix.of(KNOWN).with_jobs(values[:come])
    # When the rest is asked for
    left = mix.left(total=10_000)
    # Then no bin owes jobs, and from the best down the sums are those of the jobs that in fact come later
    assert (left >= 0).all()
    later = np.bincount(mix.bins(values[come:]), minlength=len(left))
    error = np.abs(np.cumsum(left[::-1]) - np.cumsum(later[::-1])).max()
    assert error < 5 * 0.5 * (10_000 * (1 + 10_000 / 20_000)) ** 0.5 + 20  # deviations of a count's half


def test_a_new_period_has_seen_nothing_and_expects_the_same():
    mix = Mix.of(KNOWN).with_jobs(day(6)).afresh()
    assert not mix.seen.any()
    assert not mix.is_sorted(total=1_000.0)
    assert mix.left(total=1_000.0) == pytest.approx(1_000 * mix.share)


def test_worth_is_the_best_tiers_gain_per_extra_dollar_and_may_be_negative():
    # Given jobs of which one gains on a middle tier, one on none, one has no dearer tier
    options = Options(
        micro_usd=np.array([[10, 20, 60], [10, 20, 60], [10, 10, 10]]),
        gain=np.array([[0.0, 0.1, 0.2], [0.0, -0.3, -0.1], [0.0, 0.0, 0.0]]),
        rank=np.arange(3),
    )
    assert worth(options) == pytest.approx([0.01, -0.002, 0.0])


def test_jobs_of_equal_worth_make_a_mix_of_one_kind():
    mix = Mix.of(np.zeros(100)).with_jobs(np.zeros(50))
    assert not mix.is_sorted(total=100.0)
    assert mix.left(total=100.0).sum() == pytest.approx(50)
