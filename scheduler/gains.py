"""What each routed tier would cost and bring for each job: the arrays that the allocator reads.

Pure: jobs, predictions, prices and constants in, arrays out. It chooses nothing and knows no budget.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from routet2i.contracts import Prediction, Yardstick
from routet2i.tiers import Tiers
from scheduler.allocation.options import Floats, Mask, Options
from scheduler.prs import Scale, prs, superiority

EQUAL = 0.5  # PRS at which two tiers are equal


class Sized(Protocol):
    """A job or a line of a file: what a price depends on."""

    @property
    def n(self) -> int:
        """Return the number of pictures."""

    @property
    def width(self) -> int | None:
        """Return pixels; None = the tier's own."""

    @property
    def height(self) -> int | None:
        """Return pixels; None = the tier's own."""

    @property
    def tier(self) -> str | None:
        """Return the tier that must draw it; None = any."""


def options_of(
    jobs: Sequence[Sized],
    predictions: Sequence[Prediction],
    *,
    tiers: Tiers,
    yardstick: Yardstick | None,
    rank: Sequence[int],
) -> Options:
    """Return prices and gains of n jobs on the routed tiers, columns in the order of `tiers.routed`.

    The gain of a tier is n_pictures (1/2 - PRS(edge, tier)); the pair's own PRS is the predicted one, that of
    a tier between them follows from the predicted scores. A tier that nothing is predicted for is not
    allowed; to a job that asks for a tier, no other one is.

    Args:
        jobs: most urgent first.
        predictions: one per job.
        yardstick: of the predictor; None = it has none, and only the pair can be compared.
        rank: unique tie-breakers, lower first, that do not depend on the order of the jobs.
    Source: routing.md section 10.
    """
    prices = np.array(
        [
            [tiers[name].price(job.n, width=job.width, height=job.height) for name in tiers.routed]
            for job in jobs
        ],
        dtype=np.int64,
    ).reshape(len(jobs), len(tiers.routed))
    pictures = np.array([job.n for job in jobs], dtype=np.float64)
    gain = np.zeros(prices.shape)
    allowed: Mask = np.ones(prices.shape, dtype=np.bool_)
    for column, name in enumerate(tiers.routed):
        if name == tiers.edge:
            continue
        if name == tiers.cloud:
            superior = np.array([one.prs for one in predictions], dtype=np.float64)
        else:
            superior = _between(predictions, tier=name, edge=tiers.edge, yardstick=yardstick)
            allowed[:, column] = np.isfinite(superior)
        gain[:, column] = np.nan_to_num(pictures * (EQUAL - superior))
    for row, job in enumerate(jobs):
        if job.tier is not None:
            allowed[row] = [name == job.tier for name in tiers.routed]
    return Options(
        micro_usd=prices,
        gain=gain,
        rank=np.asarray(rank, dtype=np.int64),
        allowed=None if allowed.all() else allowed,
    )


def _between(
    predictions: Sequence[Prediction], *, tier: str, edge: str, yardstick: Yardstick | None
) -> Floats:
    """Return the PRS (n,) of the edge tier over another one; NaN where a score is missing."""
    if yardstick is None:
        return np.full(len(predictions), np.nan)
    own, other = (_scores(predictions, tier=name, metrics=yardstick.weights) for name in (edge, tier))
    spans = np.array([yardstick.spans[metric] for metric in yardstick.weights])
    found = np.full(len(predictions), np.nan)
    known = np.isfinite(own).all(axis=1) & np.isfinite(other).all(axis=1)
    if known.any():
        scale = Scale(gamma=1.0, gaps=spans, floored=())
        d = superiority(own[known], other[known], scale=scale)
        found[known] = prs(d, weights=list(yardstick.weights.values()))
    return found


def _scores(predictions: Sequence[Prediction], *, tier: str, metrics: Mapping[str, float]) -> Floats:
    return np.array(
        [[one.scores.get(tier, {}).get(metric, np.nan) for metric in metrics] for one in predictions]
    ).reshape(len(predictions), len(metrics))
