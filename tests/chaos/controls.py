"""Negative controls: a promise is broken on purpose, and the checker must say which.

Each control names beforehand what must break. One that goes unnoticed means that the harness proves nothing.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from routet2i.figures import Figure, as_table, read_report, write_report
from tests.chaos.campaign import Plan, Verdict, run
from tests.chaos.world import Shape

PART = "control"


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """One broken promise."""

    id: str
    sentence: str
    must_break: str  # invariant
    plan: Plan | None = None
    other: Callable[[], str] | None = None  # returns what broke, empty if nothing


def _naive_budget() -> str:
    """N3: read, call, then write; the product's own writers never do this."""
    from tests.allocation import naive
    from tests.allocation.databases import databases
    from tests.allocation.processes import Role, run_roles
    from tests.allocation.workload import QUICK, excess

    with databases() as made:
        url = made.fresh("sqlite")
        naive.prepare(url, QUICK)
        role = Role(body=naive.write_naively, arguments=(url, QUICK.threads), count=QUICK.processes, kills=0)
        run_roles([role], seconds=min(8.0, QUICK.seconds))
        beyond = excess(naive.used(url), QUICK.limits)
    return f"I3: {beyond} micro-dollars beyond the limits" if beyond else ""


CONTROLS: tuple[Control, ...] = (
    Control(
        id="N1",
        sentence="nobody sweeps",
        must_break="I1",
        plan=Plan(
            seed=1, jobs=300, strikes=8, only=("F1a", "F4b", "F2"), poison=0, rest_seconds=10, pairs=False,
            shape=Shape(double="no_sweeper", picture_seconds=0.4),
        ),
    ),
    Control(
        id="N2",
        sentence="nobody sweeps, but the broker has a file, late acknowledgement and 8 s of patience",
        must_break="I1",
        plan=Plan(
            seed=2, jobs=300, strikes=8, only=("F1a", "F1b", "F2"), poison=0, rest_seconds=30, pairs=False,
            shape=Shape(double="broker_brings_back", broker="aof"),
        ),
    ),
    Control(id="N3", sentence="a budget is read, then written", must_break="I3", other=_naive_budget),
    Control(
        id="N4",
        sentence="writes do not ask for the fence",
        must_break="I6",
        plan=Plan(
            seed=4, jobs=150, strikes=6, only=("F3", "F12b"), poison=0, rest_seconds=60, pairs=False,
            shape=Shape(double="no_fence", double_in=("worker",), picture_seconds=0.6, microbatch_jobs=12),
        ),
    ),
    Control(
        id="N5",
        sentence="pictures are written in place",
        must_break="I5",
        plan=Plan(
            seed=5, jobs=300, strikes=8, only=("F1a", "F1b", "F10"), poison=0, rest_seconds=60, pairs=False,
            shape=Shape(double="written_in_place", double_in=("worker",), picture_seconds=0.01),
        ),
    ),
    Control(
        id="N6",
        sentence="the provider's client repeats by itself",
        must_break="I4",
        plan=Plan(
            seed=6, jobs=180, strikes=3, only=("F1f",), poison=0, rest_seconds=60, pairs=False,
            shape=Shape(
                double="client_repeats", double_in=("worker",), cloud="http", picture_seconds=0.1,
                misbehave="bill_then_500=0.15",
            ),
        ),
    ),
    Control(
        id="N7",
        sentence="a claim does not ask for the tier",
        must_break="I9",
        plan=Plan(
            seed=7, jobs=240, strikes=5, only=("F11",), poison=0, rest_seconds=60, pairs=False,
            shape=Shape(double="any_tier", double_in=("worker",), picture_seconds=0.25),
        ),
    ),
    Control(
        id="N8",
        sentence="deliveries count as deaths",
        must_break="healthy",
        plan=Plan(
            seed=8, jobs=120, strikes=12, only=("F1a", "F7a", "F10"), poison=0, rest_seconds=90, pairs=False,
            shape=Shape(
                double="deliveries_count", double_in=("scheduler",), picture_seconds=0.8,
                resend_seconds=0.5, microbatch_jobs=1, max_deaths=3,
            ),
        ),
    ),
)  # fmt: skip


def main(*, as_json: bool, report: Path | None, only: str) -> int:
    """Run the controls and return the exit code: 0 if each was caught in the way that was foretold."""
    rows: list[Figure] = []
    missed = 0
    for control in CONTROLS:
        if only and control.id not in only.split(","):
            continue
        print(f"{control.id}: {control.sentence}; {control.must_break} must break", file=sys.stderr)
        caught, told = tried(control)
        missed += not caught
        print(f"  {'caught' if caught else 'NOT CAUGHT'}: {told}", file=sys.stderr)
        if as_json:
            line = {"control": control.id, "must_break": control.must_break, "caught": caught, "found": told}
            print(json.dumps(line), flush=True)
        rows.append(
            Figure(
                figure=f"{PART}: {control.id} {control.sentence}",
                value=float(caught),
                unit=f"caught ({told})",
                baseline="",
                target=f"{control.must_break} breaks",
                holds=caught,
                command="python -m tests.chaos --controls",
            )
        )
    if not as_json:
        print(as_table(rows))
    if report is not None:
        before = read_report(report) if report.exists() else []
        tried_now = {row.figure for row in rows}
        write_report(report, [row for row in before if row.figure not in tried_now] + rows)
    return int(missed > 0)


def tried(control: Control) -> tuple[bool, str]:
    """Carry a control out; return whether it broke what it must, and what broke."""
    if control.other is not None:
        told = control.other()
        return control.must_break in told, told or "nothing broke"
    assert control.plan is not None
    verdict = run(control.plan)
    return control.must_break in verdict.breaches, _told(verdict, control.must_break)


def _told(verdict: Verdict, invariant: str) -> str:
    others = ", ".join(name for name in verdict.breaches if name != invariant)
    found = verdict.breaches.get(invariant, ["nothing"])
    return f"{invariant}: {found[-1] if len(found) == 1 else found[0]}"[:160] + (
        f"; also {others}" if others else ""
    )
