"""What the soak calls a leak, and how it finds the load that lasts: arithmetic, without a stack."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.soak.growth import (
    BLOCKS,
    COUNT,
    LEAST_SAMPLES,
    MB,
    MEMORY,
    SPAN_SECONDS,
    TOLERANCES,
    growth,
    judge,
    per_job,
    slope,
)
from tests.soak.leaks import LEAKS
from tests.soak.ramp import GROWING, PROOF_SECONDS, SHARE, STEP_SECONDS, Look, Step, highest, seen
from tests.soak.sampling import Sample, pictures, series
from tests.soak.soak import Plan, Verdict
from tests.soak.table import as_text, figures

EVERY = 5.0  # seconds between two looks
lengths = st.integers(LEAST_SAMPLES, 120)
seeds = st.integers(0, 2**32 - 1)  # of noise
patient = settings(deadline=None)  # a busy machine


def times(count: int) -> list[float]:
    return [EVERY * number for number in range(count)]


def per_look(per_ten_minutes: float) -> float:
    return per_ten_minutes * EVERY / SPAN_SECONDS


@patient
@given(count=lengths, rate=st.floats(-1e6, 1e6), start=st.floats(0, 1e8))
def test_a_straight_line_grows_by_its_slope(count: int, rate: float, start: float) -> None:
    values = [start + rate * at for at in times(count)]
    assert slope(times(count), values) == pytest.approx(rate, rel=1e-3, abs=1e-3)
    assert growth(times(count), values) == pytest.approx(SPAN_SECONDS * rate, rel=1e-3, abs=1)


@patient
@given(values=st.lists(st.floats(0, 1e9), min_size=LEAST_SAMPLES, max_size=60))
def test_what_falls_shrinks_as_fast_as_its_mirror_image_grows(values: list[float]) -> None:
    up = growth(times(len(values)), values)
    assert growth(times(len(values)), [-value for value in values]) == pytest.approx(-up)


@patient
@given(count=lengths, base=st.floats(1e6, 1e9), seed=seeds)
def test_memory_that_leaks_twice_what_is_allowed_is_caught_through_noise(
    count: int, base: float, seed: int
) -> None:
    # Given a leak of twice the tolerance, and noise of up to a tenth of all that it adds
    allowed = MEMORY.absolute + MEMORY.share * base
    added = per_look(2 * allowed) * count
    noise = np.random.default_rng(seed).uniform(-0.05, 0.05, count)
    values = [base + added * (k / count + noise[k]) for k in range(count)]
    # When it is judged, then it leaks
    assert judge("x", times(count), values, MEMORY).leaks


@patient
@given(count=lengths, base=st.floats(1e6, 1e9), seed=seeds)
def test_memory_that_grows_by_half_of_what_is_allowed_is_no_leak(count: int, base: float, seed: int) -> None:
    added = per_look((MEMORY.absolute + MEMORY.share * base) / 2) * count
    noise = np.random.default_rng(seed).uniform(-0.05, 0.05, count)
    values = [base + added * (k / count + noise[k]) for k in range(count)]
    assert not judge("x", times(count), values, MEMORY).leaks


@patient
@given(count=lengths, at=st.integers(0, 200), height=st.floats(-1e9, 1e9), base=st.floats(1e9, 2e9))
def test_one_step_is_no_leak_wherever_it_comes(count: int, at: int, height: float, base: float) -> None:
    values = [base + (height if k >= at else 0) for k in range(count)]
    assert not judge("x", times(count), values, MEMORY).leaks
    assert not judge("x", times(count), [round(value) for value in values], COUNT).leaks


@patient
@given(count=st.integers(60, 120), base=st.floats(1e8, 1e9))
def test_what_comes_to_rest_is_no_leak(count: int, base: float) -> None:
    # Given a cache that fills in the first third of the time
    values = [base * (1 + min(1.0, 3 * k / count)) for k in range(count)]
    assert not judge("x", times(count), values, MEMORY).leaks


@patient
@given(count=st.integers(3 * BLOCKS, 120), floor=st.integers(0, 50), seed=seeds)
def test_a_count_that_always_comes_back_is_no_leak(count: int, floor: int, seed: int) -> None:
    # Given a count that is at its floor at least every second look
    extra = np.random.default_rng(seed).integers(0, 101, count)
    values = [floor + (extra[k] if k % 2 else 0) for k in range(count)]
    # When it is judged, then however high it goes in between, it does not leak
    assert not judge("x", times(count), values, COUNT).leaks


@patient
@given(count=st.integers(3 * BLOCKS, 120), swing=st.integers(0, 20), seed=seeds)
def test_a_count_that_is_never_given_back_is_caught_below_any_swing(
    count: int, swing: int, seed: int
) -> None:
    # Given connections that come and go, and in each block one more of them stays than ever come and go
    extra = np.random.default_rng(seed).integers(0, swing + 1, count)
    values = [5 + (swing + 1) * (BLOCKS * k // count) + extra[k] for k in range(count)]
    assert judge("x", times(count), values, COUNT).leaks


def test_a_staircase_of_three_is_a_leak_and_a_single_step_is_not() -> None:
    count = 120
    assert judge("x", times(count), [5 + k // 30 for k in range(count)], COUNT).leaks
    assert not judge("x", times(count), [5 + k // 60 for k in range(count)], COUNT).leaks


def test_a_series_that_is_too_short_is_not_judged() -> None:
    few = LEAST_SAMPLES - 1
    judged = judge("x", times(few), [MB * k for k in range(few)], MEMORY)
    assert not judged.judged
    assert not judged.leaks


@patient
@given(jobs=st.lists(st.integers(1, 50), min_size=4, max_size=80), each=st.integers(1, 10_000))
def test_bytes_in_step_with_jobs_have_the_ratio_one(jobs: list[int], each: int) -> None:
    done = [sum(jobs[:k]) for k in range(len(jobs))]
    if done[len(done) // 2] == done[0] or done[-1] == done[len(done) // 2]:
        return
    assert per_job(done, [1000 + each * n for n in done]) == pytest.approx((each, 1.0))


def test_bytes_that_grow_with_the_square_of_the_jobs_are_told() -> None:
    done = list(range(0, 100, 10))
    _, ratio = per_job(done, [n * n for n in done])
    assert ratio > 2
    with pytest.raises(ValueError, match="no job"):
        per_job([0, 0, 0, 5], [0, 1, 2, 3])


class Line:
    """A stack that serves so many jobs a second and no more, by a clock of its own."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.waits = 0.0
        self.done = 0.0
        self.at = 0.0

    def apply(self, rate: float, seconds: float) -> Step:
        looks: list[Look] = []
        for _ in range(round(seconds * 2)):
            looks.append((self.at, round(self.done), round(self.waits)))
            self.at += 0.5
            served = min(self.waits + rate / 2, self.capacity / 2)
            self.done += served
            self.waits += rate / 2 - served
        return seen(rate, looks)

    def drain(self) -> None:
        self.done += self.waits
        self.waits = 0.0


@patient
@given(capacity=st.floats(5, 3000), start=st.floats(1, 40))
def test_the_search_ends_just_below_what_can_be_served(capacity: float, start: float) -> None:
    # Given a line with a capacity
    line = Line(capacity)
    # When the highest load that lasts is searched for
    steps = highest(line.apply, line.drain, start=start)
    # Then it is nine tenths of it, was proved, and the rates before it doubled
    assert steps[-1].lasts
    assert steps[-1].rate == pytest.approx(SHARE * capacity, rel=0.1)
    lasting = [step.rate for step in steps[:-1] if step.lasts]
    assert lasting == [start * 2**k for k in range(len(lasting))]


def test_a_search_that_finds_nothing_says_so() -> None:
    def apply(rate: float, seconds: float) -> Step:
        return Step(rate=rate, served=rate, growing=rate * 2 * GROWING)

    with pytest.raises(RuntimeError, match="grows even at"):
        highest(apply, lambda: None, start=10)


def test_a_proof_is_longer_than_a_step() -> None:
    assert PROOF_SECONDS > STEP_SECONDS


def test_warm_up_and_pace_of_looks_leave_enough_to_judge() -> None:
    for minutes in (1.0, 2.0, 5.0, 30.0, 240.0):
        plan = Plan(minutes=minutes, cores=2)
        assert 0 < plan.warm_up <= 60 * minutes / 3
        assert math.floor((60 * minutes - plan.warm_up) / plan.every) >= LEAST_SAMPLES


def verdict(*, growing: bool) -> Verdict:
    values = [MB * (100 + (2 * k if growing else 0)) for k in range(40)]
    return Verdict(
        plan=Plan(minutes=5, cores=2),
        rate=10,
        done=100,
        seconds=200,
        judgements=[judge("edge worker: private", times(40), values, MEMORY)],
        added={"database": (2000.0, 1.0)},
    )


def test_a_leak_breaks_the_verdict_and_stands_in_table_and_report() -> None:
    # Given two soaks that differ in one series
    well, ill = verdict(growing=False), verdict(growing=True)
    # When they are told, then one holds and the other one names its leak
    assert well.holds
    assert not ill.holds
    assert "LEAKS" not in as_text(well)
    assert "LEAKS" in as_text(ill)
    rows = {row.figure: row.holds for row in figures(ill, part="sqlite, fast")}
    assert [name for name, holds in rows.items() if holds is False] == [
        "sqlite, fast: edge worker, memory of its own"
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"failed": 1},
        {"lost": 1},
        {"left": 1},
        {"replaced": ["edge worker"]},
        {"breaches": ["I1: job"]},
        {"added": {"database": (2000.0, 1.2)}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_whatever_else_is_wrong_breaks_the_verdict_and_has_a_row(wrong: dict[str, object]) -> None:
    ill = verdict(growing=False)
    for name, value in wrong.items():
        setattr(ill, name, value)
    assert not ill.holds
    assert sum(row.holds is False for row in figures(ill, part="x")) == 1


def test_series_are_told_by_name_even_where_a_look_misses_one() -> None:
    looks = [
        Sample(at=at, time=at, done=0, unfinished=0, values=values)
        for at, values in ((0.0, {"a: rss": 1.0}), (5.0, {"a: rss": 2.0, "b: rss": 7.0}))
    ]
    assert series(looks) == {"a: rss": ([0.0, 5.0], [1.0, 2.0]), "b: rss": ([5.0], [7.0])}


def test_pictures_are_told_oldest_first_beside_what_was_left_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "ab" / "cd"
    folder.mkdir(parents=True)
    for name, size in (("one.png", 3), ("two.png", 5), ("two.png.1.tmp", 2)):
        (folder / name).write_bytes(b"x" * size)
    found, temporary = pictures(tmp_path)
    assert sorted(size for _, size in found) == [3, 5]
    assert found == sorted(found)
    assert temporary == 1


def test_every_control_says_in_which_measures_it_must_be_seen() -> None:
    assert {word for leak in LEAKS.values() for word in leak.seen_in.split()} <= set(TOLERANCES)
    assert all(leak.sentence and leak.seen_in for leak in LEAKS.values())
