"""Who meets whom over what: the experiments of each part of the report, each with its entrants.

It chooses; it fits and measures nothing. Effort is a value: in full, or a quick look whose numbers mean
nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scheduler.predictor.encoders import MINILM
from scheduler.predictor.examples import Floats
from scheduler.predictor.fitting import Recipe
from scheduler.predictor.trained import Trained
from scheduler.routing import drawn, entrants, pocket, rated, unseen
from scheduler.routing.entrants import METHOD, Entrant
from scheduler.routing.experiment import Experiment
from scheduler.routing.pocket import PocketTable
from scheduler.routing.shipped import SHIPPED, recipe_of, shipped_prs

ON_CURVES = ("ridge", METHOD)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is asked of everybody."""

    seeds: int = 5
    resamples: int = 1000
    prompts: int | None = None  # at most, on either side of pocket and synthetic world; None: all
    epochs: int | None = None  # at most, of the method; None: as its recipe says
    all_rated: bool = True  # every pair and metric; otherwise the smallest set's last


FULL = Effort()
QUICK = Effort(seeds=1, resamples=100, prompts=200, epochs=3, all_rated=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """One experiment and who competes in it."""

    experiment: Experiment
    entrants: Sequence[Entrant]
    also: Mapping[str, Floats] = field(default_factory=dict)  # router -> (n,) prs_hat, made without a fit
    curve: Sequence[Entrant] = ()  # those who also learn from parts of the training prompts


def pocket_contests(
    table: PocketTable, *, shipped: Trained | None, effort: Effort, cache: Path
) -> list[Contest]:
    """Return the pocket world's contests; the method is made as the shipped predictor was."""
    recipe, encoder = _made(shipped, effort=effort)
    ours = entrants.method(recipe, encoder=encoder)[0]  # on MiniLM, too, it would take as long again
    everybody = [*entrants.baselines(encoder=encoder), ours]
    variants = [ours, *entrants.ablations(recipe, encoder=encoder)]
    experiments = pocket.pocket_experiments(
        table if effort.prompts is None else table.head(effort.prompts),
        encoders=_encoders(everybody),
        cache=cache,
        seeds=effort.seeds,
    )
    return [
        Contest(experiment=one, entrants=variants)
        if one.ablations
        else Contest(
            experiment=one,
            entrants=everybody,
            also={} if shipped is None else {SHIPPED: shipped_prs(shipped, one)},
        )
        for one in experiments
    ]


def rated_contests(folder: Path, *, shipped: Trained | None, effort: Effort, cache: Path) -> list[Contest]:
    """Return the contests on human ratings, with learning curves where the page shows everything.

    The method reads what the shipped cold-start predictor reads, and learns from the training folds alone.

    Raises:
        UsageError: a file of the folder cannot be read.
    """
    recipe, encoder = _paired(shipped, effort=effort)
    everybody = [*entrants.baselines(encoder=encoder, tags=True), *entrants.method(recipe, encoder=encoder)]
    experiments = rated.rated_experiments(
        folder, encoders=_encoders(everybody), cache=cache, seeds=effort.seeds
    )
    return [
        Contest(
            experiment=one,
            entrants=everybody,
            curve=[own for own in everybody if own.name in ON_CURVES] if one.leading else (),
        )
        for one in (experiments if effort.all_rated else experiments[-1:])
    ]


def unseen_contests(folder: Path, *, shipped: Trained | None, effort: Effort, cache: Path) -> list[Contest]:
    """Return the contests across rated sets; the packaged file is left out, for it has seen all of them.

    Raises:
        UsageError: a file of the folder cannot be read.
    """
    recipe, encoder = _paired(shipped, effort=effort)
    known = [one for one in entrants.baselines() if one.name in unseen.COMPETING]
    everybody = [*known, *entrants.method(recipe, encoder=encoder)]
    experiments = unseen.unseen_experiments(
        folder, encoders=_encoders(everybody), cache=cache, seeds=effort.seeds
    )
    return [
        Contest(
            experiment=one,
            entrants=everybody,
        )
        for one in (experiments if effort.all_rated else experiments[:1])
    ]


def drawn_contest(*, effort: Effort, cache: Path) -> Contest:
    """Return the contest in the synthetic world, with the best router there can be."""
    experiment, bayes = drawn.drawn_experiment(
        cache=cache, seeds=effort.seeds, prompts=effort.prompts or drawn.PROMPTS
    )
    recipe, encoder = _made(None, effort=effort)
    everybody = [*entrants.baselines(tags=True), *entrants.method(recipe, encoder=encoder)]
    return Contest(experiment=experiment, entrants=everybody, also={drawn.BAYES: bayes})


def _made(shipped: Trained | None, *, effort: Effort) -> tuple[Recipe, str]:
    """Return how a shipped predictor was made and on which encoder; the defaults where there is none."""
    recipe, encoder = (Recipe(), MINILM) if shipped is None else (recipe_of(shipped), shipped.encoder)
    return recipe if effort.epochs is None else replace(recipe, epochs=effort.epochs), encoder


def _paired(cold: Trained | None, *, effort: Effort) -> tuple[Recipe, str]:
    """Return how a pair's own ratings are learnt; the cold start's caution is for sets nobody rated."""
    recipe, encoder = _made(cold, effort=effort)
    return replace(recipe, network=replace(recipe.network, members=1), least_penalty=0.0), encoder


def _encoders(competing: Sequence[Entrant]) -> list[str]:
    return list(dict.fromkeys(one.encoder for one in competing))
