"""How fast the shipped predictor answers, encoder and network timed apart, on two threads.

It knows artefacts and a clock; it judges no answer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from routet2i.tiers import packaged, read_tiers
from scheduler.predictor.encoders import load_encoder
from scheduler.predictor.examples import Features, Floats, Rows, Tokens
from scheduler.predictor.trained import read_trained
from scheduler.routing.results import Result, rounded

PART = "speed"
THREADS = 2
BATCH = 64
WARM_UP = 3  # batches that are not timed: allocators and caches fill
SINGLES = 100  # prompts asked one by one

Form = Callable[[Features], Floats]  # a network in one executable form: features in, z out


def speed_results(folder: Path, *, prompts: Sequence[str]) -> list[Result]:
    """Return prompts per second in batches of 64, the time of each part, latencies and sizes.

    Args:
        folder: of an artefact; its last part is the name in the table.
        prompts: at least a few batches, distinct.
    Raises:
        ModelError: artefact or encoder cannot be loaded.
    """
    trained = read_trained(folder)
    encoder = load_encoder(trained.encoder, tiers=read_tiers(packaged("pocket")))
    forms: Mapping[str, Form] = {"torch": trained.z}
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        rows: dict[tuple[str, str], float] = {}
        for form, z in forms.items():
            batches = [prompts[i : i + BATCH] for i in range(0, len(prompts) - BATCH + 1, BATCH)]
            for batch in batches[:WARM_UP]:
                _timed(encoder.encode, z, batch)
            parts = np.array([_timed(encoder.encode, z, batch) for batch in batches])  # (batches, 2) seconds
            singles = np.array([_timed(encoder.encode, z, [prompt]) for prompt in prompts[:SINGLES]])
            rows |= {
                (form, "prompts/s in batches of 64"): BATCH * len(parts) / parts.sum(),
                (form, "encoder, ms per prompt"): 1000 * parts[:, 0].mean() / BATCH,
                (form, "network, ms per prompt"): 1000 * parts[:, 1].mean() / BATCH,
            }
            for count, seconds in ((1, singles.sum(axis=1)), (BATCH, parts.sum(axis=1))):
                for percent in (50, 95):
                    rows[form, f"{count} prompts, p{percent}, ms"] = 1000 * float(
                        np.percentile(seconds, percent)
                    )
        rows["size", "tokens per prompt"] = len(encoder.encode(prompts)[0]) / len(prompts)
        rows["size", "trained parameters"] = trained.parameters
        rows["size", "parameters with the encoder"] = trained.parameters + encoder.parameters
    finally:
        torch.set_num_threads(before)
    return [
        Result(
            part=PART,
            data=folder.name,
            judge=f"{THREADS} threads, encoder {trained.encoder}",
            router=form,
            figure=name,
            value=rounded(float(value)),
        )
        for (form, name), value in rows.items()
    ]


def _timed(
    encode: Callable[[Sequence[str]], tuple[Tokens, Rows]], z: Form, prompts: Sequence[str]
) -> tuple[float, float]:
    """Return the seconds of encoder and network."""
    start = time.perf_counter()
    tokens, offsets = encode(prompts)
    encoded = time.perf_counter()
    z(Features(prompts=tuple(prompts), tokens=tokens, offsets=offsets))
    return encoded - start, time.perf_counter() - encoded
