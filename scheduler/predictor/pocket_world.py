"""Measure both pocket tiers on the shape world: `python -m scheduler.predictor.pocket_world`.

Training prompts describe scenes of the training part, test prompts held-out scenes; both tiers draw each,
the scorer judges the pictures, and the inspector says which share of the prompt's facts holds. The table it
writes is what the packaged predictor is trained on and judged by. It knows the packaged pair; it fits
nothing.
"""

import argparse
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from routet2i.execution import Generator, Scorer
from routet2i.metrics import read_metrics
from routet2i.pocket import data, world
from routet2i.pocket.inspector import inspect
from routet2i.tiers import packaged, read_tiers
from scheduler.predictor.collecting import Request, collect

SEED = 77
TEST_SEED = 4_242  # of the held-out prompts: others than those the pocket family was judged by
INSPECTOR = "inspector"  # name of the ground truth among the metrics
CHUNK = 64  # prompts that one process draws at a time

Tables = Mapping[str, NDArray[np.float32]]


def training_captions(*, count: int, seed: int = SEED) -> list[world.Caption]:
    """Return captions of scenes that are not held out, 1 to 5 objects in turn."""
    rng = np.random.default_rng([seed, 1])
    scenes = [data.sample_scene(rng, held_out=False, objects=1 + k % world.MAX_OBJECTS) for k in range(count)]
    return [world.write_caption(scene, rng=rng) for scene in scenes]


def test_captions(*, count: int) -> list[world.Caption]:
    """Return captions of held-out scenes, 1 to 5 objects in turn."""
    return data.held_out_prompts(seed=TEST_SEED, count=count)


def metric_names() -> tuple[str, ...]:
    """Return the packaged metrics' names and, last, the inspector's."""
    return (*read_metrics(packaged("metrics")).names, INSPECTOR)


def measure(captions: Sequence[world.Caption], *, first_seed: int, processes: int) -> NDArray[np.float32]:
    """Return (n, 2, N) scores of edge and cloud; N names as in `metric_names`.

    Noise seeds are `first_seed`, `first_seed` + 1 ... Each process draws with one thread: on a CPU that is
    the fastest way to share cores.
    """
    parts = [captions[start : start + CHUNK] for start in range(0, len(captions), CHUNK)]
    seeds = [first_seed + start for start in range(0, len(captions), CHUNK)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        done = tqdm(pool.map(_measure_part, parts, seeds), total=len(parts), unit="chunk")
        return np.concatenate(list(done))


@cache
def _models() -> tuple[Mapping[str, Generator], Scorer]:
    """Load the packaged pair and its judge, once per process."""
    import torch

    from routet2i.models.generation import load_generator
    from routet2i.models.quality import load_scorer

    torch.set_num_threads(1)
    tiers = read_tiers(packaged("pocket"))
    generators = {name: load_generator(profile, device="cpu") for name, profile in tiers.profiles.items()}
    return generators, load_scorer(read_metrics(packaged("metrics")), model="pocket:clip", device="cpu")


def _measure_part(captions: Sequence[world.Caption], first_seed: int) -> NDArray[np.float32]:
    tiers, names = read_tiers(packaged("pocket")), metric_names()
    generators, scorer = _models()
    requests = [Request(prompt=c.text, seed=first_seed + k) for k, c in enumerate(captions)]
    scores = np.zeros((len(captions), 2, len(names)), dtype=np.float32)

    def judge(row: int, picture: bytes) -> Mapping[str, float]:
        pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
        return {INSPECTOR: inspect(pixels, facts=captions[row].facts).share}

    for column, tier in enumerate((tiers.edge, tiers.cloud)):
        for one in collect(
            requests, profile=tiers[tier], generator=generators[tier], scorer=scorer, judge=judge
        ):
            scores[one.row, column] = [one.scores[name] for name in names]
    return scores


def main() -> None:
    """Read the command line, draw, judge, write."""
    parser = argparse.ArgumentParser(prog="python -m scheduler.predictor.pocket_world", description=__doc__)
    parser.add_argument("--train", type=int, default=6_000, help="training prompts")
    parser.add_argument("--test", type=int, default=1_000, help="held-out prompts")
    parser.add_argument("--repeats", type=int, default=2, help="pictures per held-out prompt")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, required=True, help="a .npz file")
    args = parser.parse_args()
    train, test = training_captions(count=args.train), test_captions(count=args.test)
    repeated = [
        measure(test, first_seed=1_000_000 * (1 + k), processes=args.processes) for k in range(args.repeats)
    ]
    scores = measure(train, first_seed=0, processes=args.processes)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        args.output,
        train_prompts=np.array([caption.text for caption in train]),
        train_scores=scores,
        test_prompts=np.array([caption.text for caption in test]),
        test_scores=np.stack(repeated, axis=1),  # (n, repeats, 2, N)
        metrics=np.array(metric_names()),
    )


if __name__ == "__main__":
    main()
