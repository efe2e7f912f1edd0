"""Training and evaluation data of the pocket family: rendered scenes, captions, graded damage.

All of it is procedural and seeded, drawn by several processes and cached as .npy files. A sixteenth of all
scenes, chosen by a hash of their content, is held out: training never sees them, evaluation sees nothing
else. It knows pictures, texts and numbers, and no network.
"""

import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from routet2i.pocket import degradations, world

HELD_OUT_SHARE = 16  # one scene in so many
CAPTIONS_PER_SCENE = 4
_CHUNK = 500

Arrays = dict[str, NDArray]


def is_held_out(scene: world.Scene) -> bool:
    """Return whether evaluation owns this scene, whatever the order of its objects."""
    text = scene.background + "|" + ";".join(sorted(map(str, scene.things)))
    return zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0


def sample_scene(rng: np.random.Generator, *, held_out: bool, objects: int | None = None) -> world.Scene:
    """Return a scene of the training part or of the held-out part."""
    while True:
        scene = world.sample_scene(rng, objects=objects)
        if is_held_out(scene) is held_out:
            return scene


def held_out_prompts(*, seed: int, count: int) -> list[world.Caption]:
    """Return captions of held-out scenes, 1 to 5 objects in turn, so that each number is equally frequent."""
    rng = np.random.default_rng([seed, 1])
    scenes = [
        sample_scene(rng, held_out=True, objects=1 + index % world.MAX_OBJECTS) for index in range(count)
    ]
    return [world.write_caption(scene, rng=rng) for scene in scenes]


def scenes_table(scene: world.Scene) -> NDArray[np.uint8]:
    """Return what stands where: (28,) background, then shape, colour, size per cell (0 = empty)."""
    table = np.zeros(1 + 3 * len(world.PLACES), dtype=np.uint8)
    table[0] = list(world.BACKGROUNDS).index(scene.background)
    for thing in scene.things:
        at = 1 + 3 * list(world.PLACES).index(thing.place)
        table[at] = 1 + list(world.SHAPES).index(thing.shape)
        table[at + 1] = 1 + list(world.COLOURS).index(thing.colour)
        table[at + 2] = 1 + list(world.SIZES).index(thing.size)
    return table


def _draw_scenes(chunk: int, *, seed: int) -> tuple[Arrays, list[str]]:
    rng = np.random.default_rng([seed, 2, chunk])
    pictures, tables, texts = [], [], []
    for _ in range(_CHUNK):
        scene = sample_scene(rng, held_out=False)
        pictures.append(world.render(scene, rng=rng))
        tables.append(scenes_table(scene))
        texts += [world.write_caption(scene, rng=rng).text for _ in range(CAPTIONS_PER_SCENE)]
        texts.append(world.write_caption(world.altered(scene, rng=rng), rng=rng).text)
    return {"pictures": np.stack(pictures), "tables": np.stack(tables)}, texts


def _draw_damaged(chunk: int, *, seed: int) -> tuple[Arrays, list[str]]:
    rng = np.random.default_rng([seed, 3, chunk])
    names = list(degradations.DEGRADATIONS)
    pictures, metrics, severities = [], [], []
    for index in range(_CHUNK):
        scene, metric = sample_scene(rng, held_out=False), index % len(names)
        severity = float(rng.random())
        pictures.append(degradations.degrade(names[metric], scene, severity, rng=rng))
        metrics.append(metric)
        severities.append(severity)
    return {
        "pictures": np.stack(pictures),
        "metrics": np.array(metrics, dtype=np.int64),
        "severities": np.array(severities, dtype=np.float32),
    }, []


Encode = Callable[[Sequence[str]], NDArray[np.int64]]  # texts -> (B, 77) token ids


def training_scenes(*, seed: int, count: int, cache: Path, encode: Encode) -> Arrays:
    """Return rendered training scenes.

    Returns:
        `pictures` (N, 64, 64, 3) uint8, `tables` (N, 28) uint8 (see `scenes_table`), `tokens`
        (N, 5, 77) int16: four captions of the scene and, last, one of an altered scene (a hard negative).
    """
    return _cached("scenes", _draw_scenes, seed=seed, count=count, cache=cache, encode=encode)


def damaged_pictures(*, seed: int, count: int, cache: Path) -> Arrays:
    """Return damaged training pictures.

    Returns:
        `pictures` (N, 64, 64, 3) uint8, `metrics` (N,) index of the damage, `severities` (N,) in [0, 1].
    """
    return _cached("damaged", _draw_damaged, seed=seed, count=count, cache=cache, encode=None)


def _cached(
    name: str,
    draw: Callable[..., tuple[Arrays, list[str]]],
    *,
    seed: int,
    count: int,
    cache: Path,
    encode: Encode | None,
) -> Arrays:
    folder = cache / f"{name}-{seed}-{count}"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        chunks = range(-(-count // _CHUNK))
        # spawn: torch may already run threads in this process, and a fork would inherit their locks
        with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(partial(draw, seed=seed), chunks))
        for key in parts[0][0]:
            np.save(folder / f"{key}.npy", np.concatenate([part[0][key] for part in parts])[:count])
        if encode is not None:
            tokens = np.concatenate([encode(part[1]).astype(np.int16) for part in parts])
            tokens = tokens.reshape(-1, CAPTIONS_PER_SCENE + 1, tokens.shape[-1])[:count]
            np.save(folder / "tokens.npy", tokens)
        (folder / "complete").touch()
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
