"""Measure the packaged pocket family; the figures of its model card come from here.

Pictures are made and scored by the code that workers run; the inspector says which facts hold. It prints the
figures, writes `reports/pocket.json` and, with --sheet, a contact sheet. It trains nothing.
"""

import argparse
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.stats import spearmanr
from tqdm import tqdm

from routet2i.execution import RenderRequest
from routet2i.figures import Figure, as_table, write_report
from routet2i.metrics import MetricSet, read_metrics
from routet2i.models.generation import as_png, load_generator
from routet2i.models.quality import OpenClipScorer, load_scorer
from routet2i.pocket import data, degradations, folder, world
from routet2i.pocket.inspector import Inspection, inspect, share_by_objects
from routet2i.pocket.losses import to_unit
from routet2i.tiers import TierProfile, packaged, read_tiers

COMMAND = "python -m routet2i.pocket.evaluate"
SEED = 2_026  # of the held-out prompts
CHUNK = 25  # pictures that one process of the inspector takes at once
_LEVELS = np.linspace(0.0, 1.0, 11)  # severities of one metric's own damage
_SCENES_PER_METRIC = 40
_SHEET_ROWS = 12

Picture = NDArray[np.uint8]


def generate(profile: TierProfile, captions: Sequence[world.Caption], *, device: str) -> list[Picture]:
    """Return one picture (64, 64, 3) per caption, made by the tier's own generator, seeds 0, 1, 2 ..."""
    generator = load_generator(profile, device=device)
    requests = [
        RenderRequest(
            prompt=caption.text, negative_prompt=None, seed=seed, width=profile.width, height=profile.height
        )
        for seed, caption in enumerate(captions)
    ]
    pictures: list[Picture] = []
    for start in tqdm(range(0, len(requests), profile.microbatch_size), desc=profile.name):
        for made in generator.generate(requests[start : start + profile.microbatch_size]):
            if isinstance(made, Exception):
                raise made
            pictures.append(np.asarray(Image.open(io.BytesIO(made))))
    return pictures


def inspections(pictures: Sequence[Picture], captions: Sequence[world.Caption]) -> list[Inspection]:
    """Return what the inspector says of each picture; of many, in several processes."""
    facts = [caption.facts for caption in captions]
    if len(pictures) <= CHUNK:  # one process would get them all, and take longer to start
        return list(map(_inspect, pictures, facts))
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return list(pool.map(_inspect, pictures, facts, chunksize=CHUNK))


def _inspect(picture: Picture, facts: tuple[world.Fact, ...]) -> Inspection:
    return inspect(picture, facts=facts)


def share(found: Sequence[Inspection], *, kind: str | None = None) -> float:
    """Return the share of all facts, or of one kind's, that hold."""
    holds = [
        h for i in found for f, h in zip(i.facts, i.holds, strict=True) if kind is None or f.kind == kind
    ]
    return float(np.mean(holds))


def share_of_objects(
    found: Sequence[Inspection], captions: Sequence[world.Caption], *, at_least: int, at_most: int
) -> float:
    """Return the share of facts that hold in scenes of a range of numbers of objects."""
    return share(
        [i for i, c in zip(found, captions, strict=True) if at_least <= len(c.scene.things) <= at_most]
    )


@torch.inference_mode()
def reconstruct(pictures: Sequence[Picture], *, device: str) -> list[Picture]:
    """Return pictures after the packaged autoencoder."""
    model = AutoencoderKL.from_pretrained(str(folder("cloud")), subfolder="vae", dtype=torch.float32)
    model = model.to(device).eval()
    out: list[Picture] = []
    for part in torch.from_numpy(np.stack(pictures)).split(50):
        decoded = model.decode(model.encode(to_unit(part.to(device))).latent_dist.mode()).sample
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        out += list(pixels.permute(0, 2, 3, 1).cpu().numpy())
    return out


def inspector_figures(captions: Sequence[world.Caption], *, device: str) -> Iterator[Figure]:
    """Yield the inspector's own accuracy, on rendered pictures and after the autoencoder."""
    rng = np.random.default_rng([SEED, 7])
    rendered = [world.render(caption.scene, rng=rng) for caption in captions]
    bars = (
        ("rendered", rendered, 0.99),
        ("after the autoencoder", reconstruct(rendered, device=device), 0.97),
    )
    for name, pictures, bar in bars:
        value = share(inspections(pictures, captions))
        yield _figure(f"facts the inspector reads, pictures {name}", value, target=bar)


def fidelity_figures(
    captions: Sequence[world.Caption], found: Mapping[str, Sequence[Inspection]]
) -> Iterator[Figure]:
    """Yield the share of facts that hold, per tier: by number of objects, by kind, against the targets."""
    numbers = [len(caption.scene.things) for caption in captions]
    for tier, seen in found.items():
        yield _figure(f"{tier}: all facts", share(seen), target=0.90 if tier == "cloud" else None)
        for objects, value in sorted(share_by_objects(zip(numbers, seen, strict=True)).items()):
            wanted = 0.85 if (tier, objects) == ("edge", 1) else None
            yield _figure(f"{tier}: facts, {objects} object{'s' * (objects > 1)}", value, target=wanted)
        for kind in world.FACT_KINDS:
            yield _figure(f"{tier}: {kind} facts", share(seen, kind=kind))
    gap = share_of_objects(found["cloud"], captions, at_least=3, at_most=5)
    gap -= share_of_objects(found["edge"], captions, at_least=3, at_most=5)
    yield _figure("cloud less edge, 3 objects or more", gap, target=0.10)


def metric_figures(metrics: MetricSet, scorer: OpenClipScorer) -> Iterator[Figure]:
    """Yield, per metric, the mean Spearman correlation of its score with the absence of its own damage."""
    rng = np.random.default_rng([SEED, 8])
    for metric in metrics.metrics:
        scores = np.zeros((_SCENES_PER_METRIC, len(_LEVELS)))
        for row in range(_SCENES_PER_METRIC):
            scene = data.sample_scene(rng, held_out=True)
            seed = int(rng.integers(2**31))
            damaged = [
                as_png(degradations.degrade(metric.name, scene, float(s), rng=np.random.default_rng(seed)))
                for s in _LEVELS
            ]
            scores[row] = [s[metric.name] for s in scorer.score(damaged, ["a picture"] * len(damaged))]
        falls = float(np.mean([-spearmanr(_LEVELS, row).statistic for row in scores]))
        yield _figure(f"{metric.name} falls with its own damage", falls, target=0.8, unit="Spearman")


def alignment_figures(
    captions: Sequence[world.Caption],
    made: Mapping[str, Sequence[Picture]],
    found: Mapping[str, Sequence[Inspection]],
    *,
    scorer: OpenClipScorer,
) -> Iterator[Figure]:
    """Yield, per tier, how far alignment follows the share of a picture's facts that hold."""
    for tier, pictures in made.items():
        scored = scorer.score([as_png(one) for one in pictures], [caption.text for caption in captions])
        shares = [one.share for one in found[tier]]
        follows = float(np.corrcoef([one["alignment"] for one in scored], shares)[0, 1])
        yield _figure(f"{tier}: alignment follows the inspector", follows, unit="correlation")


def write_sheet(
    path: Path, captions: Sequence[world.Caption], made: Mapping[str, Sequence[Picture]], *, scale: int = 2
) -> None:
    """Write a contact sheet: per column of three rendered truth, edge, cloud; 1 to 5 objects in turn."""
    rng = np.random.default_rng([SEED, 9])
    columns = 5
    size, head = 64 * scale, 16
    sheet = Image.new("RGB", (columns * (3 * size + 8), head + (_SHEET_ROWS // 2) * (size + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        for k, title in enumerate(("scene", "edge", "cloud")):
            draw.text((column * (3 * size + 8) + k * size + 4, 2), title, fill="black")
        for row in range(_SHEET_ROWS // 2):
            index = row * columns + column
            truth = world.render(captions[index].scene, rng=rng)
            for k, picture in enumerate((truth, made["edge"][index], made["cloud"][index])):
                at = (column * (3 * size + 8) + k * size, head + row * (size + 4))
                sheet.paste(Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST), at)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def _figure(name: str, value: float, *, target: float | None = None, unit: str = "share") -> Figure:
    return Figure(
        figure=name,
        value=round(value, 4),
        unit=unit,
        baseline="",
        target="" if target is None else f"at least {target:g}",
        holds=None if target is None else value >= target,
        command=COMMAND,
    )


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="held-out prompts")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--report", type=Path, default=Path("reports/pocket.json"))
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG) here")
    args = parser.parse_args()
    device = "cuda" if args.device == "auto" and torch.cuda.is_available() else args.device
    device = "cpu" if device == "auto" else device
    captions = data.held_out_prompts(seed=SEED, count=args.count)
    tiers = read_tiers(packaged("pocket"))
    make = partial(generate, captions=captions, device=device)
    made = {name: make(tiers[name]) for name in ("edge", "cloud")}
    found = {tier: inspections(pictures, captions) for tier, pictures in made.items()}
    metrics = read_metrics(packaged("metrics"))
    scorer = load_scorer(metrics, model="pocket:clip", device=device)
    figures = [
        *inspector_figures(captions, device=device),
        *fidelity_figures(captions, found),
        *metric_figures(metrics, scorer),
        *alignment_figures(captions, made, found, scorer=scorer),
    ]
    write_report(args.report, figures)
    print(as_table(figures))  # noqa: T201 - the command's output
    if args.sheet:
        write_sheet(args.sheet, captions, made)


if __name__ == "__main__":
    main()
