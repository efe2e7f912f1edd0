"""Turn raw predictions into calibrated ones: a few numbers per metric, fitted on held-out rows.

Pure numpy on arrays. It knows neither prompts nor networks.
"""

from collections.abc import Sequence

import numpy as np

from scheduler.predictor.examples import Floats

NEWTON_STEPS = 30  # a convex problem in a handful of numbers: ten are enough
STABILISER = 1e-6  # of Newton's Hessian: shifting all tiers alike changes nothing, so one direction is free


def calibrate(
    parts: Sequence[Floats], d: Floats, *, pairs: Sequence[tuple[int, int]]
) -> tuple[Floats, Floats]:
    """Return factors (F, N) >= 0 and shifts (T, N) with which the parts' sum predicts D best.

    z = sum_f factor_f part_f + shift; D of a pair is sigmoid of the difference of its tiers' z. Minimises
    the cross-entropy per metric by Newton steps. A part that would need a negative factor gets 0.

    Args:
        parts: F arrays (m, T, N), predictions of rows they were not fitted on.
        d: (m, P, N) true D.
        pairs: P pairs of tier numbers.
    """
    tiers, metrics = parts[0].shape[1:]
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    constant = np.eye(tiers)[first] - np.eye(tiers)[second]  # (P, T): which shifts a pair sees
    factors, shifts = np.zeros((len(parts), metrics)), np.zeros((tiers, metrics))
    for i in range(metrics):
        differences = [part[:, first, i] - part[:, second, i] for part in parts]  # each (m, P)
        used = list(range(len(parts)))
        while True:
            columns = [differences[f].reshape(-1, 1) for f in used]
            inputs = np.concatenate([*columns, np.tile(constant, (len(d), 1))], axis=1)
            solution = _logistic(inputs, d[:, :, i].reshape(-1))
            negative = [f for f, factor in zip(used, solution, strict=False) if factor < 0]
            if not negative:
                break
            used = [f for f in used if f not in negative]
        factors[used, i] = solution[: len(used)]
        shifts[:, i] = solution[len(used) :]
    return factors, shifts


def fit_scores(z: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Return slopes (N,) >= 0 and offsets (T, N): predicted score = slope z + offset, by least squares.

    Args:
        z: (m, T, N), or (m, T, 1) where all metrics share it; predictions of rows not fitted on.
        scores: (m, T, N) measured.
    """
    z = np.broadcast_to(z, scores.shape)
    deviation = z - z.mean(axis=0)
    variance = (deviation**2).sum(axis=(0, 1))
    covariance = (deviation * (scores - scores.mean(axis=0))).sum(axis=(0, 1))
    slopes = np.maximum(np.divide(covariance, variance, out=np.zeros(len(variance)), where=variance > 0), 0.0)
    return slopes, scores.mean(axis=0) - slopes * z.mean(axis=0)


def _logistic(inputs: Floats, targets: Floats) -> Floats:
    """Return the weights (c,) of a logistic regression of soft targets (r,) on inputs (r, c)."""
    weights = np.zeros(inputs.shape[1])
    for _ in range(NEWTON_STEPS):
        predicted = 0.5 * (1.0 + np.tanh(0.5 * (inputs @ weights)))
        gradient = inputs.T @ (predicted - targets) / len(targets) + STABILISER * weights
        curvature = (inputs * (predicted * (1 - predicted))[:, None]).T @ inputs / len(targets)
        weights -= np.linalg.solve(curvature + STABILISER * np.eye(len(weights)), gradient)
    return weights
