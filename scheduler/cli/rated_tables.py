"""The table of scores that a command is given: read, its tiers in order, its metrics weighed.

It knows the tier file's prices and the metric file's profiles; it trains and judges nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from routet2i.errors import UsageError
from routet2i.settings import Settings
from scheduler.datasets import RatedSet, read_table
from scheduler.prs import normalised


def read_rated(
    path: Path,
    *,
    settings: Settings,
    tiers: str | None,
    profile: str | None = None,
    weights: Sequence[str] = (),
) -> RatedSet:
    """Read a table, cheapest tier first, weighed as asked.

    Args:
        path: the long CSV of `datasets.read_table`.
        settings: name the tier file and the metric file.
        tiers: names joined by commas, cheapest first; None = all: by the tier file's prices if it knows all
            of them, else the one with the lowest scores first.
        profile: of the metric file; None = the deciding one if the table has its metrics, else equal weights.
        weights: `metric=number`, instead of a profile.
    Raises:
        UsageError: says what is wrong with the table or an option.
    """
    names = None if tiers is None else [name.strip() for name in tiers.split(",")]
    rated = weighed(read_table(path, tiers=names), settings=settings, profile=profile, weights=weights)
    return rated if names is not None else in_order(rated, _cheapest_first(rated, settings=settings))


def weighed(
    rated: RatedSet, *, settings: Settings, profile: str | None, weights: Sequence[str] = ()
) -> RatedSet:
    """Return the same set with other weights; see `read_rated`."""
    chosen = (
        _given(weights, known=rated.labels.metrics)
        if weights
        else _of_profile(profile, settings=settings, known=rated.labels.metrics)
    )
    if chosen is None:
        return rated
    numbers = normalised([chosen.get(metric, 0.0) for metric in rated.labels.metrics])
    return replace(rated, labels=replace(rated.labels, weights=numbers))


def in_order(rated: RatedSet, tiers: Sequence[str]) -> RatedSet:
    """Return the same set with its tiers in another order, or fewer of them."""
    labels = rated.labels
    columns = [labels.tiers.index(tier) for tier in tiers]
    return replace(rated, labels=replace(labels, tiers=tuple(tiers), scores=labels.scores[:, columns]))


def _cheapest_first(rated: RatedSet, *, settings: Settings) -> list[str]:
    labels, profiles = rated.labels, settings.read_tiers().profiles
    if set(labels.tiers) <= set(profiles):
        return sorted(labels.tiers, key=lambda tier: profiles[tier].micro_usd_per_image)
    means = dict(zip(labels.tiers, labels.scores.mean(axis=0) @ labels.weights, strict=True))
    return sorted(labels.tiers, key=lambda tier: means[tier])


def _given(weights: Sequence[str], *, known: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in weights:
        metric, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if metric not in known:
            raise UsageError(f"the table has no metric {metric!r}; it has {', '.join(known)}; weigh those")
        if not 0 <= value <= 1e6:
            raise UsageError(f"--weight {text!r}: write METRIC=NUMBER, a number from 0 to 1e6")
        found[metric] = value
    if not any(found.values()):
        raise UsageError("every --weight is 0; give one metric a weight above 0")
    return found


def _of_profile(
    profile: str | None, *, settings: Settings, known: Sequence[str]
) -> Mapping[str, float] | None:
    metrics = settings.read_metrics()
    name = profile or metrics.profile
    if name not in metrics.profiles:
        raise UsageError(f"no profile {name!r} of metrics; there are {', '.join(metrics.profiles)}")
    weights = metrics.profiles[name]
    missing = [metric for metric, weight in weights.items() if weight and metric not in known]
    if not missing:
        return weights
    if profile is not None:
        raise UsageError(
            f"profile {profile!r} needs metric {missing[0]!r}, which the table lacks; it has "
            f"{', '.join(known)}; leave --profile out for equal weights, or add --weight METRIC=NUMBER"
        )
    return None
