"""What each tier brings to a prompt, predicted and measured: a table from which simulated jobs are drawn.

Gains are 1/2 - PRS of the cheapest tier against each tier, per picture. Tables come from scores, from the
packaged pocket measurements, or from a law. It knows no arrival time and no budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scheduler.datasets import RatedSet
from scheduler.predictor.examples import Floats, Labels
from scheduler.prs import Scale, fit_scale, normalised, prs, superiority
from scheduler.simulation.traces import Counts

MEASUREMENTS = Path(__file__).parents[1] / "predictor" / "weights" / "pocket" / "measurements.npz"
PRICES = (9_000, 40_000, 65_000, 80_000)  # SDXL, FLUX 1.1, SD3, DALL-E 3; routing.md section 5
LAW_ROWS = 20_000
LAW_MEAN, LAW_SPREAD = 0.08, 0.14  # of the dearest tier's predicted gain: a fifth of all prompts gain nothing
LAW_LUCK = 0.10  # deviation of what is measured from what was predicted
LAW_SHARES = (0.0, 0.55, 0.85, 1.0)  # of the dearest tier's gain that each of four tiers brings, on average

Predict = Callable[[Sequence[str]], Floats]  # prompts -> (n,) predicted PRS, cheapest tier against dearest


@dataclass(frozen=True, kw_only=True, slots=True)
class Qualities:
    """m prompts, easiest first, on T tiers, cheapest first."""

    name: str
    tiers: tuple[str, ...]
    micro_usd: Counts  # (T,) price of one picture, rising
    predicted: Floats  # (m, T) gain per picture; 0 on the cheapest tier
    measured: Floats  # (m, T) what it was in fact

    def __len__(self) -> int:
        return len(self.predicted)

    def rows(self, hardness: Floats) -> Counts:
        """Return the rows of jobs by their place in the mix, (n,) in [0, 1)."""
        found: Counts = np.minimum((hardness * len(self)).astype(np.int64), len(self) - 1)
        return found

    def priced(self, tiers: Sequence[str], micro_usd: Sequence[int]) -> "Qualities":
        """Return the same prompts on tiers of other names and prices, cheapest first."""
        return replace(self, tiers=tuple(tiers), micro_usd=np.array(micro_usd, dtype=np.int64))


def rated_qualities(rated: RatedSet, *, prices: Mapping[str, int], predict: Predict) -> Qualities:
    """Return the prompts of a rated set, predicted by a router that knows two tiers.

    Between the two, a tier is predicted to bring the same share of the dearest one's gain for every prompt:
    its mean share.

    Args:
        rated: its tiers cheapest first.
        prices: of at least its tiers, micro-dollars per picture.
        predict: PRS of the cheapest tier against the dearest.
    """
    measured = _gains(rated.labels)
    return _arranged(
        rated.name,
        tiers=rated.labels.tiers,
        micro_usd=np.array([prices[tier] for tier in rated.labels.tiers], dtype=np.int64),
        predicted=np.outer(0.5 - predict(rated.prompts), _shares(measured)),
        measured=measured,
    )


def pocket_qualities(*, prices: Sequence[int], weights: Mapping[str, float], predict: Predict) -> Qualities:
    """Return the held-out prompts of the packaged pocket pair, two pictures each, as measured.

    Args:
        prices: of edge and cloud, micro-dollars per picture.
        weights: of the metrics in PRS.
        predict: PRS of edge against cloud.
    """
    with np.load(MEASUREMENTS) as file:
        names = tuple(map(str, file["metrics"]))
        columns = [names.index(metric) for metric in weights]
        fitted = fit_scale(*_pair(file["train_scores"].astype(np.float64)[:, :, columns]))
        scores = file["test_scores"].astype(np.float64)[..., columns]  # (m, R, 2, N)
        prompts = tuple(map(str, file["test_prompts"]))
    gains = np.mean(
        [_gain(scores[:, k], weights=list(weights.values()), scale=fitted) for k in range(scores.shape[1])],
        axis=0,
    )
    return _arranged(
        "pocket",
        tiers=("edge", "cloud"),
        micro_usd=np.array(prices, dtype=np.int64),
        predicted=np.stack([np.zeros(len(prompts)), 0.5 - predict(prompts)], axis=1),
        measured=np.stack([np.zeros(len(prompts)), gains], axis=1),
    )


def law_qualities(*, tiers: int, seed: int) -> Qualities:
    """Return prompts with gains from a normal law, on two to four tiers of rising price and falling return.

    Raises:
        ValueError: another number of tiers.
    """
    if tiers not in (2, 3, 4):
        raise ValueError(f"the law knows 2 to 4 tiers, not {tiers}")
    kept = {2: [0, 2], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[tiers]
    rng = np.random.default_rng([seed, tiers])
    top = np.clip(rng.normal(LAW_MEAN, LAW_SPREAD, LAW_ROWS), -0.5, 0.5)
    shares = np.array(LAW_SHARES)[kept] / LAW_SHARES[kept[-1]]
    lucky = rng.normal(0.0, 0.15, (LAW_ROWS, tiers)) * (shares * (1 - shares))  # none at either end
    predicted = top[:, None] * (shares + lucky)
    luck = rng.normal(0.0, LAW_LUCK, (LAW_ROWS, tiers)) * (np.arange(tiers) > 0)
    return _arranged(
        f"law of {tiers} tiers",
        tiers=("edge", *(f"cloud-{k}" for k in range(1, tiers))) if tiers > 2 else ("edge", "cloud"),
        micro_usd=np.array(PRICES, dtype=np.int64)[kept],
        predicted=predicted,
        measured=np.clip(predicted + luck, -0.5, 0.5),
    )


def _arranged(
    name: str, *, tiers: tuple[str, ...], micro_usd: Counts, predicted: Floats, measured: Floats
) -> Qualities:
    order = np.argsort(predicted[:, -1], kind="stable")
    return Qualities(
        name=name, tiers=tiers, micro_usd=micro_usd, predicted=predicted[order], measured=measured[order]
    )


def _gains(labels: Labels) -> Floats:
    """Return (n, T): measured gain of each tier, every pair on its own scale."""
    columns = [np.zeros(len(labels.scores))]
    weights = [float(weight) for weight in labels.weights]
    for tier in range(1, len(labels.tiers)):
        pair = labels.scores[:, [0, tier]]
        columns.append(_gain(pair, weights=weights, scale=fit_scale(*_pair(pair))))
    return np.stack(columns, axis=1)


def _gain(pair: Floats, *, weights: Sequence[float], scale: Scale) -> Floats:
    return 0.5 - prs(superiority(*_pair(pair), scale=scale), weights=list(normalised(weights)))


def _pair(scores: Floats) -> tuple[Floats, Floats]:
    return np.ascontiguousarray(scores[:, 0]), np.ascontiguousarray(scores[:, -1])


def _shares(gains: Floats) -> Floats:
    """Return (T,): each tier's mean gain in that of the dearest, 0 to 1; 1 for the dearest."""
    means = gains.mean(axis=0)
    if means[-1] <= 0:
        return np.where(np.arange(len(means)) == len(means) - 1, 1.0, 0.0)
    shares: Floats = np.clip(means / means[-1], 0.0, 1.0)
    return shares
