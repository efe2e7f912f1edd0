"""What stands beside what at one judge: measured outcomes and the rankings of all who competed, or saw.

Arrays in, arrays out. It knows no figure and no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scheduler.outcomes import Outcomes
from scheduler.predictor.examples import Floats, Rows
from scheduler.routing.experiment import Experiment, Judge, outcomes_of
from scheduler.routing.fits import Predictions

HALF = 0.5  # the cloud share of single figures
RANDOM, ORACLE, CEILING, IDEAL = "random", "oracle", "ceiling", "ceiling, extrapolated"
BEST = "oracle of delta-P"  # knows both pictures and what each adds to delta-P: no ranking has more of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One judge's view of one experiment."""

    experiment: Experiment
    judge: Judge
    outcomes: Outcomes
    prompts: Rows  # (rows,) prompt of each row of the outcomes
    rankings: Mapping[str, Floats]  # router -> (S, rows)


def case_of(
    experiment: Experiment,
    judge: Judge,
    *,
    predictions: Predictions,
    also: Mapping[str, Floats] | None = None,
) -> Case:
    """Return all rankings of an experiment's test rows, with those that have seen the answers.

    Args:
        predictions: of `fits.fit_all`.
        also: router -> (n,) prs_hat of the experiment's prompts, made elsewhere.
    """
    outcomes, prompts = outcomes_of(experiment, judge)
    said = {
        router: table
        for (key, router, share), table in predictions.items()
        if (key, share) == (experiment.key, 1.0)
    }
    said |= {router: values[None] for router, values in (also or {}).items()}
    rankings = {RANDOM: np.full((1, len(prompts)), HALF)}  # one tie: the mean over all orders
    rankings |= {router: table[:, prompts] for router, table in said.items()}
    if judge.scores.shape[1] > 1:
        rankings[CEILING] = others_mean(outcomes.u_cloud - outcomes.u_edge, prompts)[None]
    rankings[ORACLE] = outcomes.prs[None]
    return Case(experiment=experiment, judge=judge, outcomes=outcomes, prompts=prompts, rankings=rankings)


def others_mean(gain: Floats, prompts: Rows) -> Floats:
    """Return (rows,) a ranking in [0, 1] by the mean gain on the cloud of the prompt's other pictures."""
    index = np.unique(prompts, return_inverse=True)[1]
    sums, counts = np.bincount(index, weights=gain)[index], np.bincount(index)[index]
    others = (sums - gain) / (counts - 1)
    result_: Floats = HALF - HALF * others / (np.abs(others).max() or 1.0)
    return result_


def intraclass(gain: Floats, prompts: Rows) -> float:
    """Return which part of the variance of gains (rows,) belongs to the prompt, not to the single picture.

    Source: one-way analysis of variance, Shrout and Fleiss (1979), ICC(1,1); equal numbers of pictures.
    """
    index = np.unique(prompts, return_inverse=True)[1]
    counts = np.bincount(index)
    means = np.bincount(index, weights=gain) / counts
    pictures = int(counts[0])
    between = pictures * means.var(ddof=1)
    within = float(((gain - means[index]) ** 2).sum()) / (len(gain) - len(means))
    return float(max(0.0, (between - within) / (between + (pictures - 1) * within)))
