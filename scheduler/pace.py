"""When a decision window closes and how many jobs it takes: by count, by age, by what deciding has cost.

Pure values. It knows no clock and no queue: what waits, since when, and how long the last window took are
arguments.
"""

from dataclasses import dataclass, replace

MEMORY = 0.7  # of the mean cost of a job from window to window: the last few count
LEAST = 16  # jobs: below it a window is mostly overhead


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """What windows have cost lately, and the limits they keep to."""

    most: int  # jobs a window may take, >= 1
    age: float  # seconds: nobody waits longer for a window to close
    target: float  # seconds that a window may take from opening to commit
    seconds_per_job: float | None = None  # of the last windows; None = none was seen yet

    @property
    def size(self) -> int:
        """Return how many jobs the next window takes at most, so that it meets the target.

        It grows again as soon as jobs get cheaper: an encoder is loaded once, a database may be busy once.
        """
        if not self.seconds_per_job:
            return self.most
        affordable = self.target / self.seconds_per_job
        return int(min(self.most, max(affordable, LEAST)))

    def closes(self, *, waiting: int, oldest_seconds: float) -> bool:
        """Return whether what waits is decided now.

        Args:
            waiting: jobs, counted up to `size` at least.
            oldest_seconds: since the first of them has been waiting.
        """
        return waiting >= self.size or (waiting > 0 and oldest_seconds >= self.age)

    def after(self, *, jobs: int, seconds: float) -> "Pace":
        """Return the pace after a window that took so long for so many jobs; an empty one tells nothing."""
        if jobs <= 0:
            return self
        cost = seconds / jobs
        if self.seconds_per_job is None:
            return replace(self, seconds_per_job=cost)
        return replace(self, seconds_per_job=MEMORY * self.seconds_per_job + (1 - MEMORY) * cost)
