"""A sample of prompts, drawn on every tier and scored into a table that can be gone on with.

Here is what is drawn, in which order, and what a picture that cannot be made stops: nothing but itself. It
knows tiers, seeds and the table; models come from a function, and it routes nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from routet2i.contracts import GenerationRequest
from routet2i.errors import GenerationFailed
from routet2i.execution import Generator, Scorer
from routet2i.tiers import TierProfile, Tiers
from scheduler.predictor.collecting import Request, collect
from scheduler.ratings import Rating, Ratings


@dataclass(frozen=True, kw_only=True, slots=True)
class TierWork:
    """What is still to be drawn on one tier."""

    profile: TierProfile
    requests: tuple[Request, ...]

    @property
    def micro_usd(self) -> int:
        """Return what the pictures cost by the tier's price, in micro-dollars."""
        return self.profile.price(len(self.requests))


@dataclass(frozen=True, kw_only=True, slots=True)
class Undrawn:
    """A picture that could not be made."""

    prompt: str
    tier: str
    error: str


def sample(requests: Iterable[GenerationRequest], *, limit: int | None, seed: int) -> list[Request]:
    """Return distinct prompts with their seeds, in file order; a larger limit keeps all of a smaller one's.

    Args:
        limit: how many to draw at random; None = all.
        seed: of the draw.
    """
    first: dict[str, Request] = {}
    for one in requests:
        first.setdefault(one.prompt, Request(prompt=one.prompt, seed=one.seed))
    found = list(first.values())
    chosen = np.random.default_rng(seed).permutation(len(found))[:limit]
    return [found[row] for row in sorted(chosen)]


def plan(
    requests: Sequence[Request], *, tiers: Tiers, metrics: Sequence[str], table: Ratings
) -> list[TierWork]:
    """Return for every tier of the file which prompts the table lacks; seeds are the same on all tiers."""
    return [
        TierWork(
            profile=profile,
            requests=tuple(one for one in requests if table.lacks(one.prompt, profile.name, metrics=metrics)),
        )
        for profile in tiers.profiles.values()
    ]


def draw(
    work: Sequence[TierWork],
    *,
    load: Callable[[TierProfile], Generator],
    scorer: Scorer,
    table: Ratings,
    progress: Callable[[str, int], None],
) -> list[Undrawn]:
    """Draw what is to be drawn, one tier after the other, and return what could not be made.

    Each microbatch is in the table before the next begins. Only one tier's model is loaded at a time.

    Args:
        load: makes a tier's generator; called for tiers that have something to draw.
        scorer: the judge of all tiers.
        progress: called after each microbatch with the tier's name and how many pictures it took on.
    Raises:
        ModelError: a model cannot be loaded.
        DeviceFault: the accelerator is lost.
    """
    undrawn: list[Undrawn] = []
    for part in work:
        if not part.requests:
            continue
        generator, size = load(part.profile), part.profile.microbatch_size
        for start in range(0, len(part.requests), size):
            group = part.requests[start : start + size]
            try:
                table.add(_scored(group, profile=part.profile, generator=generator, scorer=scorer))
            except GenerationFailed:
                undrawn += _one_by_one(
                    group, profile=part.profile, generator=generator, scorer=scorer, table=table
                )
            progress(part.profile.name, len(group))
        del generator  # before the next tier's is loaded
    return undrawn


def _one_by_one(
    group: Sequence[Request], *, profile: TierProfile, generator: Generator, scorer: Scorer, table: Ratings
) -> list[Undrawn]:
    undrawn = []
    for one in group:
        try:
            table.add(_scored([one], profile=profile, generator=generator, scorer=scorer))
        except GenerationFailed as error:
            undrawn.append(Undrawn(prompt=one.prompt, tier=profile.name, error=str(error)))
    return undrawn


def _scored(
    group: Sequence[Request], *, profile: TierProfile, generator: Generator, scorer: Scorer
) -> list[Rating]:
    return [
        Rating(prompt=group[one.row].prompt, tier=one.tier, scores=one.scores)
        for one in collect(group, profile=profile, generator=generator, scorer=scorer)
    ]
