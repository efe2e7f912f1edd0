"""`predictor evaluate`: what a predictor is worth on a table of scores that it has not seen.

It parses and prints; figures are those of `scheduler.predictor.trial`.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from scheduler.cli.batches import Json
from scheduler.cli.networks import as_network, open_named
from scheduler.cli.predictor_train import TierNames, print_worth, tell_data, worth
from scheduler.cli.rated_tables import in_order, read_rated
from scheduler.cli.session import read_settings
from scheduler.cli.show import as_json, clean, console, write_line
from scheduler.datasets import RatedSet
from scheduler.predictor.examples import Floats
from scheduler.predictor.interface import Constant, Predictor, PromptLength
from scheduler.predictor.noun_count import NAME as NOUN_COUNT
from scheduler.predictor.noun_count import count_nouns
from scheduler.predictor.routers import fit_pair
from scheduler.predictor.trial import Trial, outcomes_of, tried

if TYPE_CHECKING:
    from scheduler.predictor.routet2i import RouteT2I

SEED = 0  # of the resamples: the same table gives the same intervals
RANDOM = "random"  # equal values: every order of the prompts at once


def evaluate(
    ctx: typer.Context,
    predictor: Annotated[
        str, typer.Argument(help="Packaged name, rule, folder, or a version or name of `predictor list`.")
    ],
    ratings: Annotated[Path, typer.Option(help="CSV of prompt,group,tier,metric,value; higher is better.")],
    tiers: TierNames = None,
    json: Json = False,
) -> None:
    """Measure a predictor on a table of scores, beside prompt length, noun count and random, with intervals.

    Nothing is fitted. A predictor that knows the table's metrics is judged by its own weights, and where it
    was fitted on the table's tiers also by its own constants; else both are the table's.

    Example: routet2i predictor evaluate cold_start --ratings ratings.csv
    """
    settings = read_settings(ctx)
    rated = read_rated(ratings, settings=settings, tiers=tiers)
    opened = open_named(predictor, settings=settings)
    network = as_network(opened)
    if network is not None and tiers is None and set(network.trained.tiers) <= set(rated.labels.tiers):
        rated = in_order(rated, network.trained.tiers)
    if network is not None and set(network.trained.metrics) <= set(rated.labels.metrics):
        rated = _in_its_terms(rated, network)
    out = console(stderr=json)
    out.print(tell_data(rated), soft_wrap=True)
    seen = _seen(rated, network)
    trial = _trial(rated, name=clean(predictor), predictor=opened, network=network)
    if json:
        write_line(
            as_json(
                {
                    "predictor": predictor,
                    "version": opened.version,
                    "prompts": len(rated),
                    "left_out": rated.dropped,
                    "trained_on_this_table": seen,
                    "tiers": rated.labels.tiers,
                    "weights": dict(zip(rated.labels.metrics, rated.labels.weights.tolist(), strict=True)),
                    **worth(trial),
                }
            )
        )
    else:
        print_worth(trial, out=out)
        if seen:
            out.print("it was trained on this very table: these figures flatter", style="bold red")


def _seen(rated: RatedSet, network: "RouteT2I | None") -> bool:
    """Return whether a network was trained on exactly this set."""
    if network is None:
        return False
    from scheduler.predictor.fitting import data_hash

    return network.trained.data_sha256 == data_hash(rated.prompts, rated.labels)


def _in_its_terms(rated: RatedSet, network: "RouteT2I") -> RatedSet:
    """Return the set with the metrics that a network knows, in its order, by its weights."""
    labels, trained = rated.labels, network.trained
    columns = [labels.metrics.index(metric) for metric in trained.metrics]
    return replace(
        rated,
        labels=replace(
            labels, metrics=trained.metrics, scores=labels.scores[:, :, columns], weights=trained.weights
        ),
    )


def _trial(rated: RatedSet, *, name: str, predictor: Predictor, network: "RouteT2I | None") -> Trial:
    labels = rated.labels
    scale = fit_pair(labels)
    if network is not None and (labels.metrics, labels.tiers) == (
        network.trained.metrics,
        network.trained.tiers,
    ):
        scale = network.trained.scale
    beside = {
        NOUN_COUNT: np.array([1.0 / (1.0 + count_nouns(prompt)) for prompt in rated.prompts]),
        PromptLength.name: _asked(PromptLength(), rated),
        RANDOM: _asked(Constant(), rated),
    }
    return tried(
        outcomes_of(labels, scale=scale, groups=rated.groups),
        {name: _asked(predictor, rated), **{other: said for other, said in beside.items() if other != name}},
        calibrated=frozenset([name] if network is not None else []),
        seed=SEED,
    )


def _asked(predictor: Predictor, rated: RatedSet) -> Floats:
    return np.array([one.prs for one in predictor.predict(rated.prompts)])
