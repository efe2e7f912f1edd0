"""Draw the same prompts on every tier and score the pictures: what a predictor learns from.

It knows generators, scorers and seeds. It knows no router, no database and no file format; what a tier is
worth is for others to say.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from routet2i.errors import GenerationFailed
from routet2i.execution import Generator, RenderRequest, Scorer
from routet2i.tiers import TierProfile


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt to be drawn on every tier."""

    prompt: str
    seed: int  # of the noise; the same on every tier


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one tier's picture of one prompt was worth."""

    row: int  # of the request
    tier: str
    scores: Mapping[str, float]  # metric -> [0, 1]


Judge = Callable[[int, bytes], Mapping[str, float]]  # row, PNG -> further metrics


def collect(
    requests: Sequence[Request],
    *,
    profile: TierProfile,
    generator: Generator,
    scorer: Scorer,
    judge: Judge | None = None,
) -> Iterator[Measured]:
    """Yield one tier's scores of each request's picture, a microbatch at a time, in order.

    Args:
        requests: what to draw, at the tier's own size.
        profile: the tier.
        generator: the tier's loaded pipeline.
        scorer: the judge of all tiers.
        judge: measures more metrics of a picture.

    Raises:
        GenerationFailed: a picture could not be made.
    """
    for start in range(0, len(requests), profile.microbatch_size):
        part = requests[start : start + profile.microbatch_size]
        pictures = _pictures(generator, [_request(profile, one) for one in part])
        rows = scorer.score(pictures, [one.prompt for one in part])
        for row, (picture, scores) in enumerate(zip(pictures, rows, strict=True), start):
            more = judge(row, picture) if judge is not None else {}
            yield Measured(row=row, tier=profile.name, scores={**scores, **more})


def _request(profile: TierProfile, one: Request) -> RenderRequest:
    return RenderRequest(
        prompt=one.prompt, negative_prompt=None, seed=one.seed, width=profile.width, height=profile.height
    )


def _pictures(generator: Generator, requests: Sequence[RenderRequest]) -> list[bytes]:
    pictures: list[bytes] = []
    for request, made in zip(requests, generator.generate(requests), strict=True):
        if isinstance(made, Exception):
            raise GenerationFailed(f"no picture of {request.prompt!r}: {made}") from made
        pictures.append(made)
    return pictures
