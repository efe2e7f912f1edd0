"""Gain beside the linear program in hindsight, for every trace, budget and policy; days side by side.

It knows processes; what is measured stands in `scheduler.simulation.report`.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from routet2i.figures import Figure
from scheduler.simulation.report import SEEDS, Day, Score, days, simulation_figures
from scheduler.simulation.traces import KINDS
from tests.allocation.processes import CONTEXT

QUICK_TRACES = ("poisson", "drifting")


def optimality_figures(*, quick: bool, command: str) -> list[Figure]:
    """Return the simulator's figures; quick: of two traces and one seed."""
    work = days(traces=QUICK_TRACES if quick else tuple(KINDS), seeds=1 if quick else SEEDS)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=CONTEXT) as pool:
        found = list(pool.map(_scores, work))
    return [replace(figure, command=command) for figure in simulation_figures(work, found)]


def _scores(day: Day) -> list[Score]:
    return day.scores()
