"""`python -m tests.chaos`: break everything at random, and see whether what was promised holds.

Prints one JSON line per run to standard output with --json, and a table at the end. The exit code is 1 if any
promise was broken (or, with --controls, if any control was not caught).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from routet2i.figures import read_report, write_report
from tests.chaos import series, table
from tests.chaos.campaign import Plan, Verdict, run
from tests.chaos.world import Shape

OF_SERIES = ("--seed", "--runs", "--minutes", "--at-once", "--verdicts", "--report", "--part")
PAID = {"own": "", "http": ", paid cloud", "keys": ", paid cloud that bills a key once"}


def main() -> None:
    """Read the command line, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the others follow")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=600, help="prompts per run")
    parser.add_argument("--faults", type=int, default=25, help="strikes per run")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--broker", choices=("none", "aof"), default="none", help="what it keeps on disk")
    parser.add_argument(
        "--cloud",
        choices=("own", "http", "keys"),
        default="own",
        help="our own model; a provider that is paid by call; one that bills a key once",
    )
    parser.add_argument("--only", default="", help="ids of faults, comma separated: F1,F3,F4b")
    parser.add_argument("--minutes", type=float, help="go on with further seeds for so long")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side, each a process of its own")
    parser.add_argument(
        "--verdicts", type=Path, help="JSON lines: runs of this kind that it has are counted and not repeated"
    )
    parser.add_argument("--lease", type=float, default=2.0, help="seconds of a worker's claim")
    parser.add_argument("--alone", action="store_true", help="one fault at a time, with time to recover")
    parser.add_argument("--full", action="store_true", help="long kinds, too, and 2 to 5 schedulers by seed")
    parser.add_argument("--controls", action="store_true", help="the negative controls instead")
    parser.add_argument("--bare", action="store_true", help="bare Celery under the same F1 and F4 beside it")
    parser.add_argument("--json", action="store_true", help="one JSON line per run on standard output")
    parser.add_argument("--keep", type=Path, help="folder that a run's files are kept in")
    parser.add_argument("--report", type=Path, help="write or replace this run's rows in a report")
    parser.add_argument("--part", help="the rows' name in the report; by default database and broker")
    args = parser.parse_args()
    if args.controls:
        from tests.chaos import controls

        sys.exit(controls.main(as_json=args.json, report=args.report, only=args.only))
    if args.bare:
        from tests.chaos import bare

        sys.exit(bare.main(jobs=args.jobs, seed=args.seed, as_json=args.json, report=args.report))
    part = f"{args.database}, broker {args.broker}" + PAID[args.cloud]
    only = tuple(one for one in args.only.split(",") if one)
    shape = Shape(
        database=args.database,
        broker=args.broker,
        cloud=args.cloud,
        lease_seconds=args.lease,
        full=args.full or bool(only),
    )

    def one(seed: int) -> Verdict:
        print(f"seed {seed}, {part}", file=sys.stderr)
        return run(
            Plan(
                seed=seed,
                jobs=args.jobs,
                strikes=args.faults,
                only=only,
                shape=replace(shape, schedulers=2 + seed % 4) if args.full else shape,
                pairs=not args.alone,
                calm_every=1 if args.alone else 3,
                keep=args.keep and args.keep / f"seed-{seed}",
            )
        )

    def note(verdict: Verdict) -> None:
        told = "holds" if verdict.holds else "BROKEN " + ", ".join(verdict.breaches)
        print(f"  seed {verdict.seed} {told} after {verdict.seconds:.0f} s", file=sys.stderr, flush=True)
        line = json.dumps(verdict.as_json())
        if args.json:
            print(line, flush=True)
        if args.verdicts:
            with args.verdicts.open("a", encoding="utf-8") as file:
                print(line, file=file)

    kind = (args.database, args.broker, args.cloud, args.jobs)
    verdicts = series.play(
        one if args.at_once == 1 else series.in_process(_without_series(sys.argv[1:])),
        first=args.seed,
        runs=args.runs,
        minutes=args.minutes,
        at_once=args.at_once,
        before=series.known(args.verdicts, like=lambda v: (v.database, v.broker, v.cloud, v.jobs) == kind),
        note=note,
    )
    print(table.as_text(verdicts, shape), file=sys.stderr if args.json else sys.stdout)
    if args.report:
        part = args.part or part
        short = args.cloud == "own" and args.broker == "none" and not (args.full or args.alone)
        command = "make chaos" if short else "make chaos-full"
        rows = list(table.figures(verdicts, shape, part=part, command=command))
        before = read_report(args.report) if args.report.exists() else []
        write_report(args.report, [r for r in before if not r.figure.startswith(f"{part}:")] + rows)
    sys.exit(any(not verdict.holds for verdict in verdicts))


def _without_series(words: Sequence[str]) -> list[str]:
    """Return the arguments of one run among several."""
    kept, skip = [], False
    for word in words:
        name, _, value = word.partition("=")
        if name in OF_SERIES:
            skip = not value
        elif skip:
            skip = False
        else:
            kept.append(word)
    return kept


if __name__ == "__main__":
    main()
