"""What became of predictions: the pairs of pictures in the database, compared per predictor version.

It connects `db.pairs` to `scheduler.drift`: which tier is the edge, and which constants a version measures
with. It reads only, and computes nothing itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from db.pairs import ShadowPair
from routet2i.contracts import Yardstick
from routet2i.tiers import Tiers
from scheduler.drift import Drift, Pair, drift_of, measure

Version = tuple[str, str]  # predictor name, version


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One predictor version and how its predictions fared."""

    name: str
    version: str
    drift: Drift


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """One predictor version's mean PRS, as it was predicted and as it was measured."""

    name: str
    version: str
    pairs: int
    predicted: float
    measured: float


def means(
    found: Sequence[ShadowPair],
    *,
    yardsticks: Mapping[Version, Yardstick],
    tiers: Tiers,
    weights: Mapping[str, float],
) -> list[Means]:
    """Return as much of `compare` as takes no resampling; the arguments are its."""
    return [
        Means(
            name=name,
            version=version,
            pairs=len(usable),
            predicted=sum(pair.prs for pair in usable) / len(usable),
            measured=float(measure(usable, yardstick=yardstick, weights=weights).mean()),
        )
        for (name, version), usable, yardstick in _usable(
            found, yardsticks=yardsticks, tiers=tiers, weights=weights
        )
    ]


def compare(
    found: Sequence[ShadowPair],
    *,
    yardsticks: Mapping[Version, Yardstick],
    tiers: Tiers,
    weights: Mapping[str, float],
) -> list[Compared]:
    """Compare each version's predictions with its pairs, in the order of the versions' first pairs.

    A version is measured with its own constants on the pairs that have its metrics. If it has no constants,
    or no pair has its metrics, constants are fitted on the pairs, with the deployment's weights.

    Args:
        found: oldest first; pairs of other tiers than the routed ones are left out.
        weights: metric -> weight of the deployment.
    """
    return [
        Compared(
            name=name,
            version=version,
            drift=drift_of(usable, yardstick=yardstick, weights=weights),
        )
        for (name, version), usable, yardstick in _usable(
            found, yardsticks=yardsticks, tiers=tiers, weights=weights
        )
    ]


def _usable(
    found: Sequence[ShadowPair],
    *,
    yardsticks: Mapping[Version, Yardstick],
    tiers: Tiers,
    weights: Mapping[str, float],
) -> Iterator[tuple[Version, list[Pair], Yardstick | None]]:
    """Yield per version the pairs that can be measured, and its own constants if it is measured by them."""
    pairs: dict[Version, list[Pair]] = {}
    for one in found:
        if tiers.edge in one.sides and tiers.cloud in one.sides:
            pairs.setdefault((one.predictor_name, one.predictor_version), []).append(_pair(one, tiers=tiers))
    for version, own in pairs.items():
        yardstick = yardsticks.get(version)
        usable = [] if yardstick is None else _with(own, yardstick.weights)
        if not usable:
            yardstick, usable = None, _with(own, (name for name, weight in weights.items() if weight > 0))
        if usable:
            yield version, usable, yardstick


def _pair(one: ShadowPair, *, tiers: Tiers) -> Pair:
    return Pair(
        prompt=one.prompt,
        window_id=one.window_id,
        committed_at=one.committed_at,
        prs=one.prs,
        edge=one.sides[tiers.edge].scores,
        cloud=one.sides[tiers.cloud].scores,
    )


def _with(pairs: Sequence[Pair], metrics: Iterable[str]) -> list[Pair]:
    """Return the pairs that have all of these metrics on both sides."""
    wanted = set(metrics)
    return [pair for pair in pairs if wanted <= pair.edge.keys() and wanted <= pair.cloud.keys()]
