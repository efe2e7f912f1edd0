"""The pocket world's experiments: both packaged tiers drew every prompt, metrics and inspector judged.

Routers learn from training prompts and are valued on held-out scenes, four pictures each: by the metrics of
their profile, and, the decisions being the same, by the inspector. Prompts come from templates, so words tell
no near-duplicates: every scene stands alone. It knows the packaged table and the packaged predictor, and fits
nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from routet2i.metrics import MetricSet, read_metrics
from routet2i.tiers import packaged
from scheduler.predictor.examples import Features, Floats, Labels
from scheduler.predictor.pocket_world import INSPECTOR
from scheduler.prs import normalised
from scheduler.routing.experiment import Experiment, Judge, Split
from scheduler.routing.states import features_of

PART = "pocket"
PAIR = "edge -> cloud"
TRAINING = 3_000  # prompts that all routers learn from; the others train the shipped predictor only
ABLATED = 500  # prompts that the variants learn from: ten of them, five times, in the time of a few
OWN = "its own metrics"
FEWER = "training prompts"  # in the name of the experiment that variants compete in


@dataclass(frozen=True, kw_only=True, slots=True)
class PocketTable:
    """What was measured: 2 tiers, edge first; N metrics, the inspector last."""

    train_prompts: tuple[str, ...]
    train_scores: Floats  # (n, 2, N)
    test_prompts: tuple[str, ...]
    test_scores: Floats  # (m, R, 2, N) of R pictures per prompt and tier
    metrics: tuple[str, ...]

    def head(self, count: int) -> "PocketTable":
        """Return the first `count` prompts of either side."""
        return replace(
            self,
            train_prompts=self.train_prompts[:count],
            train_scores=self.train_scores[:count],
            test_prompts=self.test_prompts[:count],
            test_scores=self.test_scores[:count],
        )


def read_pocket_table(path: Path) -> PocketTable:
    """Read a table that `python -m scheduler.predictor.pocket_world` wrote."""
    with np.load(path) as file:
        return PocketTable(
            train_prompts=tuple(map(str, file["train_prompts"])),
            train_scores=file["train_scores"].astype(np.float64),
            test_prompts=tuple(map(str, file["test_prompts"])),
            test_scores=file["test_scores"].astype(np.float64),
            metrics=tuple(map(str, file["metrics"])),
        )


def pocket_experiments(
    table: PocketTable, *, encoders: Sequence[str], cache: Path, seeds: int
) -> list[Experiment]:
    """Return one experiment per profile, the deciding one first, and that one on fewer prompts for variants.

    Args:
        encoders: ids whose token states some router reads.
        cache: folder of token states.
        seeds: how often each router is trained.
    """
    count = min(TRAINING, len(table.train_prompts))
    prompts = (*table.train_prompts[:count], *table.test_prompts)
    features = {name: features_of(prompts, encoder=name, cache=cache) for name in encoders}
    metrics = read_metrics(packaged("metrics"))
    names = sorted(metrics.profiles, key=lambda name: name != metrics.profile)
    few = min(ABLATED, count)
    return [
        *(
            _experiment(table, metrics, profile=name, features=features, count=count, used=count, seeds=seeds)
            for name in names
        ),
        _experiment(
            table,
            metrics,
            profile=names[0],
            features=features,
            count=count,
            used=few,
            seeds=seeds,
            ablations=True,
        ),
    ]


def _experiment(
    table: PocketTable,
    metrics: MetricSet,
    *,
    profile: str,
    features: Mapping[str, Features],
    count: int,
    used: int,
    seeds: int,
    ablations: bool = False,
) -> Experiment:
    columns = [name for name in table.metrics if metrics.profiles[profile].get(name, 0) > 0]
    weights = normalised([metrics.profiles[profile][name] for name in columns])
    test = count + np.arange(len(table.test_prompts))
    own = _pictures(table, columns, count=count)
    judges = [Judge(name=OWN, metrics=tuple(columns), weights=weights, scores=own)]
    if not ablations:
        inspected = _pictures(table, [INSPECTOR], count=count)
        judges.append(
            Judge(
                name=INSPECTOR,
                metrics=(INSPECTOR,),
                weights=np.ones(1),
                scores=inspected,
                unit="share of facts",
            )
        )
    name = f"pocket world, profile {profile}"
    return Experiment(
        part=PART,
        name=f"{name}, {used} {FEWER}" if ablations else name,
        pair=PAIR,
        features=features,
        labels=Labels(tiers=("edge", "cloud"), metrics=tuple(columns), scores=own[:, 0], weights=weights),
        groups=np.arange(count + len(test)),
        splits=((Split(train=np.arange(used), test=test),),) * seeds,
        judges=tuple(judges),
        leading=not ablations,
        ablations=ablations,
    )


def _pictures(table: PocketTable, names: Sequence[str], *, count: int) -> Floats:
    """Return (count + m, R, 2, len(names)): a training prompt has one picture, told R times."""
    columns = [table.metrics.index(name) for name in names]
    repeats = table.test_scores.shape[1]
    training = np.repeat(table.train_scores[:count, None], repeats, axis=1)
    scores: Floats = np.concatenate([training, table.test_scores])[..., columns]
    return scores
