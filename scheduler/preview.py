"""What a batch would come to before anything is drawn: split, cost, predicted quality, the job at the cut.

Pure: lines of a file, predictions, prices and a budget in, values out; the choice is the allocator's, so that
what is shown is what a submission with this preview gets. It reads no file, asks no predictor and writes
nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from routet2i.contracts import GenerationRequest, Prediction, Yardstick
from routet2i.tiers import Tiers
from scheduler.allocation.hulls import increments
from scheduler.allocation.knapsack import solve
from scheduler.allocation.options import Bound, Choice, Options
from scheduler.gains import options_of
from scheduler.quality_curve import QualityCurve, quality_curve
from scheduler.speeds import Speeds


@dataclass(frozen=True, kw_only=True, slots=True)
class TierPart:
    """What one tier would draw."""

    tier: str
    jobs: int
    pictures: int
    micro_usd: int
    seconds: float | None  # of one device; None = nobody knows how long a picture takes
    seconds_from: str | None  # where that comes from


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricMeans:
    """A metric's predicted score, mean over jobs, [0, 1]."""

    edge: float  # if all jobs went there
    chosen: float
    cloud: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A job at the cut, and the step up that was bought for it last or refused first."""

    line_no: int
    custom_id: str
    prompt: str
    prs: float
    tier: str  # that the step leads to
    extra_micro_usd: int  # above the tier below
    gain: float  # above the tier below


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """A batch's plan under one budget."""

    jobs: int
    pictures: int
    budget_micro_usd: int | None  # None = no limit
    micro_usd: int  # what the plan reserves, and what it charges if every job succeeds
    floor_micro_usd: int  # every job on its cheapest tier
    ceiling_micro_usd: int  # beyond it money changes nothing
    parts: tuple[TierPart, ...]  # in the order of the routed tiers
    gain: float  # predicted, above the edge tier: sum of n (1/2 - PRS)
    gain_all_cloud: float
    gain_best: float  # of the plan without a limit
    metrics: Mapping[str, MetricMeans]  # empty where the predictor knows only a rank
    last_bought: Cut | None
    first_refused: Cut | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A preview with what it was made of."""

    preview: Preview
    choice: Choice
    options: Options
    curve: QualityCurve


def plan(
    requests: Sequence[GenerationRequest],
    predictions: Sequence[Prediction],
    *,
    tiers: Tiers,
    yardstick: Yardstick | None,
    budget: int | None = None,
    quality: float | None = None,
    speeds: Speeds | None = None,
) -> Plan:
    """Return what a batch of these lines would come to.

    Args:
        requests: at least one.
        predictions: one per line.
        yardstick: of the predictor, or None.
        budget: micro-dollars, at least the floor; None = no limit.
        quality: instead of a budget: the least money that brings this share of the gain of all jobs on the
            cloud tier, in (0, 1]. Where the cloud gains nothing that is the floor.
        speeds: how long pictures take, which no choice depends on; None = what the tier file says.
    Raises:
        ValueError: the budget is below the floor, or budget and quality are both given.
    """
    if budget is not None and quality is not None:
        raise ValueError("either a budget or a quality")
    options = options_of(
        requests, predictions, tiers=tiers, yardstick=yardstick, rank=[one.line_no for one in requests]
    )
    curve = quality_curve(options)
    all_cloud = float(options.gain[:, -1].sum())
    if quality is not None:
        budget = curve.budget_for(quality * max(all_cloud, 0.0))
        budget = curve.ceiling if budget is None else budget
    if budget is not None and budget < curve.floor:
        raise ValueError(f"a budget of {budget} is below the floor of {curve.floor} micro-dollars")
    choice = solve(options, budget=budget)
    last, first = _cuts(requests, predictions, choice=choice, options=options, tiers=tiers)
    preview = Preview(
        jobs=len(requests),
        pictures=sum(one.n for one in requests),
        budget_micro_usd=budget,
        micro_usd=choice.micro_usd,
        floor_micro_usd=curve.floor,
        ceiling_micro_usd=curve.ceiling,
        parts=tuple(
            _part(
                name,
                column,
                requests,
                choice=choice,
                options=options,
                speeds=speeds or Speeds.of(tiers, ()),
            )
            for column, name in enumerate(tiers.routed)
        ),
        gain=choice.gain,
        gain_all_cloud=all_cloud,
        gain_best=float(curve.gain[-1]),
        metrics=_means(predictions, choice=choice, tiers=tiers),
        last_bought=last,
        first_refused=first,
    )
    return Plan(preview=preview, choice=choice, options=options, curve=curve)


def _part(
    name: str,
    column: int,
    requests: Sequence[GenerationRequest],
    *,
    choice: Choice,
    options: Options,
    speeds: Speeds,
) -> TierPart:
    rows = np.flatnonzero(choice.tier == column).tolist()
    own = [requests[row] for row in rows]
    seconds = [speeds.seconds(name, one.n, one.width, one.height) for one in own]
    known = [one for one in seconds if one is not None]
    return TierPart(
        tier=name,
        jobs=len(own),
        pictures=sum(one.n for one in own),
        micro_usd=int(options.micro_usd[rows, column].sum()),
        seconds=sum(known) if len(known) == len(seconds) else None,
        seconds_from=speeds.source(name),
    )


def _means(predictions: Sequence[Prediction], *, choice: Choice, tiers: Tiers) -> Mapping[str, MetricMeans]:
    """Return the mean score per metric of all on edge, of the choice, and of all on cloud."""
    if not all(name in one.scores for one in predictions for name in tiers.routed):
        return {}
    names = list(predictions[0].scores[tiers.edge])
    scores = np.array(
        [[[one.scores[tier][name] for name in names] for tier in tiers.routed] for one in predictions]
    )  # (n, T, N)
    chosen = scores[np.arange(len(scores)), choice.tier].mean(axis=0)
    edge, cloud = scores[:, 0].mean(axis=0), scores[:, -1].mean(axis=0)
    return {
        name: MetricMeans(edge=float(edge[k]), chosen=float(chosen[k]), cloud=float(cloud[k]))
        for k, name in enumerate(names)
    }


def _cuts(
    requests: Sequence[GenerationRequest],
    predictions: Sequence[Prediction],
    *,
    choice: Choice,
    options: Options,
    tiers: Tiers,
) -> tuple[Cut | None, Cut | None]:
    """Return the least efficient step that was bought and the most efficient one that money refused."""
    steps = increments(options)
    paid = options.micro_usd[steps.job, choice.tier[steps.job]]
    bought = options.micro_usd[steps.job, steps.tier] <= paid  # a hull's prices rise from step to step
    refused = ~bought & (choice.bound[steps.job] == Bound.MONEY)

    def cut(step: int) -> Cut:
        row = int(steps.job[step])
        one = requests[row]
        return Cut(
            line_no=one.line_no,
            custom_id=one.custom_id,
            prompt=one.prompt,
            prs=predictions[row].prs,
            tier=tiers.routed[int(steps.tier[step])],
            extra_micro_usd=int(steps.extra[step]),
            gain=float(steps.gain[step]),
        )

    last = np.flatnonzero(bought)
    first = np.flatnonzero(refused)
    return (
        cut(int(last[np.argmin(steps.efficiency[last])])) if len(last) else None,
        cut(int(first[np.argmax(steps.efficiency[first])])) if len(first) else None,
    )
