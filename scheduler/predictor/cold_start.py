"""Fit the packaged predictor for natural prompts: `python -m scheduler.predictor.cold_start --data DIR`.

It reads three openly licensed sets of human ratings, fits one predictor of how hard a prompt is, and writes
its folder with a card. What it is worth is measured with each set left out in turn, on pairs of that set's
models, beside rules and a ridge regression that learnt from the same sets. It knows those sets by name; the
labels are made in `difficulty`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scheduler.datasets import RatedSet, read_agiqa3k, read_genai_bench, read_tifa160
from scheduler.evaluation import evaluate
from scheduler.intervals import Figure
from scheduler.predictor.baselines import Ridge, noun_count, prompt_length
from scheduler.predictor.difficulty import Pool, difficulty_pool, pair_pool
from scheduler.predictor.encoders import load_encoder
from scheduler.predictor.examples import Features, Floats, Labels, Rows
from scheduler.predictor.fitting import Recipe, Source, fit
from scheduler.predictor.interface import WEIGHTS_FOLDER
from scheduler.predictor.network import NetworkConfig
from scheduler.predictor.routers import Router
from scheduler.predictor.routet2i import RouteT2IRouter, TokenEncoder
from scheduler.predictor.trained import Trained
from scheduler.predictor.trial import outcomes_of
from scheduler.prs import fit_scale

ENCODER = "minilm@2+4+6"
SEED = 0
FIGURE = "oracle_share@50"
CARD = "README.md"
RECIPE = Recipe(network=NetworkConfig(members=0), least_penalty=100.0)  # DECISIONS 31
AGIQA_MODELS = (
    "DALLE2",
    "sd1.5",
    "xl2.2",
    "midjourney",
)  # without two for which no prompt is easy
TIFA_MODELS = ("mini_dalle", "stable_diffusion_v1_1", "stable_diffusion_v1_5", "stable_diffusion_v2_1")
LIGHT: Mapping[str, Sequence[str]] = {  # the others are large
    "genai_bench_1600": ("SDXL_Turbo", "SDXL_2_1", "SDXL_Base", "DeepFloyd_I_XL_v1"),
    "agiqa3k": ("DALLE2", "sd1.5"),
    "tifa160": TIFA_MODELS[:-1],
}
ROUTERS: Mapping[str, Callable[[], Router]] = {
    "cold_start": lambda: RouteT2IRouter(recipe=RECIPE),
    "ridge on pairs": Ridge,
    "ridge on difficulty": Ridge,
    "prompt_length": prompt_length,
    "noun_count": noun_count,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What routers that never saw a set are worth on one pair of its models."""

    left_out: str  # the set
    metric: str
    edge: str
    cloud: str
    shares: Mapping[str, Figure]  # router -> share of oracle gain at 50 %
    ahead: Figure  # of the first router over the second, paired


def read_sets(data: Path) -> tuple[RatedSet, ...]:
    """Return the three sets; raises UsageError where a file is missing."""
    return (
        read_genai_bench(data / "genai_bench_1600"),
        read_agiqa3k(data / "agiqa3k", models=AGIQA_MODELS),
        read_tifa160(data / "tifa160", models=TIFA_MODELS),
    )


def left_out_rows(sets: Sequence[RatedSet], *, encoder: TokenEncoder) -> list[Row]:
    """Return a row for each left-out set, metric, light and large model of it."""
    rows = []
    for left_out in sets:
        known = [rated for rated in sets if rated is not left_out]
        hard, pairs = difficulty_pool(known), pair_pool(known, light=LIGHT)
        features, asked = _features(hard.prompts, encoder), _features(left_out.prompts, encoder)
        rankings = {
            name: _said(make(), features, pairs if name == "ridge on pairs" else hard, asked)
            for name, make in ROUTERS.items()
        }
        light = [tier for tier in left_out.labels.tiers if tier in LIGHT[left_out.name]]
        rows += [
            _row(left_out, metric=metric, edge=edge, cloud=cloud, rankings=rankings)
            for metric in range(len(left_out.labels.metrics))
            for edge in light
            for cloud in left_out.labels.tiers
            if cloud not in light
        ]
    return rows


def train(sets: Sequence[RatedSet], *, encoder: TokenEncoder) -> Trained:
    """Return the predictor fitted on all sets; it names no models, for it is of none in particular."""
    pool = difficulty_pool(sets)
    return fit(
        _features(pool.prompts, encoder),
        pool.labels,
        groups=pool.groups,
        seed=SEED,
        recipe=RECIPE,
        source=Source(encoder=encoder.name, encoder_sha256=encoder.fingerprint),
    )


def _features(prompts: tuple[str, ...], encoder: TokenEncoder) -> Features:
    tokens, offsets = encoder.encode(prompts)
    return Features(prompts=prompts, tokens=tokens, offsets=offsets)


def _said(router: Router, features: Features, pool: Pool, asked: Features) -> Floats:
    """Return prs_hat (m,) of the prompts asked about, after learning from a pool."""
    router.fit(features, pool.labels, groups=pool.groups, seed=SEED)
    return router.predict(asked).prs_hat


def _row(rated: RatedSet, *, metric: int, edge: str, cloud: str, rankings: Mapping[str, Floats]) -> Row:
    name = rated.labels.metrics[metric]
    pair = rated.labels.pair(edge, cloud)
    labels = Labels(tiers=pair.tiers, metrics=(name,), scores=pair.scores[:, :, [metric]], weights=np.ones(1))
    scale = fit_scale(labels.scores[:, 0], labels.scores[:, -1])
    groups: Rows = rated.groups
    evaluation = evaluate(outcomes_of(labels, scale=scale, groups=groups), rankings, seed=SEED)
    first, second = list(rankings)[:2]
    return Row(
        left_out=rated.name,
        metric=name,
        edge=edge,
        cloud=cloud,
        shares={router: evaluation.figure(router, FIGURE) for router in rankings},
        ahead=evaluation.difference(first, second, FIGURE),
    )


def card(trained: Trained, *, sets: Sequence[RatedSet], rows: Sequence[Row]) -> str:
    """Return the predictor's card as Markdown."""
    prompts = ", ".join(f"{rated.name} {len(rated)}" for rated in sets)
    names = list(ROUTERS)
    head = ["left out", "metric", "edge -> cloud", *names, f"{names[0]} - {names[1]}"]
    lines = [
        [
            row.left_out,
            row.metric,
            f"{row.edge} -> {row.cloud}",
            *(_cell(row.shares[name], interval=name == names[0]) for name in names),
            _cell(row.ahead, interval=True),
        ]
        for row in rows
    ]
    means = [
        [
            f"**mean of {left_out}**",
            metric,
            "",
            *(f"{np.mean([_value(row.shares[name]) for row in some]):.2f}" for name in names),
            f"{np.mean([_value(row.ahead) for row in some]):.2f}",
        ]
        for left_out, metric in dict.fromkeys((row.left_out, row.metric) for row in rows)
        for some in [[row for row in rows if (row.left_out, row.metric) == (left_out, metric)]]
    ]
    table = "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *means, *lines])
    return f"""# Predictor `cold_start` {trained.version}
For natural-language prompts and any pair of models, on the day on which nobody has rated anything yet. It
predicts how hard a prompt is for image models; hard prompts go to the large model. Replace it as soon as
there are scores of your own pair: `routet2i predictor collect`, `train`, `promote`.

## Data, licences, attribution
{trained.prompts} prompts rated by people ({prompts}); no prompt and no rating is contained in these files.

* GenAI-Bench (1600 prompts, six models, three raters): Baiqi Li and others, dataset BaiqiL/GenAI-Bench,
  Apache-2.0; ratings as carried by PKU-YuanGroup/UniWorld-V1 at commit 8403e86.
* AGIQA-3K (its normal settings; {", ".join(AGIQA_MODELS)}): Chunyi Li and others,
  lcysyzxdxc/AGIQA-3k-Database at commit 30ded2b, MIT.
* TIFA160: Yushi Hu and others, Yushi-Hu/tifa at commit 8e37050, Apache-2.0; its Likert ratings: Jaemin Cho
  and others, j-min/DSG at commit 7330119, Apache-2.0.

Labels: a prompt's score on the edge is the mean of all models and metrics of its set, in standard deviations
of that set (0.1 each, 0.5 = usual); its score on the cloud is the same for every prompt. The column
"{names[1]}" predicts the *difference* between light and large models of the same sets instead.

Encoder: {trained.encoder} (all-MiniLM-L6-v2, Apache-2.0), frozen. {trained.parameters} trained numbers:
the linear path alone, its penalty at least {RECIPE.least_penalty:g}: heavier than what suits these sets best.

## What it is worth on sets it never saw
Each set left out in turn, everything fitted on the other two; share of the oracle's gain at 50 % cloud, 95 %
intervals over groups of prompts. 0 = random, 1 = somebody who has seen the ratings, their noise included.

{table}

## Limits
* The gains are small and most single intervals contain zero: expect a few hundredths of the oracle's gain,
  and nothing for a pair whose large model fails at the same prompts.
* PRS 0.5 means nothing for a pair it was not fitted on: it ranks. Let a budget or a cloud share decide.
* The scores of `cloud` are a constant, not a prediction. English prompts only; ratings of 2022 to 2024.

Made by `python -m scheduler.predictor.cold_start`.
"""


def _value(figure: Figure) -> float:
    return np.nan if figure.value is None else figure.value


def _cell(figure: Figure, *, interval: bool) -> str:
    if figure.value is None:
        return figure.note
    if not interval or figure.low is None or figure.high is None:
        return f"{figure.value:.2f}"
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def main() -> None:
    """Read the command line, measure with sets left out, fit on all, write the folder and its card."""
    parser = argparse.ArgumentParser(prog="python -m scheduler.predictor.cold_start", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the rated sets' folders")
    parser.add_argument("--output", type=Path, default=WEIGHTS_FOLDER / "cold_start")
    args = parser.parse_args()
    sets, encoder = read_sets(args.data), load_encoder(ENCODER)
    rows = left_out_rows(sets, encoder=encoder)
    trained = train(sets, encoder=encoder)
    trained.write(args.output)
    text = card(trained, sets=sets, rows=rows)
    (args.output / CARD).write_text(text, encoding="utf-8")
    print(text)  # noqa: T201 - the command's output


if __name__ == "__main__":
    main()
