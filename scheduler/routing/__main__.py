"""`python -m scheduler.routing`: fit every router, measure, print, and write the page of routing.

It puts the parts of this package together and knows where files lie. A part whose data are missing is left
out, and what the reports said of it before stays.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from routet2i import figures
from scheduler import synthetic
from scheduler.predictor.artefact import MANIFEST
from scheduler.predictor.trained import Trained, read_trained
from scheduler.routing import document, drawn, pocket, rated, speed, unseen
from scheduler.routing.cases import Case, case_of
from scheduler.routing.contests import (
    FULL,
    QUICK,
    Contest,
    Effort,
    drawn_contest,
    pocket_contests,
    rated_contests,
    unseen_contests,
)
from scheduler.routing.entrants import METHOD
from scheduler.routing.fits import Fit, fit_all, plan
from scheduler.routing.judging import LEARNING, learned, measured
from scheduler.routing.plots import draw_learning, draw_quality, draw_reliability
from scheduler.routing.results import Result, Results, read_results, write_results
from scheduler.routing.shipped import TABLE, packaged_folder
from scheduler.routing.targets import target_figures

PARTS = (pocket.PART, rated.PART, unseen.PART, drawn.PART, speed.PART)
OF_PEOPLE = (rated.PART, unseen.PART)  # need a folder of rated sets
CACHE = Path("runs/routing-states")  # ignored by git
REPORT, TARGETS, PAGE = Path("reports/routing.csv"), Path("reports/routing.json"), Path("docs/routing.md")
POCKET, COLD = "pocket", "cold_start"  # packaged predictors
SPOKEN = 1_000  # prompts in plain words that the cold start is timed on
CALIBRATED = (METHOD, "ridge", "zooter", "routellm_mf")  # shown in the pictures of reliability


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m scheduler.routing", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="folder of rated sets; without it their parts stay as they were"
    )
    parser.add_argument(
        "--table", type=Path, default=packaged_folder(POCKET) / TABLE, help="pocket measurements"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure anew")
    parser.add_argument("--root", type=Path, default=Path(), help="where docs/ and reports/ lie")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seeds", type=int, default=FULL.seeds, help="how often each router is trained")
    parser.add_argument("--quick", action="store_true", help="a look at the page: its numbers mean nothing")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parts = [part for part in PARTS if part in args.parts]
    if args.data is None and set(OF_PEOPLE) & set(parts):
        print("no --data FOLDER: what the report says of human ratings stays", file=sys.stderr)  # noqa: T201
        parts = [part for part in parts if part not in OF_PEOPLE]
    effort = QUICK if args.quick else replace(FULL, seeds=args.seeds)
    rows = _speed(args.table) if speed.PART in parts else []
    contests = _contests(parts, table=args.table, data=args.data, effort=effort)
    if contests:
        cases, measured_ = _held(contests, effort=effort, processes=args.processes)
        rows += measured_
        _draw(cases, Results(rows), root=args.root)
    before = [row for row in read_results(args.root / REPORT) if row.part not in parts]
    _write(Results(sorted([*rows, *before], key=lambda row: PARTS.index(row.part))), root=args.root)
    print((args.root / PAGE).read_text(encoding="utf-8"))  # noqa: T201 - the command's output


def _packaged(name: str) -> Trained | None:
    folder = packaged_folder(name)
    return read_trained(folder) if (folder / MANIFEST).exists() else None


def _speed(table: Path) -> list[Result]:
    """Return how fast the packaged predictors are on prompts of their kind, before anything else runs."""
    asked = {
        POCKET: pocket.read_pocket_table(table).test_prompts,
        COLD: synthetic.draw(SPOKEN, seed=0).prompts,
    }
    return [
        row
        for name, prompts in asked.items()
        if (packaged_folder(name) / MANIFEST).exists()
        for row in speed.speed_results(packaged_folder(name), prompts=prompts)
    ]


def _contests(parts: Sequence[str], *, table: Path, data: Path, effort: Effort) -> list[Contest]:
    contests: list[Contest] = []
    if pocket.PART in parts:
        contests += pocket_contests(
            pocket.read_pocket_table(table), shipped=_packaged(POCKET), effort=effort, cache=CACHE
        )
    if rated.PART in parts:
        contests += rated_contests(data, shipped=_packaged(COLD), effort=effort, cache=CACHE)
    if unseen.PART in parts:
        contests += unseen_contests(data, shipped=_packaged(COLD), effort=effort, cache=CACHE)
    if drawn.PART in parts:
        contests.append(drawn_contest(effort=effort, cache=CACHE))
    return contests


def _held(contests: Sequence[Contest], *, effort: Effort, processes: int) -> tuple[list[Case], list[Result]]:
    """Return the cases and their results."""
    experiments = [one.experiment for one in contests]
    fits = [
        *plan(experiments, entrants=[one.entrants for one in contests]),
        *plan(
            experiments, entrants=[one.curve for one in contests], shares=rated.CURVE, seeds=rated.FEW_SEEDS
        ),
    ]

    def prompts(one: Fit) -> float:
        return one.share * len(experiments[one.experiment].splits[one.seed][one.fold].train)

    fits.sort(key=prompts, reverse=True)  # no process is left alone with a long one at the end
    predictions = fit_all(experiments, fits, processes=processes)
    cases = [
        case_of(one.experiment, judge, predictions=predictions, also=one.also)
        for one in contests
        for judge in one.experiment.judges
    ]
    rows = [
        row for found in measured(cases, resamples=effort.resamples, processes=processes) for row in found
    ]
    for one in contests:
        if one.curve:
            rows += learned(one.experiment, predictions=predictions, resamples=effort.resamples)
    return cases, rows


def _draw(cases: Sequence[Case], results: Results, *, root: Path) -> None:
    """Draw the pictures of what was measured."""
    (root / PAGE).parent.mkdir(parents=True, exist_ok=True)
    shown = [case for case in cases if not case.experiment.ablations]
    for name in dict.fromkeys(case.experiment.name for case in shown):
        own = [case for case in shown if case.experiment.name == name]
        draw_quality(root / document.picture(name), own, title=name)
    if (learning := results.of(judge=LEARNING)).rows:
        draw_learning(root / document.picture(LEARNING), learning)
    first = [case for case in shown if case.experiment.leading and case.judge is case.experiment.judges[0]]
    for part in dict.fromkeys(case.experiment.part for case in first):
        own = [case for case in first if case.experiment.part == part]
        draw_reliability(root / document.picture(f"reliability {part}"), own, routers=CALIBRATED)


def _write(results: Results, *, root: Path) -> None:
    """Write both reports and bring the page up to date."""
    write_results(root / REPORT, results.rows)
    figures.write_report(root / TARGETS, target_figures(results))
    page = root / PAGE
    text = page.read_text(encoding="utf-8") if page.exists() else document.started()
    page.parent.mkdir(parents=True, exist_ok=True)
    text = document.refreshed(text, results=results)
    page.write_text(figures.refreshed(text, root=root), encoding="utf-8")


if __name__ == "__main__":
    main()
