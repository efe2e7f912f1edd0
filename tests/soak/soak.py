"""One soak: the highest load that lasts is searched for, kept up, and what the stack holds is judged.

It knows the order of these steps. How the load is searched, what is looked at and what is a leak stand
beside it.
"""

import sys
import time
from bisect import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import text

from db.invariants import check_invariants
from db.session import reading
from tests.soak.growth import TOLERANCES, Judgement, judge, per_job
from tests.soak.ramp import Look, Step, highest, seen
from tests.soak.sampling import Ears, Sample, Sampler, pictures, series
from tests.soak.source import Source
from tests.soak.stack import CLOUD_SHARES, FIRST_RATES, Shape, Stack, running

WARM_UP_SHARE, LEAST_WARM_UP_SECONDS = 0.15, 60.0  # of the time; caches fill, pools open their connections
EVERY_SECONDS = (2.0, 5.0)  # between two looks, in a short and in a long soak
LOOK_SECONDS = 0.5  # while the load is searched
DRAIN_SECONDS = 180.0
NOT_JUDGED = (
    "PostgreSQL: rss",  # counts the shared buffers once per connection
    "PostgreSQL: open_files",  # a cache of the server: each connection keeps up to a thousand files open
)
LINEAR = 0.1  # by so much more may a job add in the second half than in the first


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What one soak does."""

    minutes: float
    cores: int  # that this process has been left, told only
    seed: int = 1
    rate: float | None = None  # jobs/s; None = search
    warm_up_seconds: float | None = None  # None = by the constants above
    shape: Shape = field(default_factory=Shape)
    keep: Path | None = None

    @property
    def warm_up(self) -> float:
        """Seconds of full load that are not judged."""
        if self.warm_up_seconds is not None:
            return self.warm_up_seconds
        seconds = 60 * self.minutes
        return min(max(LEAST_WARM_UP_SECONDS, WARM_UP_SHARE * seconds), seconds / 3)

    @property
    def every(self) -> float:
        """Seconds between two looks."""
        return min(max(60 * self.minutes / 360, EVERY_SECONDS[0]), EVERY_SECONDS[1])


@dataclass(kw_only=True)
class Verdict:
    """What one soak was and what it found."""

    plan: Plan
    steps: list[Step] = field(default_factory=list)
    rate: float = 0.0  # jobs/s that came
    done: int = 0  # jobs finished while it was judged
    seconds: float = 0.0  # that were judged
    held_back: float = 0.0  # share of the batches
    idle: float = 0.0  # share of the looks that found nothing unfinished
    unfinished: tuple[float, float] = (0.0, 0.0)  # median of the first and of the last quarter
    judgements: list[Judgement] = field(default_factory=list)
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)  # of leaks: s, values
    added: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # total -> bytes per job, late / early
    heard: dict[str, int] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    failed: int = 0  # jobs that did not succeed
    lost: int = 0  # jobs without an outcome at the end
    left: int = 0  # temporary files at the end
    breaches: list[str] = field(default_factory=list)

    @property
    def leaks(self) -> list[Judgement]:
        """What grows without end."""
        return [one for one in self.judgements if one.leaks]

    @property
    def crooked(self) -> list[str]:
        """The totals that grow faster than the jobs."""
        return [name for name, (_, ratio) in self.added.items() if ratio > 1 + LINEAR]

    @property
    def holds(self) -> bool:
        """Whether nothing leaks, nothing was lost and the load lasted."""
        wrong = self.leaks or self.crooked or self.replaced or self.breaches
        return not (wrong or self.failed or self.lost or self.left)

    def as_json(self) -> dict[str, Any]:
        """Return everything, one line's content."""
        return {**asdict(self), "plan": str(self.plan), "holds": self.holds}


def run(plan: Plan) -> Verdict:
    """Carry a plan out and return the verdict."""
    verdict = Verdict(plan=plan)
    with running(plan.shape, keep=plan.keep) as stack:
        ears = Ears(stack.client)
        source = Source(
            stack.repository,
            stack.settings,
            folder=stack.prompts,
            seed=plan.seed,
            cloud_share=CLOUD_SHARES[plan.shape.renderer],
            unfinished=stack.unfinished,
        )
        try:
            if plan.rate is None:
                verdict.steps = _search(stack, source, start=FIRST_RATES[plan.shape.renderer])
            verdict.rate = source.rate = plan.rate or verdict.steps[-1].rate
            samples = _keep_up(stack, source, plan, verdict)
        finally:
            source.stop()
            ears.close()
        _drain(stack, source, most=0)
        stack.stop()
        verdict.heard = dict(ears.heard)
        _judge(verdict, samples)
        _look_at_the_end(verdict, stack, samples)
    return verdict


def _keep_up(stack: Stack, source: Source, plan: Plan, verdict: Verdict) -> list[Sample]:
    """Let the load run and return the looks that count."""
    _watch(stack, source, plan.warm_up)
    sampler, samples = Sampler(stack), list[Sample]()
    due, held_back = source.due, source.held_back
    began = time.monotonic()
    while (passed := time.monotonic() - began) < 60 * plan.minutes - plan.warm_up or len(samples) < 2:
        source.check()
        samples.append(sampler.look())
        if len(samples) % 12 == 1:
            last = samples[-1]
            print(f"  {passed:5.0f} s  {last.done:8} done  {last.unfinished:6} not", file=sys.stderr)
        time.sleep(max(0.0, plan.every - (time.monotonic() - began - passed)))
    verdict.held_back = (source.held_back - held_back) / max(1, source.due - due)
    verdict.replaced = sampler.replaced()
    if stack.restarts():
        verdict.replaced.append(f"{stack.restarts()} processes were started again")
    return samples


def _watch(stack: Stack, source: Source, seconds: float) -> list[Look]:
    """Look at the backlog for so long."""
    began, looks = time.monotonic(), list[Look]()
    while (passed := time.monotonic() - began) < seconds or len(looks) < 4:
        source.check()
        counts = stack.counts()
        done = counts.get("done", 0)
        looks.append((passed, done, sum(counts.values()) - done))
        time.sleep(LOOK_SECONDS)
    return looks


def _search(stack: Stack, source: Source, *, start: float) -> list[Step]:
    def apply(rate: float, seconds: float) -> Step:
        source.rate = rate
        step = seen(rate, _watch(stack, source, seconds))
        print(
            f"  {rate:7.1f} jobs/s come, {step.served:7.1f} are served, "
            f"the backlog grows by {step.growing:6.1f}/s",
            file=sys.stderr,
        )
        return step

    return highest(apply, lambda: _drain(stack, source, most=20), start=start)


def _drain(stack: Stack, source: Source, *, most: int) -> None:
    """Let nothing come until hardly anything waits, or for as long as it may take."""
    source.rate = 0.0
    deadline = time.monotonic() + DRAIN_SECONDS
    while stack.unfinished() > most and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def _judge(verdict: Verdict, samples: Sequence[Sample]) -> None:
    found = series(samples)
    for name, (times, values) in sorted(found.items()):
        tolerance = TOLERANCES.get(name.rsplit(": ", 1)[1])
        if tolerance is not None and name not in NOT_JUDGED:
            verdict.judgements.append(judge(name, times, values, tolerance))
    verdict.curves = {one.series: found[one.series] for one in verdict.leaks}
    jobs = [sample.done for sample in samples]
    verdict.done = jobs[-1] - jobs[0]
    verdict.seconds = samples[-1].at - samples[0].at
    waiting = [sample.unfinished for sample in samples]
    quarter = max(1, len(waiting) // 4)
    verdict.unfinished = (median(waiting[:quarter]), median(waiting[-quarter:]))
    verdict.idle = sum(number == 0 for number in waiting) / len(waiting)
    for total in ("database", "log"):
        verdict.added[total] = per_job(jobs, found[f"{total}: bytes"][1])


def _look_at_the_end(verdict: Verdict, stack: Stack, samples: Sequence[Sample]) -> None:
    drawn, verdict.left = pictures(stack.settings.pictures)
    times = [at for at, _ in drawn]
    totals = list(accumulate((size for _, size in drawn), initial=0))
    verdict.added["pictures"] = per_job(
        [sample.done for sample in samples], [totals[bisect(times, sample.time)] for sample in samples]
    )
    verdict.lost = stack.unfinished()
    with reading(stack.engine) as connection:
        failed = connection.scalar(text("SELECT count(*) FROM outcome WHERE state <> 'succeeded'"))
    verdict.failed = int(failed or 0)
    verdict.breaches = [f"{one.invariant}: {one.detail}" for one in check_invariants(stack.engine)]
