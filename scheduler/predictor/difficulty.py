"""Pool rated sets of different pictures, raters and scales into one lesson: how hard a prompt is.

Which of two models serves a prompt better hardly carries over from one pair of models to the next; how hard
the prompt is for all of them does, a little. So the light tier's score is what all models of a set got on
average, in standard deviations of that set, and the large tier's is the same for every prompt. It knows rated
sets; it knows no encoder, no network and no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.datasets import RatedSet
from scheduler.folds import near_duplicates
from scheduler.predictor.examples import Floats, Labels, Rows

TIERS = ("edge", "cloud")
METRIC = "human"
MIDDLE, UNIT = 0.5, 0.1  # of the score of a prompt of usual difficulty, and of one standard deviation
LEAD = 0.5  # standard deviations of the large models above the mean of all: 0.43, 0.87, 0.38 in three sets


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Prompts of several sets with labels that mean the same in all of them."""

    prompts: tuple[str, ...]
    labels: Labels  # (n, 2, 1)
    groups: Rows  # (n,) near-duplicates, also of different sets


def difficulty_pool(sets: Sequence[RatedSet]) -> Pool:
    """Return what the sets say about how hard their prompts are: low score of the edge = hard."""
    return _pool(sets, edge=[_standard(_means(rated)) for rated in sets], cloud=None)


def pair_pool(sets: Sequence[RatedSet], *, light: Mapping[str, Sequence[str]]) -> Pool:
    """Return the lesson to be compared with, which carries over worse: light against large models' means.

    Args:
        sets: two or more tiers each.
        light: set's name -> its light models; all others are large.
    """
    edge, cloud = [], []
    for rated in sets:
        is_light = np.array([tier in light[rated.name] for tier in rated.labels.tiers])
        means = _means(rated)
        edge.append(_standard(rated.labels.scores[:, is_light].mean(axis=(1, 2)), like=means))
        cloud.append(_standard(rated.labels.scores[:, ~is_light].mean(axis=(1, 2)), like=means))
    return _pool(sets, edge=edge, cloud=cloud)


def _pool(sets: Sequence[RatedSet], *, edge: Sequence[Floats], cloud: Sequence[Floats] | None) -> Pool:
    prompts = tuple(prompt for rated in sets for prompt in rated.prompts)
    light = np.concatenate(edge)
    large = np.full(len(light), LEAD) if cloud is None else np.concatenate(cloud)
    scores = np.clip(MIDDLE + UNIT * np.stack([light, large], axis=1), 0.0, 1.0)[..., None]
    return Pool(
        prompts=prompts,
        labels=Labels(tiers=TIERS, metrics=(METRIC,), scores=scores, weights=np.ones(1)),
        groups=near_duplicates(prompts),
    )


def _means(rated: RatedSet) -> Floats:
    """Return (n,) the mean of all tiers and metrics."""
    means: Floats = rated.labels.scores.mean(axis=(1, 2))
    return means


def _standard(scores: Floats, *, like: Floats | None = None) -> Floats:
    """Return scores in standard deviations above the mean, both of `like` (None: their own)."""
    like = scores if like is None else like
    standard: Floats = (scores - like.mean()) / max(float(like.std()), np.finfo(np.float64).tiny)
    return standard
