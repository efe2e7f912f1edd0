"""When windows close, and how their size follows what deciding costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.pace import LEAST, Pace

START = Pace(most=512, age=1.0, target=2.0)


@pytest.mark.parametrize(
    ("waiting", "oldest", "closes"),
    [(0, 99.0, False), (1, 0.9, False), (1, 1.0, True), (511, 0.0, False), (512, 0.0, True)],
)
def test_a_window_closes_by_count_or_by_age(waiting: int, oldest: float, closes: bool) -> None:
    assert START.closes(waiting=waiting, oldest_seconds=oldest) is closes


def test_windows_shrink_until_they_meet_their_target_and_grow_back() -> None:
    # Given windows whose jobs cost 10 ms each
    pace = START
    for _ in range(20):
        pace = pace.after(jobs=pace.size, seconds=0.01 * pace.size)
    # Then they take as many as two seconds allow
    assert pace.size == pytest.approx(200, abs=1)
    # And the full size again once a job costs a tenth of it
    for _ in range(20):
        pace = pace.after(jobs=pace.size, seconds=0.001 * pace.size)
    assert pace.size == 512


@given(jobs=st.integers(0, 10_000), seconds=st.floats(0, 1e6), most=st.integers(1, 100_000))
def test_a_window_takes_at_least_a_little_and_never_too_much(jobs: int, seconds: float, most: int) -> None:
    pace = Pace(most=most, age=1.0, target=2.0).after(jobs=jobs, seconds=seconds)
    assert min(LEAST, most) <= pace.size <= most
