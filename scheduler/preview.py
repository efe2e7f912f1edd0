"""What a batch would come to before anything is drawn: split, cost, predicted quality, the job at the cut.

Pure: a draft of predicted lines and a budget in, values out; the choice is the allocator's, so that what is
shown is what a submission with this preview gets. It reads no prompt file, asks nobody and writes nothing.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scheduler.allocation.hulls import Increments, increments
from scheduler.allocation.knapsack import solve
from scheduler.allocation.options import Bound, Choice, Floats, Options
from scheduler.preview_draft import Block, Draft, DraftLine
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
    draft: Draft,
    *,
    budget: int | None = None,
    quality: float | None = None,
    speeds: Speeds | None = None,
) -> Plan:
    """Return what a batch of these lines would come to.

    Args:
        draft: at least one line.
        budget: micro-dollars, at least the floor; None = no limit.
        quality: instead of a budget: the least money that brings this share of the gain of all jobs on the
            cloud tier, in (0, 1]. Where the cloud gains nothing that is the floor.
        speeds: how long pictures take, which no choice depends on; None = what the tier file says.
    Raises:
        ValueError: the budget is below the floor, or budget and quality are both given.
    """
    if budget is not None and quality is not None:
        raise ValueError("either a budget or a quality")
    options = draft.options()
    curve = quality_curve(options)
    all_cloud = float(options.gain[:, -1].sum())
    if quality is not None:
        budget = curve.budget_for(quality * max(all_cloud, 0.0))
        budget = curve.ceiling if budget is None else budget
    if budget is not None and budget < curve.floor:
        raise ValueError(f"a budget of {budget} is below the floor of {curve.floor} micro-dollars")
    choice = solve(options, budget=budget)
    last, first = _cuts(choice=choice, options=options)
    speeds = speeds or Speeds.of(draft.tiers, ())
    work, means = _Work(choice=choice, speeds=speeds), _Means(choice=choice, routed=draft.tiers.routed)
    cuts: dict[int, Cut] = {}  # row -> what is said of it
    for block in draft.blocks():
        work.see(block)
        means.see(block)
        for one in (last, first):
            if one is not None and block.start <= one.row < block.start + len(block.lines):
                cuts[one.row] = _cut(one, block, routed=draft.tiers.routed)
    preview = Preview(
        jobs=len(draft),
        pictures=draft.pictures,
        budget_micro_usd=budget,
        micro_usd=choice.micro_usd,
        floor_micro_usd=curve.floor,
        ceiling_micro_usd=curve.ceiling,
        parts=tuple(
            work.part(name, micro_usd=int(options.micro_usd[choice.tier == column, column].sum()))
            for column, name in enumerate(draft.tiers.routed)
        ),
        gain=choice.gain,
        gain_all_cloud=all_cloud,
        gain_best=float(curve.gain[-1]),
        metrics=means.told(),
        last_bought=None if last is None else cuts[last.row],
        first_refused=None if first is None else cuts[first.row],
    )
    return Plan(preview=preview, choice=choice, options=options, curve=curve)


class _Work:
    """What each tier would draw, summed block by block."""

    def __init__(self, *, choice: Choice, speeds: Speeds) -> None:
        self._choice = choice
        self._speeds = speeds
        self._jobs: dict[str, int] = defaultdict(int)
        self._pictures: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        self._unknown: set[str] = set()  # tiers that draw a job of which nobody knows how long it takes

    def see(self, block: Block) -> None:
        """Take the lines of a block to their tiers."""
        routed = self._speeds.tiers.routed
        for one, column in zip(block.lines, self._choice.tier[block.rows].tolist(), strict=True):
            tier = routed[column]
            self._jobs[tier] += 1
            self._pictures[tier] += one.n
            seconds = self._speeds.seconds(tier, one.n, one.width, one.height)
            if seconds is None:
                self._unknown.add(tier)
            else:
                self._seconds[tier] += seconds

    def part(self, tier: str, *, micro_usd: int) -> TierPart:
        """Return a tier's part of the blocks so far."""
        return TierPart(
            tier=tier,
            jobs=self._jobs[tier],
            pictures=self._pictures[tier],
            micro_usd=micro_usd,
            seconds=None if tier in self._unknown else self._seconds[tier],
            seconds_from=self._speeds.source(tier),
        )


class _Means:
    """The mean score per metric of all on edge, of the choice, and of all on cloud, summed block by block."""

    def __init__(self, *, choice: Choice, routed: tuple[str, ...]) -> None:
        self._choice = choice
        self._routed = routed
        self._names: list[str] = []
        self._sums: Floats | None = None  # (3, N): all edge, as chosen, all cloud
        self._rows = 0
        self._known = True  # so far each line has scores on each tier

    def see(self, block: Block) -> None:
        """Add the scores of a block."""
        told = [one.scores for one in block.predictions]
        self._known &= all(name in one for one in told for name in self._routed)
        if not self._known:
            return
        self._names = self._names or list(told[0][self._routed[0]])
        scores = np.array(
            [[[one[tier][name] for name in self._names] for tier in self._routed] for one in told]
        )  # (n, T, N)
        chosen = scores[np.arange(len(scores)), self._choice.tier[block.rows]]
        sums = np.stack([one.sum(axis=0) for one in (scores[:, 0], chosen, scores[:, -1])])
        self._sums = sums if self._sums is None else self._sums + sums
        self._rows += len(told)

    def told(self) -> Mapping[str, MetricMeans]:
        """Return the means; none where some line has no scores on some tier."""
        if not self._known or self._sums is None:
            return {}
        edge, chosen, cloud = (self._sums / self._rows).tolist()
        return {
            name: MetricMeans(edge=edge[k], chosen=chosen[k], cloud=cloud[k])
            for k, name in enumerate(self._names)
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """A step up of one job."""

    row: int
    tier: int  # column that it leads to
    extra_micro_usd: int
    gain: float


def _cuts(*, choice: Choice, options: Options) -> tuple[_Step | None, _Step | None]:
    """Return the least efficient step that was bought and the most efficient one that money refused."""
    steps = increments(options)
    paid = options.micro_usd[steps.job, choice.tier[steps.job]]
    bought = options.micro_usd[steps.job, steps.tier] <= paid  # a hull's prices rise from step to step
    refused = ~bought & (choice.bound[steps.job] == Bound.MONEY)
    last = np.flatnonzero(bought)
    first = np.flatnonzero(refused)
    return (
        _step(steps, int(last[np.argmin(steps.efficiency[last])])) if len(last) else None,
        _step(steps, int(first[np.argmax(steps.efficiency[first])])) if len(first) else None,
    )


def _step(steps: Increments, index: int) -> _Step:
    return _Step(
        row=int(steps.job[index]),
        tier=int(steps.tier[index]),
        extra_micro_usd=int(steps.extra[index]),
        gain=float(steps.efficiency[index] * steps.extra[index]),
    )


def _cut(step: _Step, block: Block, *, routed: tuple[str, ...]) -> Cut:
    """Return what is said of a step of a job in the block."""
    one: DraftLine = block.lines[step.row - block.start]
    return Cut(
        line_no=one.line_no,
        custom_id=one.custom_id,
        prompt=one.prompt,
        prs=block.predictions[step.row - block.start].prs,
        tier=routed[step.tier],
        extra_micro_usd=step.extra_micro_usd,
        gain=step.gain,
    )
