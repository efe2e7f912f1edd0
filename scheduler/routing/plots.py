"""The page's pictures: quality against cloud share, reliability, learning curves.

Cases and results in, PNG files out. It knows no router by its kind and measures nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.outcomes import reliability, share_curves
from scheduler.predictor.examples import Floats
from scheduler.routing.cases import CEILING, ORACLE, RANDOM, Case
from scheduler.routing.entrants import METHOD
from scheduler.routing.results import Results

DOTS = 110  # per inch: readable on a page, below 150 kB
GRID: Floats = np.linspace(0, 1, 101)
STYLES: Mapping[str, dict[str, Any]] = {
    METHOD: {"color": "#c1272d", "linewidth": 2.4, "zorder": 5},
    ORACLE: {"color": "black", "linestyle": "--", "linewidth": 1.2},
    CEILING: {"color": "black", "linestyle": ":", "linewidth": 1.2},
    RANDOM: {"color": "grey", "linestyle": "-.", "linewidth": 1.0},
}
OTHERS = {"linewidth": 1.0, "alpha": 0.9}
COLOURS = (  # of the others: no grey, which is random, and no red, which is ours
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2"),
    *("#17becf", "#bcbd22", "#1b4f72", "#7d6608", "#145a32", "#6c3483"),
)
COLUMNS = 2  # panels beside each other


def draw_quality(path: Path, cases: Sequence[Case], *, title: str) -> None:
    """Draw a panel per case: what each router's mean picture is worth at each share of the cloud."""
    figure, panels = _panels(len(cases), height=4.4)
    for case, axes in zip(cases, panels, strict=True):
        for router, table in case.rankings.items():
            x, y = quality(case, table)
            axes.plot(x, y, label=router, **STYLES.get(router, OTHERS))
        axes.set(
            title=f"{case.experiment.pair}, judged by {case.judge.name}",
            xlabel="share of prompts drawn in the cloud",
            ylabel=case.judge.unit or "delta-P, %",
            xlim=(0, 1),
        )
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7, ncols=2)
    figure.suptitle(title)
    figure.savefig(path, dpi=DOTS)


def quality(case: Case, table: Floats) -> tuple[Floats, Floats]:
    """Return shares (101,) and quality there, mean over the training seeds."""
    rows = []
    low, high = case.judge.stretch
    for ranking in table:
        curves = share_curves(case.outcomes, ranking)
        values = low + (high - low) * curves.scores[:, 0] if case.judge.unit else curves.delta_p
        rows.append(np.interp(GRID, curves.permitted, values))
    return GRID, np.mean(rows, axis=0)


def draw_reliability(path: Path, cases: Sequence[Case], *, routers: Sequence[str]) -> None:
    """Draw a panel per case: measured against predicted PRS in bins, of the first training seed."""
    figure, panels = _panels(len(cases), height=4.0)
    for case, axes in zip(cases, panels, strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for router in routers:
            if router in case.rankings:
                bins = reliability(case.outcomes, case.rankings[router][0])
                axes.plot(
                    [one.predicted for one in bins],
                    [one.measured for one in bins],
                    marker="o",
                    markersize=3,
                    label=router,
                    **STYLES.get(router, OTHERS),
                )
        axes.set(
            title=case.experiment.key, xlabel="predicted PRS", ylabel="measured PRS", xlim=(0, 1), ylim=(0, 1)
        )
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=DOTS)


def draw_learning(path: Path, results: Results) -> None:
    """Draw a panel per experiment: share of the oracle's gain against the share of the training prompts."""
    names = results.names("data")
    figure, panels = _panels(len(names), height=3.2)
    for name, axes in zip(names, panels, strict=True):
        for router in results.names("router"):
            rows = [row for row in results.of(data=name, router=router).rows if row.value is not None]
            x = [float(row.figure.partition("@")[2].rstrip("%")) for row in rows]
            y = np.array([row.value for row in rows], dtype=np.float64)
            bounds = np.array([(row.low, row.high) for row in rows], dtype=np.float64)
            style = STYLES.get(router, OTHERS)
            (line,) = axes.plot(x, y, marker="o", markersize=3, label=router, **style)
            axes.fill_between(x, bounds[:, 0], bounds[:, 1], alpha=0.12, color=line.get_color())
        axes.set(title=name, xlabel="% of the training prompts", ylabel="share of oracle gain at 50 %")
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=DOTS)


def _panels(count: int, *, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(6 * columns, height * rows), layout="tight")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_prop_cycle(color=COLOURS)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, list(grid[:count])
