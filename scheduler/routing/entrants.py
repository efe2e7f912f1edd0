"""Who competes: every router of routing.md section 7, and variants of the method.

An entrant is a name, how its router is made, and what it may look at; it can be sent to another process. It
fits nothing and knows no data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from scheduler.predictor.artefact import NAME
from scheduler.predictor.baselines import BASELINES
from scheduler.predictor.baselines_neural import NEURAL_BASELINES
from scheduler.predictor.encoders import MINILM
from scheduler.predictor.fitting import Recipe
from scheduler.predictor.isotonic import Isotonic
from scheduler.predictor.network import Axis, NetworkConfig
from scheduler.predictor.routers import Ranking, Router
from scheduler.predictor.routet2i import RouteT2IRouter

METHOD = NAME
SIMPLE = ("noun_count", "prompt_length", "ridge")  # the simple baselines
CONTROLS = ("noun_count", "prompt_length", "tag_only")
TAGS = "tag_only"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrant:
    """One row of the tables."""

    name: str
    make: Callable[[], Router]  # picklable
    encoder: str = MINILM
    every_tier: bool = False  # learns from the scores of all tiers, not only the pair's


def baselines(*, encoder: str = MINILM, tags: bool = False) -> list[Entrant]:
    """Return all routers that are not ours; rankings are made isotonic, which leaves their order as it is.

    Args:
        encoder: whose token states they read; of another one than MiniLM's the ridge competes as well.
        tags: whether the prompts have tags.
    """
    makers: dict[str, Callable[[], Router]] = {
        name: make
        for name, make in BASELINES.items()
        if name not in ("random", "all_edge", "all_cloud", *(() if tags else (TAGS,)))
    }
    makers |= dict(NEURAL_BASELINES)
    found = [Entrant(name=name, make=partial(_calibrated, make)) for name, make in makers.items()]
    if encoder != MINILM:
        found.append(Entrant(name=f"ridge on {encoder}", make=BASELINES["ridge"], encoder=encoder))
    return found


def method(recipe: Recipe | None = None, *, encoder: str = MINILM) -> list[Entrant]:
    """Return the method, and on MiniLM as well where its own encoder is another one."""
    recipe = recipe or Recipe()
    found = [Entrant(name=METHOD, make=_variant(METHOD, recipe), encoder=encoder)]
    if encoder != MINILM:
        name = f"{METHOD} on {MINILM}"
        found.append(Entrant(name=name, make=_variant(name, recipe)))
    return found


def ablations(recipe: Recipe | None = None, *, encoder: str = MINILM) -> list[Entrant]:
    """Return the method with one part taken away or exchanged; routing.md section 9."""
    recipe = recipe or Recipe()
    network = recipe.network
    changed: Mapping[str, Recipe] = {
        "no multi-metric: one expert for PRS": replace(recipe, single=True),
        "no token selection": _with(recipe, replace(network, top_k=None)),
        "single gate": _with(recipe, replace(network, gate="single_nonlinear")),
        "literal gates": _with(recipe, replace(network, gate="literal")),
        "separate gates": _with(recipe, replace(network, gate="separate")),
        f"affinity over {_other(network)}": _with(recipe, replace(network, axis=_other(network))),
        "affinity does not weigh": _with(recipe, replace(network, affinity=False)),
        "no linear path": replace(recipe, linear=False),
        "no members: linear path only": _with(recipe, replace(network, members=0)),
    }
    return [Entrant(name=name, make=_variant(name, one), encoder=encoder) for name, one in changed.items()]


def _other(network: NetworkConfig) -> Axis:
    return "tokens" if network.axis == "experts" else "experts"


def _with(recipe: Recipe, network: NetworkConfig) -> Recipe:
    return replace(recipe, network=network)


def _variant(name: str, recipe: Recipe) -> Callable[[], Router]:
    return partial(RouteT2IRouter, name=name, recipe=recipe)


def _calibrated(make: Callable[[], Router]) -> Router:
    router = make()
    return router if router.calibrated else Isotonic(cast(Ranking, router))
