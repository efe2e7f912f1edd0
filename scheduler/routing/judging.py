"""What each entrant's predictions are worth to each judge, as results with paired intervals.

Predictions and measured scores in, rows out. It fits nothing, knows no file and no page.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from scheduler.curves import cloud_probability
from scheduler.evaluation import Evaluation, evaluate
from scheduler.intervals import Figure, shuffled_control
from scheduler.outcomes import Outcomes, delta_values
from scheduler.predictor.examples import Floats
from scheduler.predictor.oracles import cross_rater_gain
from scheduler.routing.cases import BEST, CEILING, HALF, IDEAL, ORACLE, RANDOM, Case, intraclass
from scheduler.routing.entrants import METHOD
from scheduler.routing.experiment import Experiment, outcomes_of
from scheduler.routing.fits import Predictions
from scheduler.routing.results import Result, result

DRAWS = 200  # of the random router, beside its closed form
SHARES = tuple(range(10, 91, 10))
HEADLINE = (
    *("delta_p@50", "saving@50", "oracle_share@50", "aiq_minus_zero", "apgr", "spearman"),
    *("calibration_error", "gain_over_random@50"),
)
DETAILS = (
    *(f"delta_p@{share}" for share in SHARES if share != 50),
    *(f"oracle_share@{share}" for share in SHARES if share != 50),
    *("saving@40", "saving@60", "win_rate@40", "win_rate@50", "win_rate@80", "delta_p_robust@50"),
    *("aiq", "area", "cpt@50", "cpt@80", "gap_at_oracle@50", "regret@50", "auc", "brier"),
)
WHEN_CAPPED = ("realised@50", "delta_p@50", "gain_over_random@50")
CAPPED = "capped "  # before the name of a figure
COMPARED = ("delta_p@50", "oracle_share@50", "aiq_minus_zero")  # of paired differences
DATA = "data"  # in the place of a router: what was measured
SHUFFLED = "shuffled_p"
LEARNING = (
    "learning curve"  # in the place of a judge: its figures are `curve@PERCENT%` of the training prompts
)


def measured(cases: Sequence[Case], *, resamples: int, processes: int) -> Iterator[list[Result]]:
    """Yield the results of each case; routers are measured side by side, on the same resamples."""
    jobs = [
        [
            (case.outcomes, name, table, resamples, capped)
            for capped in ((False, True) if _shown_in_full(case) else (False,))
            for name, table in case.rankings.items()
        ]
        for case in cases
    ]
    if processes == 1:
        for case, own in zip(cases, jobs, strict=True):
            yield _results_of_parts(case, [_evaluate(*job) for job in own])
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # noqa: TID251 - sets, for the new processes
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = [[pool.submit(_evaluate, *job) for job in own] for own in jobs]
        for case, futures in zip(cases, running, strict=True):
            yield _results_of_parts(case, [future.result() for future in futures])


def _results_of_parts(case: Case, parts: Sequence[Evaluation]) -> list[Result]:
    count = len(case.rankings)
    return results_of(case, _joined(parts[:count]), capped=_joined(parts[count:]) if parts[count:] else None)


def learned(experiment: Experiment, *, predictions: Predictions, resamples: int) -> list[Result]:
    """Return the share of the oracle's gain at half the cloud for each share of the training prompts."""
    outcomes, prompts = outcomes_of(experiment, experiment.judges[0])
    shares = sorted({share for key, _, share in predictions if key == experiment.key})
    routers = [
        router for key, router, share in predictions if key == experiment.key and share == shares[0]
    ]  # those that learned from the smallest share
    rows = []
    for router in routers:
        for share in shares:
            table = predictions[experiment.key, router, share][:, prompts]
            table = table[np.isfinite(table).all(axis=1)]  # the seeds that were tried
            measured_ = evaluate(outcomes, {router: table}, resamples=resamples)
            figure = measured_.figure(router, "oracle_share@50")
            rows.append(
                result(
                    figure,
                    part=experiment.part,
                    data=experiment.key,
                    judge=LEARNING,
                    router=router,
                    name=f"curve@{100 * share:.0f}%",
                )
            )
    return rows


def results_of(case: Case, evaluation: Evaluation, *, capped: Evaluation | None = None) -> list[Result]:
    """Return every row of a case; `capped`: the same with jobs of prs_hat >= 1/2 kept on the edge."""
    place = {"part": case.experiment.part, "data": case.experiment.key, "judge": case.judge.name}
    names = (*HEADLINE, *DETAILS) if case.experiment.leading else HEADLINE
    rows = [
        result(evaluation.figure(router, name), router=router, name=name, **place)
        for router in case.rankings
        for name in names
    ]
    if capped is not None:
        rows += [
            result(capped.figure(router, name), router=router, name=f"{CAPPED}{name}", **place)
            for router in case.rankings
            for name in WHEN_CAPPED
        ]
    others = [router for router in case.rankings if router != METHOD]
    if METHOD in case.rankings:
        rows += [
            result(
                evaluation.difference(METHOD, other, name), router=f"{METHOD} - {other}", name=name, **place
            )
            for other in others
            for name in COMPARED
        ]
    rows += [
        result(Figure(value=p), router=router, name=SHUFFLED, **place) for router, p in shuffled(case).items()
    ]
    rows += [
        result(Figure(value=v), router=router, name=name, **place) for router, name, v in _controls(case)
    ]
    return rows


def shuffled(case: Case) -> dict[str, float]:
    """Return router -> p of its decisions at half the cloud against the same dealt at random; worst seed."""
    index = np.unique(case.prompts, return_inverse=True)[1]
    sums = np.bincount(index, weights=case.outcomes.u_cloud - case.outcomes.u_edge)
    gain: Floats = sums / np.bincount(index)  # (prompts,) a prompt's pictures are not independent
    first = np.unique(case.prompts, return_index=True)[1]
    worst = {}
    for router, table in case.rankings.items():
        if router in (RANDOM, ORACLE, CEILING):
            continue
        decisions = [cloud_probability(row[first], share=HALF) for row in table]
        same = np.zeros(len(first), dtype=np.int64)
        worst[router] = max(
            shuffled_control(gain, cloud, strata=same, seed=seed).p_value
            for seed, cloud in enumerate(decisions)
        )
    return worst


def _controls(case: Case) -> Iterator[tuple[str, str, float]]:
    """Yield (router, figure, value): sizes, all edge, all cloud, random by draws, what noise leaves."""
    outcomes, splits = case.outcomes, case.experiment.splits
    yield DATA, "training prompts", float(len(splits[0][0].train))
    yield DATA, "test prompts", float(len(np.unique(case.prompts)))
    yield DATA, "pictures per test prompt and tier", float(case.judge.scores.shape[1])
    yield DATA, "folds", float(len(splits[0]))
    yield DATA, "training seeds", float(len(splits))
    gain = outcomes.u_cloud - outcomes.u_edge
    ends = evaluate(outcomes, {RANDOM: np.full(len(gain), HALF)}, resamples=0).values[RANDOM]
    yield "all_edge", "delta_p@all", 0.0
    yield "all_cloud", "delta_p@all", 2 * ends["delta_p@50"]
    adds = delta_values(outcomes, np.ones((1, len(gain))), range(len(outcomes.metrics)))[0]
    if np.isfinite(adds).all():
        best = evaluate(outcomes, {BEST: -adds}, resamples=0).values[BEST]
        yield from ((BEST, at, best[at]) for at in ("delta_p@50", "saving@50") if np.isfinite(best[at]))
    rng = np.random.default_rng(0)
    draws = np.stack([rng.permutation(len(gain)) / len(gain) for _ in range(DRAWS)])
    drawn = evaluate(outcomes, {RANDOM: draws}, resamples=0).values[RANDOM]
    yield f"{RANDOM}, {DRAWS} draws", "delta_p@50", drawn["delta_p@50"]
    yield f"{RANDOM}, {DRAWS} draws", "oracle_share@50", drawn["oracle_share@50"]
    for tier, q in (("all_edge", outcomes.q_edge), ("all_cloud", outcomes.q_cloud)):
        for name, mean in zip(outcomes.metrics, q.mean(axis=0), strict=True):
            yield tier, f"mean {name}", float(mean)
    if case.judge.scores.shape[1] > 1:
        yield IDEAL, "oracle_share@50", intraclass(gain, case.prompts) ** 0.5
    ratings = case.experiment.ratings
    if ratings is not None and case.judge is case.experiment.judges[0]:
        plain = cross_rater_gain(ratings, choosers=ratings.shape[2])
        for choosers in range(1, ratings.shape[2]):
            crossed = cross_rater_gain(ratings, choosers=choosers)
            yield f"oracle by {choosers} of {ratings.shape[2]} raters", "oracle_share@50", crossed / plain


def _shown_in_full(case: Case) -> bool:
    """Return whether the capped figures are told, too: of what the routers learned to please."""
    return case.experiment.leading and case.judge is case.experiment.judges[0]


def _evaluate(
    outcomes: Outcomes, name: str, table: Floats, resamples: int, capped: bool = False
) -> Evaluation:
    return evaluate(outcomes, {name: table}, resamples=resamples, capped=capped)


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Return routers that were measured apart, on the same resamples, as one evaluation."""
    return Evaluation(
        left_out=parts[0].left_out,
        values={k: v for part in parts for k, v in part.values.items()},
        samples={k: v for part in parts for k, v in part.samples.items()},
        notes={k: v for part in parts for k, v in part.notes.items()},
    )
