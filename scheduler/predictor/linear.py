"""Ridge regression in closed form, with honest predictions of the rows it was fitted on.

A penalty is chosen per metric, and apart for what all tiers share and for what tells them apart: prompts
differ much more in how hard they are than in which tier serves them better. Numpy on arrays; it knows neither
prompts nor tokens, and draws no random number.
"""

from dataclasses import dataclass

import numpy as np

from scheduler.predictor.examples import Floats, Rows

PENALTIES = 10.0 ** np.arange(-2, 4.01, 0.5)  # times the mean squared length of a row


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """A fitted map from d inputs to (T, N) outputs."""

    slopes: Floats  # (d, T, N)
    intercept: Floats  # (T, N)
    held_out: Floats  # (n, T, N): each row predicted by the fit to all rows of other groups
    penalties: Floats  # (2, N) chosen for the common part and the differences, in units of PENALTIES

    def __call__(self, x: Floats) -> Floats:
        """Return (m, T, N) for inputs (m, d)."""
        result: Floats = np.tensordot(x, self.slopes, axes=1) + self.intercept
        return result


def fit_linear(x: Floats, y: Floats, *, groups: Rows, least: float = 0.0) -> Linear:
    """Fit ridge regressions with free intercepts; the penalties are those that predict held-out groups best.

    The held-out residual of a group's rows G is (I - H_GG)^-1 (y - Hy)_G, H the hat matrix: the same numbers
    as fitting once without each group, from one decomposition.

    Args:
        x: (n, d).
        y: (n, T, N).
        groups: (n,) rows of one group are held out together; at least two groups.
        least: penalty, in units of PENALTIES; lighter ones are not tried.
    Raises:
        ValueError: there are fewer than two groups, so nothing can be held out, or `least` is above all
            PENALTIES.
    Source: leave-one-out of linear smoothers, Hastie, Tibshirani, Friedman, The Elements of Statistical
        Learning (2009), section 7.10; the two penalties are ours.
    """
    tried = PENALTIES[least <= PENALTIES]
    if not len(tried):
        raise ValueError(f"the heaviest penalty is {PENALTIES[-1]:g}, not {least:g}")
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    if len(members) < 2:
        raise ValueError("at least two groups of prompts are needed, so that one can be held out")
    mean = x.mean(axis=0)
    left, stretch, right = np.linalg.svd(x - mean, full_matrices=False)
    unit = max(float((stretch**2).sum()) / len(x), np.finfo(np.float64).tiny)
    common = np.repeat(y.mean(axis=1, keepdims=True), y.shape[1], axis=1)
    slopes, held_out, chosen = np.zeros((x.shape[1], *y.shape[1:])), np.zeros(y.shape), []
    for part in (common, y - common):
        centred = part - part.mean(axis=0)
        turned = np.tensordot(left.T, centred, axes=1)  # (r, T, N)
        best = np.full(y.shape[2], np.inf)
        penalties = np.zeros(y.shape[2])
        part_slopes, part_residuals = np.zeros(slopes.shape), np.zeros(y.shape)
        for penalty in tried:
            shrink = stretch**2 / (stretch**2 + penalty * unit)
            residuals = _held_out_residuals(
                centred - np.tensordot(left * shrink, turned, axes=1), left, shrink=shrink, members=members
            )
            errors = (residuals**2).sum(axis=(0, 1))  # (N,)
            better = errors < best
            best[better], penalties[better] = errors[better], penalty
            part_residuals[..., better] = residuals[..., better]
            weights = stretch / (stretch**2 + penalty * unit)
            part_slopes[..., better] = np.tensordot(right.T * weights, turned[..., better], axes=1)
        slopes += part_slopes
        held_out += part - part_residuals
        chosen.append(penalties)
    return Linear(
        slopes=slopes,
        intercept=y.mean(axis=0) - np.tensordot(mean, slopes, axes=1),
        held_out=held_out,
        penalties=np.array(chosen),
    )


def _held_out_residuals(residuals: Floats, left: Floats, *, shrink: Floats, members: list[Rows]) -> Floats:
    """Return (n, T, N) residuals of each group's rows under the fit without that group."""
    result = np.empty_like(residuals)
    for rows in members:
        own = left[rows]
        hat = (own * shrink) @ own.T + 1 / len(left)  # the intercept is fitted, too
        solved = np.linalg.solve(np.eye(len(rows)) - hat, residuals[rows].reshape(len(rows), -1))
        result[rows] = solved.reshape(-1, *residuals.shape[1:])
    return result
