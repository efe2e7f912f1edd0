"""The routers that every other router is measured against, as far as numpy carries them.

Controls that look at nothing or at one number, and the plain learners: tags, neighbours, ridge. The learners
choose their one hyper-parameter by the same inner folds. Nothing here knows files, encoders or money.
Source: routing.md section 7.
"""

from collections.abc import Callable, Mapping

import numpy as np

from scheduler.predictor.examples import Features, Floats, Labels, Rows
from scheduler.predictor.noun_count import count_nouns
from scheduler.predictor.routers import (
    RoutePrediction,
    Router,
    Truth,
    fit_pair,
    truth_of,
    unit_means,
)
from scheduler.predictor.validation import PENALTIES, held_out_predictions, inner_folds, validation_losses

NEIGHBOURS = (80, 40, 20, 10)  # k of knn; smoothest first: wins ties
TEMPERATURE = 0.05  # of knn's softmax over cosines
SAME = 1e-9  # cosines this close are one: rounding must not choose between duplicates
TAG_SHRINKAGE = 10  # prompts by which a tag's mean is drawn to the mean of all


class Random:
    """Control: a random order of the prompts asked about, all different, so each share is met exactly."""

    name = "random"
    calibrated = True  # it claims nothing that a calibration could mend

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Keep the seed; each prediction draws anew from it."""
        self._seed = seed

    def predict(self, features: Features) -> RoutePrediction:
        """Return the values (k + 1/2) / n in random order."""
        n = len(features)
        order = np.random.default_rng([self._seed, n]).permutation(n)
        return RoutePrediction(prs_hat=(order + 0.5) / max(n, 1))


class _Always:
    """Control: one tier for every prompt, to be assigned without threshold or cap."""

    calibrated = True

    def __init__(self, name: str, prs_hat: float) -> None:
        self.name = name
        self._prs_hat = prs_hat

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Learn nothing."""

    def predict(self, features: Features) -> RoutePrediction:
        """Return the same for every prompt."""
        return RoutePrediction(prs_hat=np.full(len(features), self._prs_hat))


def all_edge() -> Router:
    """Return the control that leaves every prompt on the edge."""
    return _Always("all_edge", 1.0)


def all_cloud() -> Router:
    """Return the control that sends every prompt to the cloud."""
    return _Always("all_cloud", 0.0)


class _Fewer:
    """A ranking by one count: the more, the more the cloud tier gains. It learns nothing."""

    calibrated = False

    def __init__(self, name: str, count: Callable[[Features], Rows]) -> None:
        self.name = name
        self._count = count

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Count the training prompts, for a calibration."""
        self._held_out = self._rank(features)

    def predict(self, features: Features) -> RoutePrediction:
        """Return 1 / (1 + count): the order of minus the count, inside (0, 1]."""
        return RoutePrediction(prs_hat=self._rank(features))

    def held_out(self) -> Floats:
        """Return the training prompts' values; nothing was fitted on them."""
        return self._held_out

    def _rank(self, features: Features) -> Floats:
        rank: Floats = 1.0 / (1.0 + self._count(features).astype(np.float64))
        return rank


def noun_count() -> _Fewer:
    """Return the ranking by the number of nouns, the reference paper's own observation."""
    return _Fewer("noun_count", lambda features: np.array([count_nouns(text) for text in features.prompts]))


def prompt_length() -> _Fewer:
    """Return the ranking by the number of tokens."""
    return _Fewer("prompt_length", lambda features: features.lengths)


class TagOnly:
    """The data set's own tags and nothing else.

    At most one tag per prompt: each tag's mean D, drawn to the mean of all by TAG_SHRINKAGE prompts.
    Several: ridge on the tags as columns of 0 and 1. A tag nobody saw, or none, adds nothing.
    """

    name = "tag_only"
    calibrated = True

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Learn what each tag adds to the mean D.

        Raises:
            ValueError: the prompts have no tags.
        """
        tags = _tags_of(features)
        truth = truth_of(labels, scale=fit_pair(labels))
        self._weights = labels.weights
        self._columns = {tag: column for column, tag in enumerate(sorted({t for own in tags for t in own}))}
        hot = self._hot(features)  # (n, tags)
        if (hot.sum(axis=1) > 1).any():
            folds = inner_folds(groups, seed=seed)
            fits = _fit_linear(hot, truth.d, truth=truth, weights=labels.weights, folds=folds, link=_unit)
            self._mean, self._effects = fits
        else:
            self._mean = truth.d.mean(axis=0)  # (N,)
            self._effects = (hot.T @ (truth.d - self._mean)) / (hot.sum(axis=0)[:, None] + TAG_SHRINKAGE)

    def predict(self, features: Features) -> RoutePrediction:
        """Return the mean D plus what the prompt's tags add.

        Raises:
            ValueError: the prompts have no tags.
        """
        return _route(_unit(self._mean + self._hot(features) @ self._effects), self._weights)

    def _hot(self, features: Features) -> Floats:
        hot = np.zeros((len(features), len(self._columns)))
        for row, own in enumerate(_tags_of(features)):
            for tag in own:
                if tag in self._columns:
                    hot[row, self._columns[tag]] = 1.0
        return hot


class Knn:
    """The weighted mean D of the k training prompts nearest by cosine; k by inner validation."""

    name = "knn"
    calibrated = True

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Keep the training prompts and choose k."""
        truth = truth_of(labels, scale=fit_pair(labels))
        self._points, self._d, self._weights = unit_means(features), truth.d, labels.weights

        def predict(train: Rows, held: Rows) -> Floats:
            cosines = self._points[held] @ self._points[train].T
            return np.stack(
                [self._rank(_neighbours(cosines, truth.d[train], count=count)) for count in NEIGHBOURS]
            )

        held_out = held_out_predictions(predict, folds=inner_folds(groups, seed=seed))
        self.neighbours = NEIGHBOURS[
            int(validation_losses(held_out, truth=truth.prs, calibrated=True).argmin())
        ]

    def predict(self, features: Features) -> RoutePrediction:
        """Return the mean over each prompt's neighbours."""
        cosines = unit_means(features) @ self._points.T  # (m, n)
        return _route(_neighbours(cosines, self._d, count=self.neighbours), self._weights)

    def _rank(self, d_hat: Floats) -> Floats:
        return _route(d_hat, self._weights).prs_hat


class Ridge:
    """Ridge regression from the embedding to the arguments of D; the bar to clear. Penalty by validation."""

    name = "ridge"
    calibrated = True

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Choose the penalty, then solve on all rows."""
        truth = truth_of(labels, scale=fit_pair(labels))
        self._weights = labels.weights
        self._mean, self._slopes = _fit_linear(
            unit_means(features),
            truth.arguments,
            truth=truth,
            weights=labels.weights,
            folds=inner_folds(groups, seed=seed),
            link=_sigmoid,
        )

    def predict(self, features: Features) -> RoutePrediction:
        """Return the sigmoid of the predicted arguments."""
        return _route(_sigmoid(self._mean + unit_means(features) @ self._slopes), self._weights)


BASELINES: Mapping[str, Callable[[], Router]] = {
    "random": Random,
    "all_edge": all_edge,
    "all_cloud": all_cloud,
    "noun_count": noun_count,
    "prompt_length": prompt_length,
    "tag_only": TagOnly,
    "knn": Knn,
    "ridge": Ridge,
}


def _fit_linear(
    x: Floats, y: Floats, *, truth: Truth, weights: Floats, folds: Rows, link: Callable[[Floats], Floats]
) -> tuple[Floats, Floats]:
    """Return intercept (N,) and slopes (d, N) of the ridge whose penalty predicts held-out PRS best.

    Args:
        x: (n, d).
        y: (n, N) what is regressed; `link` makes D of it.
    """

    def predict(train: Rows, held: Rows) -> Floats:
        lines = ridge_path(x[train], y[train], penalties=PENALTIES)
        return np.stack([_route(link(mean + x[held] @ slopes), weights).prs_hat for mean, slopes in lines])

    held_out = held_out_predictions(predict, folds=folds)
    penalty = PENALTIES[int(validation_losses(held_out, truth=truth.prs, calibrated=True).argmin())]
    return ridge_path(x, y, penalties=(penalty,))[0]


def ridge_path(x: Floats, y: Floats, *, penalties: tuple[float, ...]) -> list[tuple[Floats, Floats]]:
    """Return intercept (N,) and slopes (d, N) of ridge regression for each penalty; the intercept is free.

    Minimises sum of squares plus penalty times the squared slopes.

    Args:
        x: (n, d), n >= 1.
        y: (n, N).
        penalties: each > 0.
    """
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    left, stretch, right = np.linalg.svd(x - x_mean, full_matrices=False)
    turned = left.T @ (y - y_mean)  # (r, N)
    lines = []
    for penalty in penalties:
        slopes = right.T @ ((stretch / (stretch**2 + penalty))[:, None] * turned)
        lines.append((y_mean - x_mean @ slopes, slopes))
    return lines


def _neighbours(cosines: Floats, d: Floats, *, count: int) -> Floats:
    """Return (m, N): mean D of the `count` nearest, weighted by softmax(cosine / TEMPERATURE).

    Whoever is as near as the last of them counts as well, so that the order of the rows decides nothing.

    Args:
        cosines: (m, n).
        d: (n, N).
    """
    n = cosines.shape[1]
    last = np.partition(cosines, n - min(count, n), axis=1)[:, [n - min(count, n)]]  # (m, 1)
    kernel = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / TEMPERATURE) * (cosines >= last - SAME)
    mean: Floats = (kernel @ d) / kernel.sum(axis=1, keepdims=True)
    return mean


def _route(d_hat: Floats, weights: Floats) -> RoutePrediction:
    return RoutePrediction(prs_hat=np.clip(d_hat @ weights, 0.0, 1.0), d_hat=d_hat)


def _tags_of(features: Features) -> tuple[tuple[str, ...], ...]:
    if features.tags is None:
        raise ValueError("tag_only needs tags, and this set has none; leave it out")
    return features.tags


def _unit(x: Floats) -> Floats:
    return np.clip(x, 0.0, 1.0)


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result
