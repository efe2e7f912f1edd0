"""The pairs of pictures in the database as a rated set: what `train --from-audit` learns from.

It knows which pairs may stand together; it knows no SQL, no network and no file. Pairs count alike, not by
1/propensity: whether a job got its shadow depends on nothing about its prompt, so scores given a prompt are
unbiased without weights, which would only add noise where the share has changed over time.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from db.pairs import ShadowPair
from routet2i.errors import UsageError
from routet2i.tiers import Tiers
from scheduler.datasets import UNIT, RatedSet
from scheduler.folds import near_duplicates
from scheduler.predictor.examples import Labels
from scheduler.prs import normalised

NAME = "audit"


def rated_pairs(found: Sequence[ShadowPair], *, tiers: Tiers, weights: Mapping[str, float]) -> RatedSet:
    """Return what both routed tiers' models of today made of each prompt, (n, 2, N), edge first.

    Several pairs of one prompt are averaged. Left out, and counted as `dropped`, are prompts whose pairs are
    all of other tiers or models than the routed ones, or lack a metric.

    Args:
        found: of `Repository.shadow_pairs`.
        weights: metric -> weight of the deployment; all these metrics are learned.
    Raises:
        UsageError: no pair is left; says how pairs come about.
    """
    models = {name: tiers[name].model for name in (tiers.edge, tiers.cloud)}
    metrics = tuple(weights)
    rows: dict[str, list[list[list[float]]]] = {}  # prompt -> pairs, (2, N) each
    for one in found:
        if _is_of(one, models) and _has(one, metrics):
            scores = [[one.sides[tier].scores[metric] for metric in metrics] for tier in models]
            rows.setdefault(one.prompt, []).append(scores)
    if not rows:
        raise UsageError(
            f"of {len(found)} pairs of pictures in the database none is of {' and '.join(models.values())} "
            f"with all of {len(metrics)} metrics; set ROUTET2I_SHADOW_SHARE=0.05 for the scheduler, so that "
            "every 20th job is drawn on both tiers, and submit prompts; or type: routet2i predictor collect"
        )
    prompts = tuple(rows)
    return RatedSet(
        name=NAME,
        prompts=prompts,
        labels=Labels(
            tiers=tuple(models),
            metrics=metrics,
            scores=np.array([np.mean(rows[prompt], axis=0) for prompt in prompts]),
            weights=normalised(list(weights.values())),
        ),
        groups=near_duplicates(prompts),
        ranges=(UNIT,) * len(metrics),
        dropped=len({one.prompt for one in found} - set(prompts)),
    )


def _is_of(one: ShadowPair, models: Mapping[str, str]) -> bool:
    return {tier: side.model_id for tier, side in one.sides.items()} == dict(models)


def _has(one: ShadowPair, metrics: Iterable[str]) -> bool:
    return all(metric in side.scores for metric in metrics for side in one.sides.values())
