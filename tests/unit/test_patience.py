"""How long jobs without money stay out of windows, by how many there are."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import TIER_MISSING, WindowJob
from scheduler.allocator import BUDGET, CAPACITY
from scheduler.patience import LONGEST_MS, SHORTEST_MS, Patience

WINDOW_JOBS, WINDOW_SECONDS = 512, 0.1


def job(batch: str, number: int) -> WindowJob:
    return WindowJob(
        job_id=f"{batch}-{number}", batch_id=batch, prompt="a star", width=None, height=None, n=1
    )


def windows(lines: dict[str, int], *, seconds: float) -> tuple[list[float], float]:
    """Let batches of so many lines, which never have money, meet windows, the oldest batch first.

    Returns:
        The seconds at which a window had room for other jobs, and the last pause in seconds.
    """
    due = {(batch, line): 0.0 for batch, total in lines.items() for line in range(total)}
    patience, now = Patience(), 0.0
    room: list[float] = []
    while now < seconds:
        ready = [name for name, at in due.items() if at <= now][:WINDOW_JOBS]
        if len(ready) < WINDOW_JOBS:
            room.append(now)
        jobs = [job(*name) for name in ready]
        deferred = [(one.job_id, BUDGET) for one in jobs]
        patience = patience.after(
            jobs,
            deferred,
            waiting={batch: lines[batch] for batch, _ in ready},
            seconds_per_job=WINDOW_SECONDS / WINDOW_JOBS,
            now_ms=round(now * 1000),
        )
        waits = patience.waits(deferred)
        now += WINDOW_SECONDS
        for name, one in zip(ready, jobs, strict=True):
            due[name] = now + waits[one.job_id] / 1000
    return room, patience.ms / 1000


def test_few_jobs_without_money_come_back_every_second() -> None:
    room, pause = windows({"a": 2_000}, seconds=20)
    assert pause == 1
    assert room[0] < 1  # and others are never kept waiting


@pytest.mark.parametrize("batches", [1, 10])
def test_many_jobs_without_money_take_half_of_the_time_and_leave_others_the_rest(batches: int) -> None:
    # Given lines that a second's windows cannot look at, of one batch or of several
    lines = {f"batch{number}": 30_000 // batches for number in range(batches)}
    once = 30_000 / WINDOW_JOBS * WINDOW_SECONDS  # seconds to look at all of them
    # When windows go on for a while
    room, pause = windows(lines, seconds=60)
    # Then there is room for others after two looks at most, and again and again
    assert room[0] <= 2 * once
    assert max(later - sooner for sooner, later in pairwise(room)) < 2 * once
    # And the pause is twice the time of one look
    assert pause == pytest.approx(2 * once, rel=0.05)


def test_a_batch_that_found_money_or_ended_makes_no_others_wait() -> None:
    def after(patience: Patience, batch: str, *, waiting: int, short: bool, now_ms: int) -> Patience:
        one = job(batch, 1)
        return patience.after(
            [one],
            [(one.job_id, BUDGET)] if short else [],
            waiting={batch: waiting},
            seconds_per_job=0.001,
            now_ms=now_ms,
        )

    # Given a large batch without money, and a small one
    large = after(Patience(), "large", waiting=20_000, short=True, now_ms=0)
    assert large.ms == 40_000
    assert after(large, "small", waiting=10, short=True, now_ms=1_000).ms == 40_020
    # When the large one is paid, or is not met again when it is due
    paid = after(large, "large", waiting=20_000, short=False, now_ms=40_000)
    assert after(paid, "small", waiting=10, short=True, now_ms=41_000).ms == SHORTEST_MS
    assert after(large, "small", waiting=10, short=True, now_ms=80_001).ms == SHORTEST_MS


def test_jobs_that_wait_for_something_else_than_money_are_no_affair_of_it() -> None:
    jobs = [job("a", 1), job("a", 2), job("b", 1)]
    deferred = [("a-1", CAPACITY), ("a-2", TIER_MISSING), ("b-1", BUDGET)]
    waiting = {"a": 10**6, "b": 10}
    patience = Patience().after(jobs, deferred, waiting=waiting, seconds_per_job=0.001, now_ms=0)
    assert patience.waits(deferred) == {"b-1": SHORTEST_MS}


@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 10**9), st.floats(0, 1e6), st.integers(-5_000, 400_000)),
        max_size=40,
    )
)
def test_a_pause_stays_within_its_limits_whatever_the_clock_does(
    steps: list[tuple[bool, int, float, int]],
) -> None:
    patience, now = Patience(), 0
    for number, (short, waiting, cost, passed) in enumerate(steps):
        now += passed
        one = job(f"batch{number % 3}", number)
        deferred = [(one.job_id, BUDGET)] if short else []
        patience = patience.after(
            [one], deferred, waiting={one.batch_id: waiting}, seconds_per_job=cost, now_ms=now
        )
        assert set(patience.waits(deferred)) == {job_id for job_id, _ in deferred}
        assert SHORTEST_MS <= patience.ms <= LONGEST_MS
