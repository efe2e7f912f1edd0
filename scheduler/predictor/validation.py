"""Choose a hyper-parameter by inner folds of the training prompts; the same rule and effort for every router.

It knows rows, groups and losses, no router and no encoder.
"""

from collections.abc import Callable

import numpy as np

from scheduler.folds import grouped_folds
from scheduler.predictor.examples import Floats, Rows

INNER_FOLDS = 5  # as many as the outer ones
PENALTIES = tuple(
    10.0**power for power in range(4, -2, -1)
)  # routing.md section 7; heaviest first: wins ties


def inner_folds(groups: Rows, *, seed: int) -> Rows:
    """Return the inner fold (n,) of each training row: five, or one per group where there are fewer.

    Raises:
        ValueError: there are fewer than two groups, so nothing can be held out.
    """
    return grouped_folds(groups, folds=max(2, min(INNER_FOLDS, len(np.unique(groups)))), seed=seed)


def held_out_predictions(predict: Callable[[Rows, Rows], Floats], *, folds: Rows) -> Floats:
    """Return (S, n): prs_hat by S settings, each row predicted by fits that did not see its fold.

    Args:
        predict: from training rows and held-out rows (m,) to (S, m) prs_hat, one row per setting.
        folds: (n,) fold of each row.
    """
    parts = []
    for fold in np.unique(folds):
        held = np.flatnonzero(folds == fold)
        parts.append((held, predict(np.flatnonzero(folds != fold), held)))
    predictions = np.empty((len(parts[0][1]), len(folds)))
    for held, part in parts:
        predictions[:, held] = part
    return predictions


def validation_losses(held_out: Floats, *, truth: Floats, calibrated: bool) -> Floats:
    """Return (S,) how far each row of `held_out` (S, n) is from the true PRS (n,); lower is better.

    Mean squared error for a router that predicts PRS. One that only ranks is not asked for the scale: one
    minus the correlation with PRS.
    """
    if calibrated:
        errors: Floats = ((held_out - truth) ** 2).mean(axis=1)
        return errors
    deviations = held_out - held_out.mean(axis=1, keepdims=True)
    target = truth - truth.mean()
    norms = np.sqrt((deviations**2).sum(axis=1) * (target**2).sum())
    correlations = np.divide(deviations @ target, norms, out=np.zeros(len(norms)), where=norms > 0)
    misfits: Floats = 1.0 - correlations
    return misfits
