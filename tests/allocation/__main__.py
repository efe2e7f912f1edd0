"""`make allocation`: measure the promises about money and windows, and write `reports/allocation.json`.

Overspend under many writers, previews beside bills, gain beside hindsight, speed of a decision and of the
window loop, how clients share. Parts that are not measured keep their rows of the last report.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from routet2i.figures import Figure, as_table, read_report, write_report
from tests.allocation.databases import Databases, databases
from tests.allocation.parts import PARTS, merged, named

COMMAND = "make allocation"
QUICK_PENDING = 100_000  # most pending jobs with --quick
QUICK_QUEUED = 10_000  # jobs of one client, with --quick


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.allocation", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--quick", action="store_true", help="fewer writers, traces, seeds and pending jobs")
    parser.add_argument("--report", type=Path, default=Path("reports/allocation.json"))
    args = parser.parse_args()
    now: list[Figure] = []
    with ExitStack() as stack:
        made = None
        if {"overspend", "preview", "windows", "fairness"} & set(args.parts):
            made = stack.enter_context(databases())
        for part in args.parts:
            rows = named(part, measured(part, made, quick=args.quick))
            print(as_table(rows), flush=True)
            now += rows
    before: Sequence[Figure] = read_report(args.report) if args.report.exists() else []
    write_report(args.report, merged(before, now, measured=args.parts))


def measured(part: str, made: Databases | None, *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of one part."""
    if part == "optimality":
        from tests.allocation.optimality import optimality_figures

        yield from optimality_figures(quick=quick, command=COMMAND)
    if part == "speed":
        from tests.allocation.speed import speed_figures

        yield from speed_figures(command=COMMAND)
    if made is None:
        return
    if part == "overspend":
        from tests.allocation.overspend import overspend_figures
        from tests.allocation.workload import FULL, QUICK

        yield from overspend_figures(made, workload=QUICK if quick else FULL, command=COMMAND)
    if part == "preview":
        from tests.allocation.previews import preview_figures

        yield from preview_figures(made, quick=quick, command=COMMAND)
    if part == "windows":
        from tests.allocation.windows import PENDING, window_figures

        pending = [count for count in PENDING if not quick or count <= QUICK_PENDING]
        yield from window_figures(made, pending=pending, command=COMMAND)
    if part == "fairness":
        from tests.allocation.fairness import QUEUED, fairness_figures

        yield from fairness_figures(made, queued=QUICK_QUEUED if quick else QUEUED, command=COMMAND)


if __name__ == "__main__":
    main()
