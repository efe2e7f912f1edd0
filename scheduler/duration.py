"""How long some work takes the workers that there are: the slowest tier decides.

Pure: device seconds and workers in, seconds out. It knows neither how long a picture takes
(`scheduler.speeds`) nor who is alive; windows, start-up and the way of messages are not in it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from routet2i.contracts import Work
from scheduler.speeds import Speeds


@dataclass(frozen=True, kw_only=True, slots=True)
class Duration:
    """When the last picture of some work would be there."""

    seconds: float | None  # of the tiers that are known; None = no tier with work is
    workers: Mapping[str, int]  # tier with work -> workers reckoned with
    absent: tuple[str, ...]  # of these tiers no worker is alive: one is assumed
    unknown: tuple[str, ...]  # of these tiers nobody knows how long a picture takes


def duration(device: Mapping[str, float | None], *, live: Mapping[str, int]) -> Duration:
    """Return how long work takes.

    Args:
        device: tier -> device seconds, None = nobody knows; tiers with 0 have no work.
        live: tier -> workers.
    """
    busy = {tier: seconds for tier, seconds in device.items() if seconds != 0}
    workers = {tier: live.get(tier) or 1 for tier in busy}
    known = [seconds / workers[tier] for tier, seconds in busy.items() if seconds is not None]
    return Duration(
        seconds=max(known) if known else 0.0 if not busy else None,
        workers=workers,
        absent=tuple(tier for tier in busy if not live.get(tier)),
        unknown=tuple(tier for tier, seconds in busy.items() if seconds is None),
    )


def device_seconds(
    work: Iterable[Work], *, speeds: Speeds, split: Mapping[str, float]
) -> dict[str, float | None]:
    """Return tier -> device seconds of some work; None where a part of it is unknown.

    Args:
        split: tier -> share of the pictures whose tier is not decided yet, which it is expected to get;
            with none of them nothing is known of these pictures.
    """
    total: dict[str, float | None] = defaultdict(float)
    for one in work:
        shares = split if one.tier is None else {one.tier: 1.0}
        for tier, share in shares.items():
            each = speeds.seconds(tier, 1, one.width, one.height)
            before = total[tier]
            if share:
                total[tier] = None if each is None or before is None else before + share * one.pictures * each
    return dict(total)
