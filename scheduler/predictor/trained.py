"""A fitted RouteT2I predictor: what it was fitted on, what it says of token states, and its folder on disk.

A folder holds `predictor.json` and `weights.safetensors`, nothing that could run. It knows tiers and metrics
by name and tokens as arrays; it knows no encoder, no loss and no money.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from routet2i.errors import ModelError
from scheduler.predictor.artefact import (
    FORMAT,
    MANIFEST,
    NAME,
    WEIGHTS,
    Artefact,
    check_artefact,
    read_artefact,
    version_of,
)
from scheduler.predictor.examples import Features, Floats
from scheduler.predictor.network import Network, NetworkConfig, pad
from scheduler.predictor.wording import NAMES, wording
from scheduler.prs import Scale

MAX_BATCH = 64  # prompts in one forward pass
MAX_SIZE, MAX_MEMBERS = 16_384, 16  # far beyond any sensible network; what a stranger's manifest may ask for


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One pass over the training rows; losses are above the least possible (soft targets have an entropy)."""

    member: int  # 0-based
    epoch: int  # 0 = before the first pass
    train: float | None  # mean over the pass; None before the first
    validation: float  # on the prompts this member does not train on


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A fitted predictor; z is (n, T, N) in units of gamma g, D of a pair is sigmoid(z_edge - z_cloud)."""

    network: Network  # in evaluation mode
    tiers: tuple[str, ...]  # T names as in the training labels, edge first
    metrics: tuple[str, ...]  # N names
    weights: Floats  # (N,) of PRS, sum 1
    scale: Scale  # of (tiers[0], tiers[-1]) on the training rows
    means: Floats  # (N,) of the scores of all tiers; z was fitted to (score - mean) / (gamma g)
    score_slopes: Floats  # (N,) >= 0 and
    score_offsets: Floats  # (T, N): predicted score = slope z + offset, fitted on held-out prompts
    models: Mapping[str, str]  # tier -> model whose pictures were scored; empty if unknown
    encoder: str  # id the tokens were made with
    encoder_sha256: str  # fingerprint of that encoder; empty = not checked
    data_sha256: str  # of training prompts and scores
    prompts: int  # how many it was trained on
    recipe: Mapping[str, Any]  # how, as JSON values
    seed: int
    history: tuple[Epoch, ...]

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of the hash of everything above."""
        return str(_manifest(self, save(self.network.state_dict()))["version"])

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def z(self, features: Features) -> Floats:
        """Return z (n, T, N) of n prompts; the same prompt gets the same z in any company, up to rounding."""
        tokens, offsets = torch.from_numpy(features.tokens), torch.from_numpy(features.offsets)
        result = np.empty((len(features), len(self.tiers), len(self.metrics)))
        beside = self.beside(features.prompts)
        by_length = np.argsort(features.lengths, kind="stable")  # little padding
        with torch.inference_mode():
            for start in range(0, len(by_length), MAX_BATCH):
                rows = by_length[start : start + MAX_BATCH]
                states, valid = pad(tokens, offsets, torch.from_numpy(rows))
                numbers = None if beside is None else beside[torch.from_numpy(rows)]
                result[rows] = self.network(
                    states, valid, numbers
                ).z.numpy()  # one column for all metrics: broadcast
        return result

    def beside(self, prompts: Sequence[str]) -> torch.Tensor | None:
        """Return what the network reads beside the tokens of n prompts, (n, c) float32; None if nothing."""
        return torch.from_numpy(wording(prompts)).float() if self.network.beside else None

    def d_hat(self, z: Floats, *, edge: int = 0, cloud: int = -1) -> Floats:
        """Return (n, N): D predicted for two of the tiers, 1 = the first one better."""
        result: Floats = 0.5 * (1.0 + np.tanh(0.5 * (z[:, edge] - z[:, cloud])))
        return result

    def scores(self, z: Floats) -> Floats:
        """Return (n, T, N) predicted scores in [0, 1]."""
        result: Floats = np.clip(z * self.score_slopes + self.score_offsets, 0.0, 1.0)
        return result

    def files(self) -> tuple[str, bytes]:
        """Return the text of predictor.json and the bytes of weights.safetensors."""
        weights = save(self.network.state_dict())
        return json.dumps(_manifest(self, weights), indent=1, ensure_ascii=False) + "\n", weights

    def write(self, folder: Path) -> None:
        """Write the folder; files of an earlier predictor are replaced."""
        manifest, weights = self.files()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(weights)
        (folder / MANIFEST).write_text(manifest, encoding="utf-8")


def read_trained(folder: Path) -> Trained:
    """Read and check a folder.

    Raises:
        ModelError: it is missing, no such predictor, of another format, or was changed after it was written.
    """
    return _understood(read_artefact(folder))


def parse_trained(manifest: str, weights: bytes, *, where: str) -> Trained:
    """Check and understand a folder's two files, `where` (for error messages) they may be from.

    Raises:
        ModelError: as in `read_trained`.
    """
    return _understood(check_artefact(manifest, weights, where=where))


def _understood(artefact: Artefact) -> Trained:
    try:
        return _trained(artefact.content, load(artefact.weights))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        MemoryError,
        SafetensorError,
    ) as error:
        raise ModelError(f"{artefact.where} is no {NAME} predictor ({error!r}); train it again") from error


def _manifest(trained: Trained, weights: bytes) -> dict[str, Any]:
    slopes = trained.network.slopes
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": NAME,
        "tiers": list(trained.tiers),
        "models": dict(trained.models),
        "metrics": list(trained.metrics),
        "weights": trained.weights.tolist(),
        "gamma": trained.scale.gamma,
        "gaps": trained.scale.gaps.tolist(),
        "floored": list(trained.scale.floored),
        "means": trained.means.tolist(),
        "score_slopes": trained.score_slopes.tolist(),
        "score_offsets": trained.score_offsets.tolist(),
        "encoder": trained.encoder,
        "encoder_sha256": trained.encoder_sha256,
        "data_sha256": trained.data_sha256,
        "prompts": trained.prompts,
        "recipe": dict(trained.recipe),
        "seed": trained.seed,
        "network": asdict(trained.network.config),
        "shape": [trained.network.width, *slopes.shape[1:]],  # d, T, N of the network
        "beside": list(NAMES) if trained.network.beside else [],
        "history": [asdict(epoch) for epoch in trained.history],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return {**content, "version": version_of(content)}


def _trained(content: Mapping[str, Any], state: dict[str, torch.Tensor]) -> Trained:
    width, tiers, metrics = content["shape"]
    _check_sizes(content)
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise ValueError("weights that are not finite")
    beside = content["beside"]
    if beside not in ([], list(NAMES)):
        raise ValueError(f"it counts {beside}")
    network = Network(
        NetworkConfig(**content["network"]), width=width, tiers=tiers, metrics=metrics, beside=len(beside)
    )
    network.load_state_dict(state)
    made = Trained(
        network=network.eval().requires_grad_(False),
        tiers=tuple(content["tiers"]),
        metrics=tuple(content["metrics"]),
        weights=np.array(content["weights"]),
        scale=Scale(
            gamma=content["gamma"], gaps=np.array(content["gaps"]), floored=tuple(content["floored"])
        ),
        means=np.array(content["means"]),
        score_slopes=np.array(content["score_slopes"]),
        score_offsets=np.array(content["score_offsets"]),
        models=dict(content["models"]),
        encoder=content["encoder"],
        encoder_sha256=content["encoder_sha256"],
        data_sha256=content["data_sha256"],
        prompts=content["prompts"],
        recipe=dict(content["recipe"]),
        seed=content["seed"],
        history=tuple(Epoch(**epoch) for epoch in content["history"]),
    )
    _check_numbers(made, tiers=tiers, metrics=metrics)
    return made


def _check_sizes(content: Mapping[str, Any]) -> None:
    """Raise ValueError for sizes that no predictor has: the network is built before its weights are seen."""
    sizes = [*content["shape"], *(value for value in content["network"].values() if type(value) is int)]
    if any(type(size) is not int or not 0 <= size <= MAX_SIZE for size in sizes):
        raise ValueError(f"sizes {sizes}, each must be a whole number up to {MAX_SIZE}")
    if content["network"].get("members", 0) > MAX_MEMBERS:
        raise ValueError(f"more than {MAX_MEMBERS} members")


def _check_numbers(trained: Trained, *, tiers: int, metrics: int) -> None:
    """Raise ValueError for constants of another shape, not finite, or that nothing can be divided by."""
    shapes = {"weights": (metrics,), "means": (metrics,), "score_slopes": (metrics,)}
    for name, shape in {**shapes, "score_offsets": (tiers, metrics)}.items():
        numbers = getattr(trained, name)
        if numbers.dtype.kind not in "fi" or numbers.shape != shape or not np.isfinite(numbers).all():
            raise ValueError(f"{name} {numbers!r}")
    gaps, gamma = trained.scale.gaps, trained.scale.gamma
    if gaps.shape != (metrics,) or not (np.isfinite(gaps).all() and (gaps > 0).all()):
        raise ValueError(f"gaps {gaps!r}")
    if type(gamma) is not float or not 0.0 < gamma < np.inf:
        raise ValueError(f"gamma {gamma!r}")
    if (len(trained.tiers), len(trained.metrics)) != (tiers, metrics) or not all(
        isinstance(name, str) for name in (*trained.tiers, *trained.metrics, trained.encoder)
    ):
        raise ValueError("names that do not fit its shape")
