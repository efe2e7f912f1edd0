"""Experiments across rated sets: learn from one, be judged on another, as on a new user's first day.

Other prompts, other models, other raters, sometimes another question. Every pair is routed by what was
learned from one pair of GenAI-Bench. It knows which sets and pairs these are; it fits nothing.
"""

from pathlib import Path

import numpy as np

from scheduler.datasets import RatedSet, read_agiqa3k, read_genai_bench, read_tifa160
from scheduler.predictor.examples import Labels
from scheduler.routing.experiment import Experiment, Judge, Split
from scheduler.routing.rated import AGIQA, AGIQA_TIERS, GENAI
from scheduler.routing.states import features_of

PART = "unseen"
TIFA = "tifa160"
LEARNED = ("SDXL_Turbo", "DALLE_3")  # the pair with the clearest signal
COMPETING = ("noun_count", "prompt_length", "knn", "ridge")
TESTED = (  # set, metric, edge, cloud
    (TIFA, "human", "stable_diffusion_v1_1", "stable_diffusion_v2_1"),
    (TIFA, "human", "mini_dalle", "stable_diffusion_v2_1"),
    (AGIQA, "align", "sd1.5", "xl2.2"),
    (AGIQA, "align", "sd1.5", "midjourney"),
    (AGIQA, "quality", "sd1.5", "xl2.2"),
)


def unseen_experiments(folder: Path, *, encoders: list[str], cache: Path, seeds: int) -> list[Experiment]:
    """Return one experiment per tested pair; they learn from all of GenAI-Bench.

    Args:
        folder: holds genai_bench_1600, agiqa3k and tifa160.
        encoders: ids whose token states some router reads.
        cache: folder of token states.
        seeds: how often each router is trained.
    Raises:
        UsageError: a file cannot be read; says which and why.
    """
    learned = read_genai_bench(folder / GENAI)
    sets = {
        TIFA: read_tifa160(folder / TIFA, metrics=("human",)),
        AGIQA: read_agiqa3k(folder / AGIQA, models=AGIQA_TIERS),
    }
    found = []
    for name, metric, edge, cloud in TESTED:
        found.append(
            _experiment(
                learned,
                sets[name],
                metric=metric,
                pair=(edge, cloud),
                encoders=encoders,
                cache=cache,
                seeds=seeds,
            )
        )
    return found


def _experiment(
    learned: RatedSet,
    tested: RatedSet,
    *,
    metric: str,
    pair: tuple[str, str],
    encoders: list[str],
    cache: Path,
    seeds: int,
) -> Experiment:
    first = learned.labels.pair(*LEARNED).scores  # (n, 2, 1)
    column = tested.labels.metrics.index(metric)
    second = tested.labels.pair(*pair).scores[..., [column]]  # (m, 2, 1)
    scores = np.concatenate([first, second])
    split = Split(train=np.arange(len(first)), test=len(first) + np.arange(len(second)))
    prompts = (*learned.prompts, *tested.prompts)
    return Experiment(
        part=PART,
        name=f"{learned.name} to {tested.name} {metric}",
        pair=" -> ".join(pair),
        features={name: features_of(prompts, encoder=name, cache=cache) for name in encoders},
        labels=Labels(tiers=("edge", "cloud"), metrics=(metric,), scores=scores, weights=np.ones(1)),
        groups=np.concatenate([learned.groups, learned.groups.max() + 1 + tested.groups]),
        splits=((split,),) * seeds,
        judges=(
            Judge(
                name="people",
                metrics=(metric,),
                weights=np.ones(1),
                scores=scores[:, None],
                unit=f"mean {metric} rating",
                stretch=tested.ranges[column],
            ),
        ),
        leading=False,
    )
