"""Coverage-guided fuzzing of the parsers with atheris (libFuzzer), where it is installed.

One child process per door; it begins with the valid samples and a few hostile inputs, and whatever
the door has no answer to ends it. It knows the fuzzer, not what a door is. `pip install --group fuzz`
brings atheris.
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PARSERS = (
    *(
        "prompts.jsonl",
        "prompts.csv",
        "prompts.txt",
        "tiers",
        "metrics",
        "trace",
        "ratings",
        "growing ratings",
    ),
    *("noun count", "model folder", "message", "database URL", "broker URL"),
)
BEGUN = 300  # hostile inputs that the fuzzer starts from, beside the valid ones
INPUT_SECONDS, MEGABYTES, LONGEST = 10, 2048, 20_000
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Fuzzed:
    """What the fuzzer did at a door."""

    door: str
    executions: int
    coverage: int  # branches of our code that were reached
    failure: str  # what ended it early; empty if nothing did


def is_installed() -> bool:
    """Whether the fuzzer can be imported."""
    return find_spec("atheris") is not None


def fuzz(door: str, *, seconds: int, seed: int, save: Path) -> Fuzzed:
    """Fuzz a door; the input of a failure is written into a folder."""
    from tests.hostile.mutations import hostile_input
    from tests.hostile.samples import FILES

    save.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        grown = [hostile_input(door, seed=seed, number=number)[:LONGEST] for number in range(BEGUN)]
        for number, raw in enumerate([*FILES[door], *grown]):
            (corpus / str(number)).write_bytes(raw)
        options = [
            *(
                f"-max_total_time={seconds}",
                f"-seed={seed}",
                f"-timeout={INPUT_SECONDS}",
                f"-rss_limit_mb={MEGABYTES}",
            ),
            *(
                f"-max_len={LONGEST}",
                "-print_final_stats=1",
                f"-artifact_prefix={save / door.replace(' ', '_')}-",
            ),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "tests.hostile.fuzzing", door, folder, *options, str(corpus)],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            },
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + 300,
            check=False,
        )
    told = done.stderr
    return Fuzzed(
        door=door,
        executions=max([int(one) for one in re.findall(r"number_of_executed_units: (\d+)", told)] or [0]),
        coverage=max([int(one) for one in re.findall(r" cov: (\d+)", told)] or [0]),
        failure=""
        if done.returncode == 0
        else f"exit {done.returncode}: {done.stdout[-1500:]}{told[-2500:]}",
    )


def _fuzz_here(door: str, folder: Path, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["routet2i", "scheduler", "db", "tomllib", "json", "csv"]):
        from tests.hostile.doors import DOORS

    one = DOORS[door]

    def test_one_input(raw: bytes) -> None:
        one(raw, folder)

    atheris.Setup([sys.argv[0], *options], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    _fuzz_here(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
