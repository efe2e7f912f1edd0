"""Seeds of `python -m tests.chaos`: how many, which, side by side, and those that were run before."""

import json
import threading
from pathlib import Path

import pytest

from tests.chaos import series
from tests.chaos.campaign import Verdict


def verdict(seed: int, *, database: str = "sqlite") -> Verdict:
    return Verdict(seed=seed, database=database, broker="none", cloud="own", double="", jobs=10)


@pytest.mark.parametrize("at_once", [1, 3])
def test_seeds_that_were_run_before_are_counted_and_not_repeated(at_once: int) -> None:
    # Given a series of which two seeds are known
    noted: list[int] = []
    done = series.play(
        verdict,
        first=1,
        runs=6,
        minutes=None,
        at_once=at_once,
        before=[verdict(2), verdict(9)],
        note=lambda one: noted.append(one.seed),
    )
    # Then the others are the first ones that are missing, each once
    assert sorted(noted) == [1, 3, 4, 5]
    assert sorted(one.seed for one in done) == [1, 2, 3, 4, 5, 9]


def test_runs_are_side_by_side() -> None:
    # Given runs of which none ends before three have begun
    together = threading.Barrier(3, timeout=10)

    def run(seed: int) -> Verdict:
        together.wait()
        return verdict(seed)

    # When three may run at once, then all end
    done = series.play(run, first=1, runs=3, minutes=None, at_once=3, before=[], note=lambda _: None)
    assert len(done) == 3


def test_a_run_that_breaks_off_ends_the_series() -> None:
    def run(seed: int) -> Verdict:
        raise RuntimeError(f"seed {seed} told no verdict")

    with pytest.raises(RuntimeError, match="seed 1"):
        series.play(run, first=1, runs=2, minutes=None, at_once=1, before=[], note=lambda _: None)


def test_a_file_of_verdicts_is_read_as_it_was_written(tmp_path: Path) -> None:
    # Given lines of two databases
    kept = tmp_path / "runs.jsonl"
    one, other = verdict(1), verdict(2, database="postgresql")
    one.recovery_seconds = {"F1a": [2.5]}
    kept.write_text("".join(json.dumps(each.as_json()) + "\n" for each in (one, other)))
    # When those of one are asked for
    found = series.known(kept, like=lambda each: each.database == "sqlite")
    # Then they are equal, and a file that is not there has none
    assert found == [one]
    assert series.known(tmp_path / "none.jsonl", like=lambda _: True) == []
    assert series.known(None, like=lambda _: True) == []
