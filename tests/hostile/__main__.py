"""`make hostile`: give every door more than 100,000 hostile inputs, and write `reports/hostile.json`.

`python -m tests.hostile --inputs 5000 --seed 3 --doors tiers metrics` for a look; `--fuzz 60` lets a
coverage-guided fuzzer (atheris) work a minute at each parser besides. Inputs that a door has no answer to are
written to runs/hostile. It ends with 1 if there was any.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from routet2i.figures import Figure, as_table, write_report
from tests.hostile import fuzzing, memory
from tests.hostile.feeding import Account, feed
from tests.hostile.shares import SHARES

COMMAND = "make hostile"
INPUTS, WANTED = 120_000, 100_000
LINES, MOST_MB = 1_000_000, 300
SMALLER, FLAT = (
    4,
    1.5,
)  # a file with a quarter of the lines, and how many times its memory is still called flat
MEASURED = ("submit", "preview")
CHILDREN = 2
SAVED = Path("runs/hostile")


def main() -> None:
    """Read the command line, feed, fuzz, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="for all doors together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--doors", nargs="+", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--fuzz", type=int, default=0, metavar="SECONDS", help="at each parser, besides")
    parser.add_argument(
        "--lines", type=int, default=LINES, help="of the file whose memory is measured; 0: none"
    )
    parser.add_argument(
        "--report", type=Path, help=f"write figures here; {COMMAND} writes reports/hostile.json"
    )
    args = parser.parse_args()
    shares = {door: SHARES[door] for door in args.doors}
    wanted = {door: max(1, args.inputs * share // sum(shares.values())) for door, share in shares.items()}
    with ThreadPoolExecutor(CHILDREN) as pool:
        accounts = list(pool.map(lambda door: _told(door, seed=args.seed, inputs=wanted[door]), wanted))
    figures = list(_fed(accounts, seed=args.seed))
    failed = any(account.findings for account in accounts)
    if args.fuzz:
        fuzzed = [_fuzzed(door, args) for door in args.doors if door in fuzzing.PARSERS]
        figures.append(_fuzz_figure(fuzzed, seconds=args.fuzz))
        failed |= any(one.failure for one in fuzzed)
    if args.lines:
        figures += _memory(args.lines)
    print(as_table(figures))
    if args.report is not None:
        write_report(args.report, figures)
    sys.exit(failed or not all(figure.holds in (True, None) for figure in figures if args.report))


def _told(door: str, *, seed: int, inputs: int) -> Account:
    account = feed(door, seed=seed, inputs=inputs, save=SAVED)
    print(
        f"{door}: {account.inputs} inputs, {account.accepted} accepted, {account.refused} refused, "
        f"{len(account.findings)} unanswered; {account.seconds:.0f} s, slowest {account.slowest:.2f} s, "
        f"{account.peak_mb:.0f} MB",
        flush=True,
    )
    for one in account.findings[:3]:
        print(f"  seed {one.seed}, number {one.number}, {one.kind}: {one.text.strip().splitlines()[-1]}")
    return account


def _fed(accounts: list[Account], *, seed: int) -> Iterator[Figure]:
    inputs = sum(account.inputs for account in accounts)
    accepted, refused = (sum(getattr(one, name) for one in accounts) for name in ("accepted", "refused"))
    findings = [finding for account in accounts for finding in account.findings]
    hangs = [one for one in findings if one.kind == "hang"]
    slowest = max(accounts, key=lambda one: one.slowest)
    yield _figure(
        f"hostile inputs at {len(accounts)} doors, seed {seed}",
        inputs,
        f"inputs ({accepted} accepted, {refused} refused)",
        target=f"at least {WANTED:,}",
        holds=inputs >= WANTED,
    )
    yield _figure(
        "crashes and answers without reason or remedy",
        len(findings) - len(hangs),
        "inputs",
        target="0",
        holds=len(findings) == len(hangs),
    )
    yield _figure(
        "hangs, more than 5 s for one input",
        len(hangs),
        f"inputs (slowest {slowest.slowest:.2f} s, {slowest.door})",
        target="0",
        holds=not hangs,
    )


def _fuzzed(door: str, args: argparse.Namespace) -> fuzzing.Fuzzed:
    if not fuzzing.is_installed():
        sys.exit("atheris is not installed; type: pip install --group fuzz")
    one = fuzzing.fuzz(door, seconds=args.fuzz, seed=args.seed, save=SAVED)
    print(f"fuzzed {door}: {one.executions} executions, coverage {one.coverage}. {one.failure}", flush=True)
    return one


def _fuzz_figure(fuzzed: list[fuzzing.Fuzzed], *, seconds: int) -> Figure:
    failures = [one.door for one in fuzzed if one.failure]
    executions = sum(one.executions for one in fuzzed)
    return _figure(
        f"failures of coverage-guided fuzzing, {len(fuzzed)} parsers, {seconds} s each",
        len(failures),
        f"parsers ({executions:,} executions)",
        target="0",
        holds=not failures,
    )


def _memory(lines: int) -> Iterator[Figure]:
    """Measure each command on a file of so many lines, and on one of a quarter of them."""
    peaks: dict[tuple[str, int], float] = {}
    for size in (lines // SMALLER, lines):
        with tempfile.TemporaryDirectory() as folder:
            home, file = Path(folder) / "home", Path(folder) / "prompts.jsonl"
            memory.write_lines(file, lines=size)
            megabytes = file.stat().st_size / 1e6
            memory.run("db", "upgrade", home=home)
            for command in MEASURED:
                found = memory.run(command, str(file), home=home)
                good = found.exit_code in (0, 7)
                if not good:
                    print(found.told)
                peaks[command, size] = found.peak_mb
                yield _figure(
                    f"memory of {command}, {size:,} lines ({megabytes:.0f} MB, each tenth line bad), SQLite",
                    found.peak_mb,
                    f"MB at its peak ({found.seconds:.0f} s{'' if good else f', exit {found.exit_code}'})",
                    target=f"under {MOST_MB}",
                    holds=good and found.peak_mb < MOST_MB,
                )
    for command in MEASURED:
        times = peaks[command, lines] / peaks[command, lines // SMALLER]
        yield _figure(
            f"memory of {command}, {lines:,} lines beside {lines // SMALLER:,}",
            times,
            "times the peak",
            target=f"at most {FLAT}",
            holds=times <= FLAT,
        )


def _figure(figure: str, value: float, unit: str, *, target: str, holds: bool | None) -> Figure:
    return Figure(
        figure=figure, value=value, unit=unit, baseline="", target=target, holds=holds, command=COMMAND
    )


if __name__ == "__main__":
    main()
