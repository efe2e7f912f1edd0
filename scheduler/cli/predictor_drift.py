"""`predictor drift`: what was predicted beside what was measured on jobs that both tiers drew.

It parses and prints; pairs are `db.pairs`, the comparison is `scheduler.drift`.
"""

from dataclasses import replace

import typer

from scheduler.cli.batches import Json
from scheduler.cli.session import open_repository, read_settings
from scheduler.cli.show import as_json, console, table, write_line
from scheduler.comparison import Compared, compare
from scheduler.drift import RULE
from scheduler.intervals import Figure

SHOWN = 20  # newest windows on a terminal; --json has all


def drift(ctx: typer.Context, json: Json = False) -> None:
    """Compare predicted with measured PRS, per predictor version and decision window.

    A measured PRS needs both tiers' pictures of one prompt: set ROUTET2I_SHADOW_SHARE for the scheduler.
    Nothing is changed: `predictor train --from-audit` learns from these pairs, and a person promotes it.

    Example: routet2i predictor drift
    """
    settings = read_settings(ctx)
    repository = open_repository(settings)
    found = compare(
        repository.shadow_pairs(),
        yardsticks=repository.yardsticks(),
        tiers=settings.read_tiers(),
        weights=settings.read_metrics().weights,
    )
    if json:
        write_line(as_json({"rule": RULE, "versions": [_without_points(one) for one in found]}))
        return
    if not found:
        console().print(
            "no pair of pictures yet; set ROUTET2I_SHADOW_SHARE=0.05 for the scheduler, and submit"
        )
        return
    for one in found:
        _print(one)
    console().print(RULE, soft_wrap=True)


def _without_points(one: Compared) -> Compared:
    """Return it without its pairs, which are in the view `shadow_pair`."""
    return replace(one, drift=replace(one.drift, points=()))


def _print(one: Compared) -> None:
    out, drift = console(), one.drift
    rows: list[tuple[str, int, float, float, float | None]] = [
        (
            f"{window.committed_at:%Y-%m-%d %H:%M:%S}",
            window.pairs,
            window.predicted,
            window.measured,
            window.difference,
        )
        for window in drift.windows[-SHOWN:]
    ]
    rows.append(("all", drift.pairs, drift.predicted, drift.measured, drift.difference.value))
    columns = ("window", "pairs", "predicted", "measured", "difference")
    out.print(table(f"{one.name} {one.version}", columns=columns, rows=rows))
    out.print(
        f"difference {_told(drift.difference)}, calibration error {_told(drift.calibration_error)}, "
        f"rank correlation {'-' if drift.spearman is None else f'{drift.spearman:.2f}'}",
        soft_wrap=True,
    )
    if not drift.own_constants:
        out.print(
            "measured with constants fitted on these pairs, for the predictor has none for our metrics",
            soft_wrap=True,
        )
    out.print("DRIFT ALARM" if drift.alarm else "no drift alarm")


def _told(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
