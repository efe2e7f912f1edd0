"""How sure a measured number is: resamples of prompt groups, percentile intervals, shuffled decisions.

Pure numpy on arrays; it knows neither what a number means nor how it came about. Random draws come from seeds
that are arguments, and a group's draw depends on its label alone, not on the order of rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.curves import TOLERANCE
from scheduler.prs import Floats

COVERAGE = (2.5, 97.5)  # percentiles of a 95 % interval
CHUNK = 1 << 17  # numbers worked on at once: arrays of 1 MiB stay in the cache


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One reported number with its interval, or the reason why there is none."""

    value: float | None  # of the whole data; None: see note
    low: float | None = None  # 2.5th percentile over the resamples; None: none made, or it has no bound
    high: float | None = None  # 97.5th percentile
    note: str = ""  # why there is no value, or a warning about it; empty: nothing to say
    defined: float = 1.0  # share of the resamples in which the number exists at all


@dataclass(frozen=True, kw_only=True, slots=True)
class ShuffledControl:
    """A router's decisions against the same decisions dealt to other jobs at equal cost."""

    observed: float  # mean gain per job of the decisions as made
    shuffled: float  # mean over the permutations
    p_value: float  # (1 + permutations at least as good) / (1 + permutations)
    permutations: int


def group_counts(groups: NDArray[np.int64], *, resamples: int, seed: int) -> NDArray[np.int32]:
    """Return (B, n): how often each prompt is drawn when whole groups are drawn with replacement.

    Args:
        groups: (n,) label of each prompt's group of near-duplicates.
        resamples: B.
    Source: cluster bootstrap, Davison and Hinkley, Bootstrap Methods and their Application (1997), 3.8.
    """
    labels, index = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [
            np.bincount(rng.integers(len(labels), size=len(labels)), minlength=len(labels))
            for _ in range(resamples)
        ]
    )
    return drawn[:, index].astype(np.int32)


def seed_means(samples: Floats, *, seed: int) -> Floats:
    """Return (B,) means over S seeds, the seeds drawn with replacement anew in each resample.

    Args:
        samples: (S, B) one number per training seed and resample. Routers with the same S get the same draws.
    """
    seeds, resamples = samples.shape
    drawn = np.random.default_rng([seed, seeds]).integers(seeds, size=(seeds, resamples))
    with np.errstate(invalid="ignore"):  # inf - inf, where one seed has no upper and another no lower bound
        means: Floats = np.take_along_axis(samples, drawn, axis=0).mean(axis=0)
    return means


def standard_error(values: Floats, groups: NDArray[np.int64]) -> float:
    """Return the standard error of the mean of values (n,) when whole groups are the independent units.

    Source: linearised cluster variance, Cochran, Sampling Techniques (1977), section 9.
    """
    labels, index = np.unique(groups, return_inverse=True)
    if len(labels) < 2:
        return float("inf")  # one group tells nothing about the next
    sums = np.bincount(index, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum() * len(labels) / (len(labels) - 1)) / len(values))


def figure(value: float, samples: Floats, *, note: str = "") -> Figure:
    """Return the number with its percentile interval.

    Args:
        value: of the whole data; not finite: there is none, and note says why.
        samples: (B,) of the resamples, B = 0 for none; nan: undefined there, inf: beyond every bound.
    """
    known = samples[~np.isnan(samples)]
    low = high = None
    if known.size:  # no interpolation: it would make nan of two infinities
        low, high = (_finite(float(p)) for p in np.percentile(known, COVERAGE, method="inverted_cdf"))
    defined = known.size / samples.size if samples.size else 1.0
    return Figure(value=_finite(value), low=low, high=high, note=note, defined=defined)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def shuffled_control(
    gains: Floats,
    cloud: Floats,
    *,
    strata: NDArray[np.int64],
    seed: int,
    permutations: int = 1000,
) -> ShuffledControl:
    """Return how often decisions dealt at random do as well as the router's own, money and share being equal.

    Args:
        gains: (n,) what each job gains on the cloud.
        cloud: (n,) the decisions: 1 cloud, 0 edge; a part where a tie was split.
        strata: (n,) cost class and window of each job, as one label; decisions stay inside it.
    Source: routing.md section 7, shuffled(R); p-value of Phipson and Smyth (2010), never 0.
    """
    order = np.argsort(strata, kind="stable")
    _, block = np.unique(strata[order], return_inverse=True)
    dealt, worth = cloud[order], gains[order] / len(gains)
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // len(gains))
    means = np.empty(permutations)
    for start in range(0, permutations, step):
        keys = block + rng.random((min(step, permutations - start), len(gains)))  # sorts inside each stratum
        means[start : start + step] = dealt[np.argsort(keys, axis=1)] @ worth
    observed = float(dealt @ worth)
    slack = TOLERANCE * float(
        np.abs(worth).sum()
    )  # the same decisions, summed in another order, count as equal
    at_least = int((means >= observed - slack).sum())
    return ShuffledControl(
        observed=observed,
        shuffled=float(means.mean()),
        p_value=(1 + at_least) / (1 + permutations),
        permutations=permutations,
    )
