"""How long a device draws a picture: as measured, else as the tier file says, else unknown.

Pure: it says where a figure comes from and where the two disagree. It knows no price: no measurement ever
changes what a picture costs.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from routet2i.contracts import Speed
from routet2i.tiers import Tiers

APART = 0.2  # a tier file's figure that is off by more than this share of the measured one is told
ENOUGH = 20  # pictures: of fewer a worker's slow first ones may be half


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """A tier whose pictures take another time than the tier file says."""

    tier: str
    measured: float  # seconds per picture of the tier's own size
    pictures: int  # it was measured on
    told: float  # by the tier file

    def sentence(self, source: str) -> str:
        """Return both figures; `source` is the tier file."""
        return (
            f"a picture of tier {self.tier} took {self.measured:.3g} s (measured on {self.pictures} "
            f"pictures), {source} says {self.told:.3g}"
        )

    @property
    def remedy(self) -> str:
        """Return what to type in the tier file."""
        return f"write seconds_per_image = {self.measured:.3g} under [tier.{self.tier}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """Seconds of the device per picture, of every tier that is known."""

    tiers: Tiers
    measured: Mapping[str, tuple[Speed, ...]]  # tier -> one for each size

    @classmethod
    def of(cls, tiers: Tiers, measured: Iterable[Speed]) -> "Speeds":
        """Return what is known of a deployment's tiers.

        Args:
            measured: one for each tier and size, seconds above 0.
        """
        by_tier: dict[str, list[Speed]] = defaultdict(list)
        for one in measured:
            by_tier[one.tier].append(one)
        return cls(tiers=tiers, measured={tier: tuple(found) for tier, found in by_tier.items()})

    def seconds(self, tier: str, n: int, width: int | None, height: int | None) -> float | None:
        """Return how long a device of the tier draws `n` pictures; None = nobody knows.

        As measured of this size, else of the size nearest to it in proportion to their pixels, else as the
        tier file says.

        Args:
            tier: any name; one that the tier file does not have is known by its measured sizes alone.
            n: pictures.
            width: pixels; None = the tier's own.
            height: pixels; None = the tier's own.
        """
        profile = self.tiers.profiles.get(tier)
        if profile is not None:
            width, height = width or profile.width, height or profile.height
        if not width or not height:
            return None
        pixels = width * height
        found = self.measured.get(tier, ())
        if found:
            exact = [one for one in found if (one.width, one.height) == (width, height)]
            best = min(exact or found, key=lambda one: abs(math.log(one.width * one.height / pixels)))
            return n * best.seconds * (1.0 if exact else pixels / (best.width * best.height))
        return None if profile is None else profile.seconds(n, width=width, height=height)

    def source(self, tier: str) -> str | None:
        """Return where a tier's figures come from; None = they do not."""
        found = self.measured.get(tier)
        if found:
            return f"measured on {sum(one.pictures for one in found)} pictures"
        profile = self.tiers.profiles.get(tier)
        return None if profile is None or profile.seconds_per_image is None else "as the tier file says"

    def sources(self, tiers: Iterable[str]) -> str:
        """Return where the figures of some tiers come from, in one phrase."""
        tiers = tuple(tiers)
        known = {tier: source for tier in tiers if (source := self.source(tier)) is not None}
        if not known:
            return "unknown"
        if len(known) == len(tiers) and all(self.measured.get(tier) for tier in tiers):
            return (
                f"measured on {sum(one.pictures for tier in tiers for one in self.measured[tier])} pictures"
            )
        if len(set(known.values())) == 1 and len(known) == len(tiers):
            return next(iter(known.values()))
        return ", ".join(f"{tier} {known.get(tier, 'unknown')}" for tier in tiers)

    def disagreements(self) -> tuple[Disagreement, ...]:
        """Return the tiers whose own size takes another time than the tier file says, in file order."""
        found = []
        for name, profile in self.tiers.profiles.items():
            told = profile.seconds_per_image
            for one in self.measured.get(name, ()):
                is_own = (one.width, one.height) == (profile.width, profile.height)
                if (
                    is_own
                    and told is not None
                    and one.pictures >= ENOUGH
                    and abs(told - one.seconds) > APART * one.seconds
                ):
                    found.append(
                        Disagreement(tier=name, measured=one.seconds, pictures=one.pictures, told=told)
                    )
        return tuple(found)
