"""The one question the scheduler asks before anything is generated, and who may answer it.

A predictor sees prompts and returns predictions; it never runs a generator and knows neither money nor SQL.
Here are the protocol, the baselines that every other predictor must beat, and the door to all of them. Torch
is imported only when a fitted network is opened.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from db.predictors import PredictorArtefact
from routet2i.contracts import Prediction
from routet2i.errors import MissingModels, ModelError, NotFound, UsageError
from routet2i.tiers import Tiers
from scheduler.predictor.artefact import MANIFEST, Artefact, check_artefact, read_artefact
from scheduler.predictor.noun_count import NAME as NOUN_COUNT
from scheduler.predictor.noun_count import NounCount
from scheduler.predictor.noun_count import read_artefact as read_table

ARTEFACT = "noun_count.json"  # name of the noun-count table's file in its folder
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
LIVE = "live"  # the version promoted last, or the tier file's choice
PACKAGED = ("pocket", "cold_start")  # fitted networks shipped in WEIGHTS_FOLDER
RULES = (NOUN_COUNT, "prompt_length", "random", "constant")  # need no torch
LENGTH_SCALE = 20.0  # words at which prompt_length's PRS has fallen by e; any scale ranks alike


class Predictor(Protocol):
    """Says how much better each prompt would be on the edge tier than on the cloud tier.

    One object never changes its mind: another version is another object.
    """

    @property
    def name(self) -> str:
        """Return the name stored with each decision."""

    @property
    def version(self) -> str:
        """Return what changes whenever the same prompt may be judged differently."""

    def predict(self, prompts: Sequence[str]) -> Sequence[Prediction]:
        """Return one prediction per prompt, in order; the same prompt always gets the same one."""


class Registry(Protocol):
    """What opening a predictor needs of `db.repository.Repository`."""

    def live_predictor(self) -> str | None:
        """Return the version promoted last; None before the first promotion."""

    def find_predictor(self, name_or_version: str) -> PredictorArtefact:
        """Return the files of a version, or of the newest version of a name; raises NotFound."""


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
    """Return the path of the noun-count table shipped in the package."""
    return WEIGHTS_FOLDER / ARTEFACT


def packaged_network(name: str) -> Artefact | None:
    """Return a fitted network shipped in the package, one of PACKAGED; None if it is not there.

    Raises:
        ModelError: it is damaged.
    """
    folder = WEIGHTS_FOLDER / name
    return read_artefact(folder) if (folder / MANIFEST).exists() else None


def resolve(name: str, *, tiers: Tiers, registry: Registry | None) -> str:
    """Return which predictor the name `live` means now; other names mean themselves.

    The version promoted last, or before the first promotion what the tier file says.
    """
    if name != LIVE:
        return name
    return (registry.live_predictor() if registry is not None else None) or tiers.predictor


def find_network(name: str, *, registry: Registry | None) -> Artefact | None:
    """Return the fitted network that a name means; None if it means one of the rules, which need no torch.

    Args:
        name: anything but `live` (see `resolve`).
    Raises:
        UsageError: there is no such predictor; says which there are.
        ModelError: it is missing from the package or the folder, or damaged.
    """
    if name in RULES:
        return None
    if name in PACKAGED:
        if (artefact := packaged_network(name)) is None:
            raise ModelError(
                f"the packaged predictor {name!r} is not in {WEIGHTS_FOLDER}; install routet2i again, or set "
                "ROUTET2I_PREDICTOR=noun_count"
            )
        return artefact
    folder = Path(name).expanduser()
    if (folder / MANIFEST).exists():
        return read_artefact(folder)
    if folder.is_dir():
        return None
    try:
        if registry is None:
            raise NotFound
        found = registry.find_predictor(name)
    except NotFound:
        raise UsageError(
            f"no predictor {name!r}: it is neither a known name nor a folder nor in the registry; set "
            f"ROUTET2I_PREDICTOR to {', '.join((LIVE, *PACKAGED, *RULES))}, a folder that holds a {MANIFEST} "
            f"or {ARTEFACT}, or a version or name that `routet2i predictor list` shows"
        ) from None
    return check_artefact(found.manifest, found.weights, where=f"predictor {name!r} of the registry")


def open_predictor(name: str, *, tiers: Tiers, registry: Registry | None = None) -> Predictor:
    """Return the predictor of the setting ROUTET2I_PREDICTOR; it stays the same whatever is promoted later.

    Args:
        name: live, pocket, cold_start, noun_count, prompt_length, random, constant, a folder that holds a
            predictor.json or a noun_count.json, or a version or a name of the registry.
        tiers: the routed pair that is predicted for; they also say what is live before the first promotion.
        registry: where versions, names and promotions are looked up; None = nowhere.
    Raises:
        UsageError: there is no such predictor; says which there are.
        ModelError: its artefact is missing or damaged, or its encoder cannot be loaded.
        MissingModels: it needs torch, which is not installed.
    """
    name = resolve(name, tiers=tiers, registry=registry)
    artefact = find_network(name, registry=registry)
    if artefact is not None:
        return load_network(artefact, tiers=tiers)
    for rule in (PromptLength, Random, Constant):
        if name == rule.name:
            return rule()
    table = packaged_artefact() if name == NOUN_COUNT else Path(name).expanduser() / ARTEFACT
    return NounCount(read_table(table), tiers=tiers)


def load_network(artefact: Artefact, *, tiers: Tiers) -> Predictor:
    """Return a fitted network as a predictor; torch and the encoder are loaded here.

    Raises:
        MissingModels: torch or transformers is not installed.
        ModelError: artefact or encoder cannot be loaded, or they do not belong together.
    """
    try:
        from scheduler.predictor.routet2i import RouteT2I
        from scheduler.predictor.trained import parse_trained
    except ImportError as error:
        raise MissingModels(
            f"{artefact.where} is a network, and {error}; type: pip install 'routet2i[models]', or set "
            "ROUTET2I_PREDICTOR=noun_count"
        ) from error
    trained = parse_trained(artefact.manifest, artefact.weights, where=artefact.where)
    return RouteT2I.load(trained, tiers=tiers)
