"""How much memory commands take for a file of a million lines, as the kernel counts it.

It starts the command line in a home of its own on SQLite. It knows commands and files, not what is in a line.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parents[2]
EVERY_BAD = 10  # each tenth line is refused
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a command took."""

    command: str
    peak_mb: float  # resident, its own
    seconds: float
    exit_code: int
    told: str  # what it printed


def write_lines(path: Path, *, lines: int) -> None:
    """Write a file of JSON lines, each tenth of them hostile."""
    bad = [
        b'{"prompt": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"prompt": "a", "metadata": {"k": ' + b"9" * 5000 + b"}}",
        b'{"prompt": "\\u0000", "custom_id": "x"}',
        b"\xff\xfe not text",
        b'{"prompt": "' + b"x" * 3000 + b'"}',
    ]
    with path.open("wb") as file:
        for number in range(lines):
            if number % EVERY_BAD == EVERY_BAD - 1:
                file.write(bad[number // EVERY_BAD % len(bad)] + b"\n")
                continue
            prompt = f"a {COLOURS[number % 8]} circle beside {number} {COLOURS[number // 8 % 8]} squares"
            file.write(json.dumps({"custom_id": f"job-{number}", "prompt": prompt}).encode() + b"\n")


def run(*arguments: str, home: Path, predictor: str = "prompt_length") -> Run:
    """Run a command of ours to its end."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ROUTET2I_")},
        "PYTHONPATH": str(ROOT),
        "ROUTET2I_PREDICTOR": predictor,
        "ROUTET2I_FAKE_MODELS": "1",
    }
    begun = perf_counter()
    with (home.parent / "told").open("w+b") as told:
        child = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli", "--home", str(home), *arguments],
            cwd=ROOT,
            env=environment,
            stdout=told,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0, os.SEEK_END)
        told.seek(max(0, told.tell() - 3000))
        text = told.read().decode("utf-8", "replace")
    return Run(
        command=" ".join(arguments[:2]),
        peak_mb=used.ru_maxrss / 1024,
        seconds=perf_counter() - begun,
        exit_code=child.returncode,
        told=text,
    )
