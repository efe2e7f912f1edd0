"""`python -m tests.soak`: the highest load that lasts, for half an hour, and what grows meanwhile.

The exit code is 1 if anything leaks, was lost or failed (with --controls, if a leak put in on purpose is not
seen where it should be).
"""

import argparse
import json
import os
import sys
from pathlib import Path

CONTROL_MINUTES = 3.0
CONTROL_RATE = 20.0  # jobs/s


def main() -> None:
    """Read the command line, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, help="at full load, warm-up included; 30, a control 3")
    parser.add_argument("--cores", type=int, help="that everything is left; by default all")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--renderer", choices=("fast", "pocket"), default="fast", help="pocket: real models")
    parser.add_argument("--rate", type=float, help="jobs/s, instead of a search for the highest that lasts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--controls", action="store_true", help="leaks put in on purpose instead")
    parser.add_argument("--only", default="", help="names of controls, comma separated")
    parser.add_argument("--json", action="store_true", help="everything as one JSON line on standard output")
    parser.add_argument("--keep", type=Path, help="folder that the stack's files are kept in")
    parser.add_argument("--report", type=Path, help="write or replace this soak's rows in a report")
    parser.add_argument("--part", help="the rows' name in the report; by default database and renderer")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as every worker does: see routet2i.settings

    from routet2i.figures import Figure, read_report, write_report
    from tests.soak import table
    from tests.soak.leaks import LEAKS
    from tests.soak.soak import Plan, run
    from tests.soak.stack import Shape, pin

    cores = pin(args.cores or os.cpu_count() or 1)
    rows: list[Figure] = []
    good = True
    if args.controls:
        part = "control"
        for name in args.only.split(",") if args.only else LEAKS:
            leak = LEAKS[name]
            print(f"control {name}: {leak.sentence}", file=sys.stderr)
            shape = Shape(database=args.database, renderer="fast", schedulers=1, leak=name)
            verdict = run(
                Plan(
                    minutes=args.minutes or CONTROL_MINUTES,
                    cores=cores,
                    seed=args.seed,
                    rate=args.rate or CONTROL_RATE,
                    warm_up_seconds=20.0,
                    shape=shape,
                    keep=args.keep and args.keep / name,
                )
            )
            seen = [one for one in verdict.leaks if one.series.rsplit(": ", 1)[1] in leak.seen_in.split()]
            good = good and bool(seen)
            rows.append(table.control(verdict, name=name, sentence=leak.sentence, seen=seen))
            print(f"  {'caught' if seen else 'NOT CAUGHT'}: {[one.series for one in verdict.leaks]}")
    else:
        part = args.part or f"{args.database}, {args.renderer}"
        shape = Shape(database=args.database, renderer=args.renderer)
        print(f"soak of {part} on {cores} cores", file=sys.stderr)
        verdict = run(
            Plan(
                minutes=args.minutes or 30.0,
                cores=cores,
                seed=args.seed,
                rate=args.rate,
                shape=shape,
                keep=args.keep,
            )
        )
        good = verdict.holds
        rows = list(table.figures(verdict, part=part))
        print(table.as_text(verdict), file=sys.stderr if args.json else sys.stdout)
        if args.json:
            print(json.dumps(verdict.as_json()))
    if args.report:
        names = {row.figure for row in rows}
        before = read_report(args.report) if args.report.exists() else []
        kept = [
            row
            for row in before
            if row.figure not in names and (args.controls or not row.figure.startswith(f"{part}: "))
        ]
        write_report(args.report, kept + rows)
    sys.exit(not good)


if __name__ == "__main__":
    main()
