"""How long jobs without money are left alone: the longer, the more there are of them.

A job that is deferred comes back after a second. Many thousands would come back sooner than windows can look
at them all, and their client's next batches, which may have money, would wait for ever. Pure values: it knows
no budget and no clock.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from routet2i.contracts import DEFERRED_BY, WindowJob

SHORTEST_MS, LONGEST_MS = 1_000, 300_000
SHARE = 0.5  # of the leader's time that looking again at jobs without money may take
BATCHES = 10_000  # that are remembered
SHORT_OF_MONEY = frozenset(DEFERRED_BY.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Poor:
    """A batch that has jobs without money."""

    jobs: int  # that wait in it, with or without money
    until_ms: int  # when they were due again long ago: it has ended, or was paid, cancelled or paused


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """The batches that had jobs without money lately, and how long such jobs wait now."""

    poor: Mapping[str, Poor] = field(default_factory=dict)  # by batch id, the latest used last
    ms: int = SHORTEST_MS

    def after(
        self,
        jobs: Sequence[WindowJob],
        deferred: Collection[tuple[str, str]],
        *,
        waiting: Mapping[str, int],
        seconds_per_job: float,
        now_ms: int,
    ) -> "Patience":
        """Return what is known after a window.

        Args:
            jobs: of the window.
            deferred: (job id, reason).
            waiting: batch id -> jobs that are queued in it, of the window's batches.
            seconds_per_job: that deciding takes, >= 0.
            now_ms: the window's, by the database's clock.
        """
        short = _short(deferred)
        without = {job.batch_id for job in jobs if job.job_id in short}
        seen = {job.batch_id for job in jobs}
        others = {
            batch: one
            for batch, one in self.poor.items()
            if batch not in seen and now_ms <= one.until_ms <= now_ms + 2 * LONGEST_MS
        }
        total = sum(one.jobs for one in others.values()) + sum(waiting[batch] for batch in without)
        ms = round(min(max(1000 * total * seconds_per_job / SHARE, SHORTEST_MS), LONGEST_MS))
        poor = others | {batch: Poor(jobs=waiting[batch], until_ms=now_ms + 2 * ms) for batch in without}
        return Patience(poor=dict(list(poor.items())[-BATCHES:]), ms=ms)

    def waits(self, deferred: Collection[tuple[str, str]]) -> Mapping[str, int]:
        """Return job id -> milliseconds, of the deferred jobs that wait for money."""
        return dict.fromkeys(_short(deferred), self.ms)


def _short(deferred: Collection[tuple[str, str]]) -> set[str]:
    return {job_id for job_id, reason in deferred if reason in SHORT_OF_MONEY}
