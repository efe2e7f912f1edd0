"""The packaged predictor in the report: how it was made, and what the very file says of held-out prompts.

It knows artefacts and experiments; it fits nothing. The method competes by the recipe and the encoder that
this file was made with, so that what is shown is what is shipped.
"""

from pathlib import Path

import numpy as np

from scheduler.predictor.examples import Floats
from scheduler.predictor.fitting import Recipe
from scheduler.predictor.interface import packaged_artefact
from scheduler.predictor.network import NetworkConfig
from scheduler.predictor.trained import Trained
from scheduler.prs import normalised
from scheduler.routing.experiment import Experiment

SHIPPED = "the shipped file"
TABLE = "measurements.npz"  # beside the predictor that was trained on it


def packaged_folder(name: str) -> Path:
    """Return the folder of a packaged predictor, whether or not it is there."""
    return packaged_artefact().parent / name


def recipe_of(trained: Trained) -> Recipe:
    """Return how a predictor was fitted."""
    network: NetworkConfig = trained.network.config
    return Recipe(**trained.recipe, network=network)


def shipped_prs(trained: Trained, experiment: Experiment) -> Floats:
    """Return (n,) prs_hat of every prompt of an experiment.

    The experiment's metrics count as its labels weigh them; if the predictor does not know them, its own do.
    """
    labels = experiment.labels
    d_hat = trained.d_hat(trained.z(experiment.features[trained.encoder]))
    weights = trained.weights
    if set(labels.metrics) <= set(trained.metrics):
        own = dict(zip(labels.metrics, labels.weights.tolist(), strict=True))
        weights = normalised([own.get(metric, 0.0) for metric in trained.metrics])
    result: Floats = np.clip(d_hat @ weights, 0.0, 1.0)
    return result
