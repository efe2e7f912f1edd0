"""Fit a predictor on paired pictures: `python -m scheduler.predictor.training`.

Both tiers draw the same training prompts, the scorer judges the pictures, and the noun-count table is fitted
on the scores. It knows the packaged pocket pair and its prompts; the fit itself is in `noun_count`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from routet2i.metrics import MetricSet, read_metrics
from routet2i.models.generation import as_png
from routet2i.models.quality import load_scorer
from routet2i.pocket import data, world
from routet2i.pocket.evaluate import generate
from routet2i.tiers import Tiers, packaged, read_tiers
from scheduler.predictor.interface import packaged_artefact
from scheduler.predictor.noun_count import count_nouns, fit_noun_count, write_artefact

SEED = 77


def training_prompts(*, count: int) -> list[world.Caption]:
    """Return captions of scenes that are not held out, 1 to 5 objects in turn."""
    rng = np.random.default_rng([SEED, 1])
    scenes = [data.sample_scene(rng, held_out=False, objects=1 + k % world.MAX_OBJECTS) for k in range(count)]
    return [world.write_caption(scene, rng=rng) for scene in scenes]


def measure(
    captions: Sequence[world.Caption], *, tiers: Tiers, metrics: MetricSet, device: str
) -> dict[str, NDArray[np.float64]]:
    """Return tier -> (n, N) measured scores of one picture per caption; N names as in `metrics.names`."""
    scorer = load_scorer(metrics, model="pocket:clip", device=device)
    prompts = [caption.text for caption in captions]
    scores = {}
    for name in (tiers.edge, tiers.cloud):
        pictures = [as_png(picture) for picture in generate(tiers[name], captions, device=device)]
        rows = scorer.score(pictures, prompts)
        scores[name] = np.array([[row[metric] for metric in metrics.names] for row in rows])
    return scores


def main() -> None:
    """Read the command line, draw, score, fit, write, and say how well the count ranks."""
    parser = argparse.ArgumentParser(prog="python -m scheduler.predictor.training", description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="training prompts")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=packaged_artefact())
    args = parser.parse_args()
    tiers, metrics = read_tiers(packaged("pocket")), read_metrics(packaged("metrics"))
    captions = training_prompts(count=args.count)
    scores = measure(captions, tiers=tiers, metrics=metrics, device=args.device)
    prompts = [caption.text for caption in captions]
    artefact = fit_noun_count(
        prompts,
        q_edge=scores[tiers.edge],
        q_cloud=scores[tiers.cloud],
        metrics=metrics.names,
        weights=[metrics.weights[name] for name in metrics.names],
        pair={"edge": tiers[tiers.edge].model, "cloud": tiers[tiers.cloud].model},
        metrics_sha256=metrics.sha256,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_artefact(artefact, args.output)
    gain = (scores[tiers.cloud] - scores[tiers.edge]).mean(axis=1)
    rank = spearmanr([count_nouns(prompt) for prompt in prompts], gain).statistic
    for name, edge, cloud in zip(
        metrics.names, scores[tiers.edge].mean(0), scores[tiers.cloud].mean(0), strict=True
    ):
        print(f"{name:<12} edge {edge:.3f}  cloud {cloud:.3f}")  # noqa: T201 - the command's output
    print(f"version {artefact['version']}, Spearman of nouns and cloud gain {rank:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
