"""Several runs: seed after seed, some of them at once as processes of their own, and known ones not again.

It knows which seeds are wanted and where verdicts are kept. What a run does is the campaign's affair.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from itertools import count
from pathlib import Path

from tests.chaos.campaign import Verdict

Run = Callable[[int], Verdict]  # by its seed


def known(kept: Path | None, *, like: Callable[[Verdict], bool]) -> list[Verdict]:
    """Return the verdicts of a file of JSON lines that are of this series."""
    if kept is None or not kept.exists():
        return []
    found = (verdict(json.loads(line)) for line in kept.read_text("utf-8").splitlines())
    return [one for one in found if like(one)]


def verdict(line: dict[str, object]) -> Verdict:
    """Return the verdict that a JSON line tells."""
    return Verdict(**{one.name: line[one.name] for one in fields(Verdict)})  # type: ignore[arg-type]


def in_process(arguments: Sequence[str]) -> Run:
    """Return a run that is a process of its own: `python -m tests.chaos` with these arguments and a seed."""

    def run(seed: int) -> Verdict:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.chaos", *arguments, "--seed", str(seed), "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
        if not lines:
            raise RuntimeError(f"seed {seed} told no verdict: {ended.stderr[-2000:]}")
        return verdict(json.loads(lines[-1]))

    return run


def play(
    run: Run,
    *,
    first: int,
    runs: int,
    minutes: float | None,
    at_once: int,
    before: Sequence[Verdict],
    note: Callable[[Verdict], None],
) -> list[Verdict]:
    """Run seeds until there are so many, and for so long; return all verdicts, those of `before` among them.

    Args:
        first: seed; the next ones follow, those of `before` are left out.
        runs: verdicts in all, at least; with `minutes` more, until the time is over.
        note: called with each new verdict, from one thread at a time.
    """
    done = list(before)
    seeds = _seeds(first, {one.seed for one in before})
    lock = threading.Lock()
    began = time.monotonic()
    left = max(0, runs - len(done))

    def claim() -> int | None:
        nonlocal left
        with lock:
            in_time = minutes is not None and time.monotonic() - began < 60 * minutes
            if left <= 0 and not in_time:
                return None
            left -= 1
            return next(seeds)

    def work() -> None:
        while (seed := claim()) is not None:
            found = run(seed)
            with lock:
                done.append(found)
                note(found)

    if at_once == 1:
        work()
        return done
    with ThreadPoolExecutor(at_once) as pool:
        for one in [pool.submit(work) for _ in range(at_once)]:
            one.result()
    return done


def _seeds(first: int, taken: set[int]) -> Iterator[int]:
    return (seed for seed in count(first) if seed not in taken)
