"""What each policy is worth on each trace and budget, held against its targets.

Runs in, figures with a verdict out. Floors are paid beside the budget here, so that a share of the budget
means the same on every trace: it pays the dearest tier for that share of the jobs. It knows the targets; it
writes no file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from routet2i.figures import Figure
from scheduler.simulation.contest import HINDSIGHT, OURS, POLICIES, decided_by
from scheduler.simulation.qualities import Qualities, law_qualities
from scheduler.simulation.replay import Plan, hindsight, money_for_share
from scheduler.simulation.traces import DAY, KINDS, draw_trace
from scheduler.simulation.traffic import make_traffic

BUDGETS = (0.05, 0.10, 0.20, 0.40, 0.60, 0.80)  # share of the jobs that the dearest tier can be paid for
SEEDS = 5
RATE = 1.0  # jobs per second: 86,400 a day
WINDOW_SECONDS = 600.0  # 144 decisions a day: the fewer, the harder for whoever corrects himself
TARGETS = {"poisson": 0.99, "bursty": 0.97, "diurnal": 0.97, "drifting": 0.93, "easing": 0.93}
AHEAD = 0.01  # of the linear program's gain that another policy may gain more
COMMAND = "make allocation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One policy's day under one budget."""

    trace: str
    qualities: str
    budget: float  # share of the jobs
    seed: int
    policy: str
    gain: float  # share of the linear program's in hindsight, as predicted
    measured: float  # share of what its choice in hindsight brought in fact


def scores(
    qualities: Qualities,
    *,
    traces: Sequence[str] = tuple(KINDS),
    budgets: Sequence[float] = BUDGETS,
    seeds: Sequence[int] = tuple(range(SEEDS)),
    rate: float = RATE,
    policies: Sequence[str] = tuple(POLICIES),
) -> Iterator[Score]:
    """Yield every policy's day on every trace, budget and seed."""
    for trace in traces:
        for seed in seeds:
            drawn = draw_trace(trace, rate=rate, seconds=DAY, seed=seed)
            traffic = make_traffic(drawn, qualities, seed=seed)
            for budget in budgets:
                plan = Plan(
                    money=money_for_share(traffic, budget), period_seconds=DAY, window_seconds=WINDOW_SECONDS
                )
                best = hindsight(traffic, plan=plan)
                known = decided_by(HINDSIGHT, traffic, plan=plan, seed=seed)
                for policy in policies:
                    decided = decided_by(policy, traffic, plan=plan, seed=seed)
                    yield Score(
                        trace=trace,
                        qualities=qualities.name,
                        budget=budget,
                        seed=seed,
                        policy=policy,
                        gain=decided.gain / best,
                        measured=decided.measured / known.measured,
                    )


def above_floor(qualities: Qualities) -> Qualities:
    """Return the same prompts at the prices above the cheapest tier's."""
    return qualities.priced(qualities.tiers, (qualities.micro_usd - qualities.micro_usd[0]).tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is measured on each of some traces, and how it is told."""

    said: str  # added to the name of each figure
    tiers: int
    floors_beside: bool  # whether the cheapest tier is paid from other money
    traces: tuple[str, ...]
    budgets: tuple[float, ...]
    policies: tuple[str, ...]
    judged: bool  # whether it has targets


FEW = (OURS, "pro_rata", "static_threshold")
CASES = (
    Case(
        said="",
        tiers=2,
        floors_beside=True,
        traces=tuple(KINDS),
        budgets=BUDGETS,
        policies=tuple(POLICIES),
        judged=True,
    ),
    Case(
        said=", four tiers",
        tiers=4,
        floors_beside=True,
        traces=("poisson", "drifting"),
        budgets=(0.05, 0.2),
        policies=FEW,
        judged=False,
    ),
    Case(
        said=", floors paid from the same money",
        tiers=2,
        floors_beside=False,
        traces=("poisson", "bursty"),
        budgets=(0.05, 0.2),
        policies=FEW,
        judged=False,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    """One piece of the work: one trace of one case with one seed."""

    case: Case
    trace: str
    seed: int
    rate: float

    def scores(self) -> list[Score]:
        """Return every policy's day under every budget of the case."""
        qualities = law_qualities(tiers=self.case.tiers, seed=0)
        return list(
            scores(
                above_floor(qualities) if self.case.floors_beside else qualities,
                traces=(self.trace,),
                budgets=self.case.budgets,
                seeds=(self.seed,),
                rate=self.rate,
                policies=self.case.policies,
            )
        )


def days(*, traces: Sequence[str] = tuple(KINDS), seeds: int = SEEDS, rate: float = RATE) -> list[Day]:
    """Return the work of all cases, to be done in any order or side by side."""
    return [
        Day(case=case, trace=trace, seed=seed, rate=rate)
        for case in CASES
        for trace in case.traces
        if trace in traces
        for seed in range(seeds)
    ]


def simulation_figures(done: Sequence[Day], found: Sequence[Sequence[Score]]) -> list[Figure]:
    """Return every target's figure: two tiers with targets, four tiers and floors without.

    Args:
        done: of `days`; all of them take about twelve minutes on one core.
        found: the scores of each.
    """
    by_case: dict[Case, list[Score]] = {}
    for day, own in zip(done, found, strict=True):
        by_case.setdefault(day.case, []).extend(own)
    return [
        figure for case, own in by_case.items() for figure in figures(own, said=case.said, judged=case.judged)
    ]


def figures(found: Sequence[Score], *, said: str = "", judged: bool = True) -> Iterator[Figure]:
    """Yield two figures per trace: our gain under the worst budget, and how far anybody is ahead of us.

    Args:
        found: of `scores`; ours among them.
        said: added to the name of each figure.
        judged: whether they have targets.
    """
    for trace in dict.fromkeys(score.trace for score in found):
        means = _means([score for score in found if score.trace == trace])
        ours = means[OURS]
        worst = min(ours, key=lambda budget: ours[budget])
        wanted = TARGETS.get(trace) if judged else None
        yield Figure(
            figure=f"gain against the offline LP, {trace} arrivals, worst budget ({100 * worst:g} %){said}",
            value=100 * ours[worst],
            unit=f"% (by budget {_listed(ours)})",
            baseline="; ".join(f"{name} {100 * other[worst]:.1f}" for name, other in _others(means)),
            target="" if wanted is None else f"at least {100 * wanted:g}",
            holds=None if wanted is None else ours[worst] >= wanted,
            command=COMMAND,
        )
        ahead, policy, budget = max(
            (other[budget] - ours[budget], name, budget) for name, other in _others(means) for budget in other
        )
        yield Figure(
            figure=f"most that another policy is ahead of ours, {trace} arrivals{said}",
            value=100 * ahead,
            unit="points",
            baseline=f"{policy} at {100 * budget:g} %",
            target=f"at most {100 * AHEAD:g}" if judged else "",
            holds=ahead <= AHEAD if judged else None,
            command=COMMAND,
        )


def _means(found: Sequence[Score]) -> dict[str, dict[float, float]]:
    """Return policy -> budget -> mean share of the gain over the seeds."""
    gains: dict[str, dict[float, list[float]]] = {}
    for score in found:
        gains.setdefault(score.policy, {}).setdefault(score.budget, []).append(score.gain)
    return {
        policy: {budget: float(np.mean(values)) for budget, values in by_budget.items()}
        for policy, by_budget in gains.items()
    }


def _others(means: dict[str, dict[float, float]]) -> list[tuple[str, dict[float, float]]]:
    return [(name, by_budget) for name, by_budget in means.items() if name != OURS]


def _listed(by_budget: dict[float, float]) -> str:
    return ", ".join(f"{100 * budget:g} %: {100 * gain:.1f}" for budget, gain in by_budget.items())
