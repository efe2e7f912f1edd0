"""One predictor made from one rated set: fitted on all of it, and judged honestly by folds of it.

It puts an encoder's token states, the fit and the trial together. It knows neither files nor the registry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from routet2i.errors import UsageError
from scheduler.datasets import RatedSet
from scheduler.predictor.artefact import NAME
from scheduler.predictor.baselines import BASELINES
from scheduler.predictor.examples import Features
from scheduler.predictor.fitting import Recipe, Source, fit
from scheduler.predictor.routers import Router
from scheduler.predictor.routet2i import RouteT2IRouter, TokenEncoder
from scheduler.predictor.trained import Epoch, Trained
from scheduler.predictor.trial import FOLDS, Trial, cross_validated

FEWEST = 50  # prompts: ten in each fold; below, no figure means anything
BESIDE = ("ridge", "noun_count", "prompt_length")  # routers the predictor is shown beside

Progress = Callable[[int, Epoch | None], None]  # 0-based part (FOLDS = the fit on everything), its epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A fitted predictor and what it is worth."""

    trained: Trained
    trial: Trial


def learn(
    rated: RatedSet,
    *,
    encoder: TokenEncoder,
    models: Mapping[str, str],
    seed: int,
    recipe: Recipe | None = None,
    start: Trained | None = None,
    progress: Progress = lambda part, epoch: None,
) -> Lesson:
    """Fit a predictor on a rated set, after folds of it have shown what such a predictor is worth.

    Args:
        rated: prompts and scores; tiers cheapest first.
        encoder: of the prompts.
        models: tier -> model, as far as known.
        seed: of everything random.
        recipe: None = the defaults.
        start: to go on from. Where it has seen these prompts, the figures flatter.
        progress: called when a part begins, with None, and after each epoch.
    Raises:
        UsageError: the prompts are too few, or too alike to be divided into folds.
    """
    check_size(rated)
    tokens, offsets = encoder.encode(rated.prompts)
    features = Features(prompts=rated.prompts, tokens=tokens, offsets=offsets, tags=rated.tags)
    part = 0

    def tell(epoch: Epoch) -> None:
        progress(part, epoch)

    def begin(number: int) -> None:
        nonlocal part
        part = number
        progress(part, None)

    def ours() -> Router:
        return RouteT2IRouter(recipe=recipe, start=start, progress=tell)

    trial = cross_validated(
        features,
        rated.labels,
        groups=rated.groups,
        routers={NAME: ours, **{name: BASELINES[name] for name in BESIDE}},
        seed=seed,
        fold_begins=begin,
    )
    begin(FOLDS)
    source = Source(encoder=encoder.name, encoder_sha256=encoder.fingerprint, models=models)
    trained = fit(
        features,
        rated.labels,
        groups=rated.groups,
        seed=seed,
        recipe=recipe,
        source=source,
        start=start,
        progress=tell,
    )
    return Lesson(trained=trained, trial=trial)


def check_size(rated: RatedSet) -> None:
    """Make sure that a rated set can teach anything; raises UsageError saying what is missing."""
    groups = len(set(rated.groups.tolist()))
    if len(rated) < FEWEST:
        raise UsageError(
            f"{len(rated)} prompts have every score, a predictor needs at least {FEWEST} and is better "
            "with 500; score more: routet2i predictor collect"
        )
    if groups < FOLDS:
        raise UsageError(
            f"the {len(rated)} prompts are {groups} groups of near-duplicates, {FOLDS} folds need at least "
            f"{FOLDS}; add other prompts, or give fewer prompts one group"
        )
    if (rated.labels.scores[:, 0] == rated.labels.scores[:, -1]).all():
        edge, cloud = rated.labels.tiers[0], rated.labels.tiers[-1]
        raise UsageError(
            f"{edge} and {cloud} have equal scores everywhere, so there is nothing to learn; check the table"
        )
