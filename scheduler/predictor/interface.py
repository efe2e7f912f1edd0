"""The one question the scheduler asks before anything is generated, and who may answer it.

A predictor sees prompts and returns predictions; it never runs a generator and knows neither money nor SQL.
Here are the protocol, the baselines that every other predictor must beat, and the door to all of them.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from routet2i.contracts import Prediction
from routet2i.errors import UsageError
from routet2i.tiers import Tiers
from scheduler.predictor.noun_count import NounCount, read_artefact

ARTEFACT = "noun_count.json"  # name of the artefact's file in its folder
LENGTH_SCALE = 20.0  # words at which prompt_length's PRS has fallen by e; any scale ranks alike


class Predictor(Protocol):
    """Says how much better each prompt would be on the edge tier than on the cloud tier."""

    @property
    def name(self) -> str:
        """Return the name stored with each decision."""

    @property
    def version(self) -> str:
        """Return what changes whenever the same prompt may be judged differently."""

    def predict(self, prompts: Sequence[str]) -> Sequence[Prediction]:
        """Return one prediction per prompt, in order; the same prompt always gets the same one."""


class Constant:
    """Control: the tiers are equal for every prompt, so everything stays on the edge."""

    name = "constant"
    version = "1"

    def predict(self, prompts: Sequence[str]) -> Sequence[Prediction]:
        """Return PRS 1/2 for every prompt."""
        return [Prediction(prs=0.5)] * len(prompts)


class PromptLength:
    """Control: the longer a prompt, the more it gains from the cloud; a ranking, not calibrated."""

    name = "prompt_length"
    version = "1"

    def predict(self, prompts: Sequence[str]) -> Sequence[Prediction]:
        """Return a PRS in (0, 1/2] that falls with the number of words."""
        return [Prediction(prs=0.5 * math.exp(-len(prompt.split()) / LENGTH_SCALE)) for prompt in prompts]


class Random:
    """Control: a PRS drawn uniformly from [0, 1) by the hash of the prompt."""

    name = "random"
    version = "1"

    def predict(self, prompts: Sequence[str]) -> Sequence[Prediction]:
        """Return the same draw for the same prompt."""
        return [Prediction(prs=_uniform(prompt)) for prompt in prompts]


def _uniform(prompt: str) -> float:
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # 53 bits: every value is exact, and below 1


def packaged_artefact() -> Path:
    """Return the path of the artefact shipped in the package."""
    return Path(__file__).parent / "weights" / ARTEFACT


def open_predictor(name: str, *, tiers: Tiers) -> Predictor:
    """Return the predictor of the setting ROUTET2I_PREDICTOR.

    Args:
        name: noun_count, prompt_length, random, constant, or a folder that holds a noun_count.json.
        tiers: the routed pair that is predicted for.
    Raises:
        UsageError: there is no such predictor; says which there are.
        ModelError: its artefact is missing or damaged; says how to make one.
    """
    if name == "noun_count":
        return NounCount(read_artefact(packaged_artefact()), tiers=tiers)
    for baseline in (PromptLength, Random, Constant):
        if name == baseline.name:
            return baseline()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return NounCount(read_artefact(folder / ARTEFACT), tiers=tiers)
    raise UsageError(
        f"no predictor {name!r}: it is neither a known name nor a folder; set ROUTET2I_PREDICTOR to "
        "noun_count, prompt_length, random, constant, or a folder that holds a noun_count.json"
    )
