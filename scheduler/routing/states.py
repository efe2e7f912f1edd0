"""Token states of prompts, kept in a folder between runs: encoding costs minutes, reading a second.

A file's name is the hash of the encoder's weights and of the prompts, so a stale one is never read. It knows
encoders and files, no score.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from routet2i.tiers import packaged, read_tiers
from scheduler.predictor.encoders import load_encoder
from scheduler.predictor.examples import Features

DIGITS = 16  # of a hash in hex: two files of one name need 2^32 of them


def features_of(
    prompts: Sequence[str],
    *,
    encoder: str,
    cache: Path,
    tags: Sequence[tuple[str, ...]] | None = None,
) -> Features:
    """Return the features of prompts; encodes them only if `cache` does not have them.

    Raises:
        ModelError: the encoder cannot be loaded.
    """
    loaded = load_encoder(encoder, tiers=read_tiers(packaged("pocket")))
    key = hashlib.sha256(json.dumps([loaded.fingerprint, list(prompts)]).encode()).hexdigest()[:DIGITS]
    path = cache / f"{key}.npz"
    if not path.exists():
        tokens, offsets = loaded.encode(prompts)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, tokens=tokens, offsets=offsets)
    with np.load(path) as file:
        tokens, offsets = file["tokens"], file["offsets"]
    return Features(
        prompts=tuple(prompts), tokens=tokens, offsets=offsets, tags=None if tags is None else tuple(tags)
    )
