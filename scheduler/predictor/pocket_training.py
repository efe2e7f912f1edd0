"""Train the packaged pocket predictor: `python -m scheduler.predictor.pocket_training`.

It fits the network to the table that `pocket_world` wrote and writes the artefact, the picture of its losses
and its card beside the table. What it is worth is measured by `make routing`. It draws no picture.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from routet2i.metrics import read_metrics
from routet2i.tiers import Tiers, packaged, read_tiers
from scheduler.predictor.encoders import load_encoder
from scheduler.predictor.examples import Features, Labels
from scheduler.predictor.fitting import Recipe, Source, fit
from scheduler.predictor.loss_plot import draw_losses
from scheduler.predictor.network import NetworkConfig
from scheduler.predictor.trained import Epoch, Trained
from scheduler.prs import normalised

ENCODER = "pocket:edge@0+1+2+3+4"  # all layers of the edge tier's text tower side by side (DECISIONS 29)
RECIPE = Recipe(network=NetworkConfig(members=1, dropout=0.3), epochs=16, prs_weight=0.3, wording=False)
COMMAND = "python -m scheduler.predictor.pocket_training"
SEED = 1
TABLE = "measurements.npz"


def train(table: Path, *, tiers: Tiers, seed: int) -> Trained:
    """Return a predictor fitted to all training prompts of a table."""
    metrics = read_metrics(packaged("metrics"))
    with np.load(table) as file:
        prompts = tuple(map(str, file["train_prompts"]))
        columns = [list(file["metrics"]).index(name) for name in metrics.names]
        scores = file["train_scores"].astype(np.float64)[..., columns]
    encoder = load_encoder(ENCODER, tiers=tiers)
    tokens, offsets = encoder.encode(prompts)
    bar = tqdm(unit="epoch")

    def tell(epoch: Epoch) -> None:
        bar.update()
        bar.set_postfix(member=epoch.member, train=epoch.train, validation=epoch.validation)

    pair = (tiers.edge, tiers.cloud)
    return fit(
        Features(prompts=prompts, tokens=tokens, offsets=offsets),
        Labels(
            tiers=pair,
            metrics=metrics.names,
            scores=scores,
            weights=normalised([metrics.weights[name] for name in metrics.names]),
        ),
        groups=np.arange(len(prompts)),  # templates: words tell no near-duplicates, every scene stands alone
        seed=seed,
        recipe=RECIPE,
        source=Source(
            encoder=encoder.name,
            encoder_sha256=encoder.fingerprint,
            models={name: tiers[name].model for name in pair},
        ),
        progress=tell,
    )


def card(trained: Trained) -> str:
    """Return the artefact's card as Markdown."""
    return f"""# Predictor {trained.version}: the pocket pair
The packaged predictor of the main job: how much better the pocket cloud tier draws a prompt of the shape
world than the pocket edge tier, metric by metric.

* **Data:** {trained.prompts} prompts of the shape world's training part, one picture of each tier, scored by
  the packaged judge: `{TABLE}`, made by `python -m scheduler.predictor.pocket_world`. The table also holds
  the inspector's verdicts and held-out prompts with two pictures each; neither was learned from.
* **Made by:** `{COMMAND}`, seed {trained.seed}.
* **Encoder:** `{trained.encoder}`, frozen; {trained.parameters} trained numbers.
* **What it is worth:** docs/routing.md, printed by `make routing`.

![Losses](loss.png)

## What it is not for
Prompts that are not about coloured shapes, and other models than the pocket pair: train your own with
`routet2i predictor collect` and `train`, or begin with the packaged `cold_start`.
"""


def main() -> None:
    """Read the command line, train, write, and say what came out."""
    folder = Path(__file__).parent / "weights" / "pocket"
    parser = argparse.ArgumentParser(
        prog="python -m scheduler.predictor.pocket_training", description=__doc__
    )
    parser.add_argument("--table", type=Path, default=folder / TABLE)
    parser.add_argument("--output", type=Path, default=folder)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    trained = train(args.table, tiers=read_tiers(packaged("pocket")), seed=args.seed)
    trained.write(args.output)
    draw_losses(trained.history, args.output / "loss.png")
    (args.output / "README.md").write_text(card(trained), encoding="utf-8")
    print(f"version {trained.version}, {trained.parameters} trained numbers, in {args.output}")  # noqa: T201


if __name__ == "__main__":
    main()
