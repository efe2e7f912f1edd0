"""Feed a door in child processes that may neither take much memory nor long, and tell what happened.

A child that dies is a finding, and its chunk goes on behind the input that killed it. It knows processes and
counts, no door.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

INPUT_SECONDS = 5.0  # for one input; more is a hang
START_SECONDS = 90.0  # for the imports of a child
CHUNK = 2000  # inputs per child
LIGHT_BYTES, TORCH_BYTES = 3 << 30, 24 << 30  # of addresses; torch maps its libraries, gigabytes of them
TORCH = ("predictor", "weights")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One input that a door had no answer to."""

    door: str
    seed: int
    number: int
    kind: str  # crash, hang, or what was raised
    text: str


@dataclass(kw_only=True)
class Account:
    """What became of a door's inputs."""

    door: str
    accepted: int = 0
    refused: int = 0
    peak_mb: float = 0.0  # resident memory of the largest child
    slowest: float = 0.0  # seconds of one input
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """How many were fed."""
        return self.accepted + self.refused + len(self.findings)


class _Hang(BaseException):
    """An input takes too long."""


def feed(door: str, *, seed: int, inputs: int, save: Path | None = None) -> Account:
    """Feed a door from children of `CHUNK` inputs each; inputs of findings are saved in a folder."""
    account, begun = Account(door=door), perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, inputs, CHUNK):
            _chunk(account, seed=seed, start=start, end=min(inputs, start + CHUNK), folder=Path(folder))
    account.seconds = perf_counter() - begun
    if save is not None and account.findings:
        _save(account, save)
    return account


def _chunk(account: Account, *, seed: int, start: int, end: int, folder: Path) -> None:
    place = folder / "place"
    while start < end:
        place.write_text(str(start))
        arguments = [account.door, seed, start, end, folder]
        seconds = START_SECONDS + INPUT_SECONDS * 10 + 0.05 * (end - start)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.hostile.feeding", *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
            kind, text = "crash", f"exit {done.returncode}: {done.stderr[-2000:]}"
        except subprocess.TimeoutExpired:
            done, kind, text = None, "hang", f"no end after {seconds:.0f} s"
        if done is not None and done.returncode == 0:
            _add(account, json.loads(done.stdout.splitlines()[-1]))
            return
        number = int(place.read_text())
        with contextlib.suppress(OSError, ValueError):
            _add(account, json.loads((folder / "so far").read_text()))
        account.findings.append(Finding(door=account.door, seed=seed, number=number, kind=kind, text=text))
        start = number + 1


def _add(account: Account, told: dict) -> None:
    account.accepted += told["accepted"]
    account.refused += told["refused"]
    account.peak_mb = max(account.peak_mb, told["peak_mb"])
    account.slowest = max(account.slowest, told["slowest"])
    account.findings += [Finding(**one) for one in told["findings"]]


def _save(account: Account, save: Path) -> None:
    from tests.hostile.mutations import hostile_input

    save.mkdir(parents=True, exist_ok=True)
    for one in account.findings:
        name = f"{one.door.replace(' ', '_')}-{one.seed}-{one.number}"
        (save / name).write_bytes(hostile_input(one.door, seed=one.seed, number=one.number))
        (save / f"{name}.json").write_text(json.dumps(asdict(one), indent=1))


def _feed_here(door: str, *, seed: int, start: int, end: int, folder: Path) -> dict:
    """Feed inputs start to end (exclusive) in this process, and count."""
    from tests.hostile.doors import DOORS, Verdict
    from tests.hostile.mutations import hostile_input

    counts: Counter[Verdict] = Counter()
    findings: list[Finding] = []
    slowest = 0.0
    place = (folder / "place").open("r+b", buffering=0)

    def hang(*_: object) -> None:
        raise _Hang

    def told() -> dict:
        return {
            "accepted": counts[Verdict.ACCEPTED],
            "refused": counts[Verdict.REFUSED],
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "slowest": slowest,
            "findings": [asdict(one) for one in findings],
        }

    signal.signal(signal.SIGALRM, hang)
    for number in range(start, end):
        if number % 20 == 0:
            (folder / "so far").write_text(json.dumps(told()))
        place.seek(0)
        place.write(str(number).encode())
        raw = hostile_input(door, seed=seed, number=number)
        begun = perf_counter()
        signal.setitimer(signal.ITIMER_REAL, INPUT_SECONDS)
        try:
            counts[DOORS[door](raw, folder)] += 1
        except _Hang:
            findings.append(_finding(door, seed, number, "hang"))
        except Exception as error:
            findings.append(_finding(door, seed, number, type(error).__name__))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, perf_counter() - begun)
    return told()


def _finding(door: str, seed: int, number: int, kind: str) -> Finding:
    return Finding(door=door, seed=seed, number=number, kind=kind, text=traceback.format_exc()[-3000:])


def _limit(door: str) -> None:
    most = TORCH_BYTES if door in TORCH else LIGHT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    if name in TORCH:
        import torch

        torch.set_num_threads(1)
    _limit(name)
    print(
        json.dumps(
            _feed_here(name, seed=int(rest[0]), start=int(rest[1]), end=int(rest[2]), folder=Path(rest[3]))
        )
    )
