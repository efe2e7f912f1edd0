"""Experiments on what people said of pictures: GenAI-Bench and AGIQA-3K, from a folder the caller names.

Grouped folds, so that near-duplicate prompts never stand on both sides. The sets are not part of the package
and nothing that ships depends on them. It knows which pairs make sense; it fits nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from scheduler.datasets import AGIQA_MODELS, RatedSet, read_agiqa3k, read_genai_bench
from scheduler.predictor.encoders import MINILM
from scheduler.predictor.examples import Features, Labels
from scheduler.routing.experiment import Experiment, Judge, cross_validation
from scheduler.routing.states import features_of

PART = "rated"
FOLDS = 5
CURVE = (0.1, 0.25, 0.5)  # shares of the training prompts; the whole is fitted anyway
FEW_SEEDS = 2  # of learning curves, and of pairs that no target hangs on
GENAI, AGIQA = "genai_bench_1600", "agiqa3k"
GENAI_PAIRS = (  # the first and the second have a target; the others are the specification's, and near noise
    ("SDXL_Turbo", "DALLE_3"),
    ("SDXL_2_1", "SDXL_Base"),
    ("SDXL_Base", "DALLE_3"),
    ("SDXL_Turbo", "SDXL_Base"),
)
AGIQA_TIERS = tuple(
    model for model in AGIQA_MODELS if model != "DALLE2"
)  # it lacks ten prompts, and no pair has it
AGIQA_PAIRS = (("sd1.5", "xl2.2"), ("sd1.5", "midjourney"))
LEADING = (
    (GENAI, ("SDXL_Turbo", "DALLE_3")),
    (GENAI, ("SDXL_2_1", "SDXL_Base")),
    (AGIQA, ("sd1.5", "xl2.2")),
)


def rated_experiments(
    folder: Path, *, encoders: Sequence[str] = (MINILM,), cache: Path, seeds: int
) -> list[Experiment]:
    """Return one experiment per pair and metric.

    Args:
        folder: holds genai_bench_1600 and agiqa3k.
        encoders: ids whose token states some router reads.
        cache: folder of token states.
        seeds: how often each router is trained, each time on other folds; at most FEW_SEEDS for lesser pairs.
    Raises:
        UsageError: a file cannot be read; says which and why.
    """
    found = []
    for rated, pairs in (
        (read_genai_bench(folder / GENAI), GENAI_PAIRS),
        (read_agiqa3k(folder / AGIQA, models=AGIQA_TIERS), AGIQA_PAIRS),
    ):
        features = {
            name: features_of(rated.prompts, encoder=name, cache=cache, tags=rated.tags) for name in encoders
        }
        found += [
            rated_experiment(rated, features=features, pair=pair, metric=metric, seeds=seeds)
            for metric in rated.labels.metrics
            for pair in pairs
        ]
    return found


def rated_experiment(
    rated: RatedSet, *, features: dict[str, Features], pair: tuple[str, str], metric: str, seeds: int
) -> Experiment:
    """Return one metric of one pair of a rated set; all tiers' scores are there for whom they help."""
    column = rated.labels.metrics.index(metric)
    one = Labels(
        tiers=rated.labels.tiers,
        metrics=(metric,),
        scores=rated.labels.scores[..., [column]],
        weights=np.ones(1),
    )
    labels = one.pair(*pair)
    others = [tier for tier in rated.labels.tiers if tier not in pair]
    order = [one.tiers.index(tier) for tier in (pair[0], *others, pair[1])]
    every = replace(one, tiers=(pair[0], *others, pair[1]), scores=one.scores[:, order])
    low, high = rated.ranges[column]
    ends = [rated.labels.tiers.index(tier) for tier in pair]
    leading = (rated.name, pair) in LEADING and column == 0
    return Experiment(
        part=PART,
        name=f"{rated.name} {metric}",
        pair=" -> ".join(pair),
        features=features,
        labels=labels,
        every_tier=every,
        groups=rated.groups,
        splits=cross_validation(rated.groups, folds=FOLDS, seeds=seeds if leading else min(seeds, FEW_SEEDS)),
        judges=(
            Judge(
                name="people",
                metrics=(metric,),
                weights=np.ones(1),
                scores=labels.scores[:, None],
                unit=f"mean {metric} rating",
                stretch=(low, high),
            ),
        ),
        ratings=None if rated.ratings is None else rated.ratings[:, ends],
        leading=leading,
    )
