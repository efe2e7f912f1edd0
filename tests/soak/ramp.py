"""The search for the highest load that lasts: a rate is doubled until what waits grows, then taken back.

It knows rates and backlogs. How a rate is applied and a backlog looked at it is told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.soak.growth import slope

STEP_SECONDS = 14.0
PROOF_SECONDS = 30.0
SHARE = 0.9  # of what was served while more came than could be served
GROWING = 0.1  # of the rate: a backlog that rises faster grows
TRIES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One rate, and what it did."""

    rate: float  # jobs/s that came
    served: float  # jobs/s that were finished, in its second half
    growing: float  # jobs/s by which the backlog rose, in its second half

    @property
    def lasts(self) -> bool:
        """Whether the stack keeps pace."""
        return self.growing <= GROWING * self.rate


Look = tuple[float, int, int]  # seconds, jobs finished, jobs unfinished


def seen(rate: float, looks: Sequence[Look]) -> Step:
    """Make a step of what was looked at while a rate was applied."""
    late = looks[len(looks) // 2 :]
    times = [at for at, _, _ in late]
    return Step(
        rate=rate,
        served=(late[-1][1] - late[0][1]) / (times[-1] - times[0]),
        growing=slope(times, [waits for _, _, waits in late]),
    )


def highest(apply: Callable[[float, float], Step], drain: Callable[[], None], *, start: float) -> list[Step]:
    """Search; the last step is the load that lasts.

    Args:
        apply: brings jobs at a rate for so many seconds.
        drain: waits until hardly anything waits.
        start: the first rate, jobs/s.
    Raises:
        RuntimeError: no rate that was tried lasts.
    """
    steps, rate = [apply(start, STEP_SECONDS)], start
    while True:
        if steps[-1].lasts:
            rate *= 2
        elif len(steps) > 1 and steps[-2].rate == rate:
            break
        steps.append(apply(rate, STEP_SECONDS))  # once more if the backlog grew: it may have been settling
    rate = SHARE * max(steps[-2].served, steps[-1].served)
    for _ in range(TRIES):
        drain()
        steps.append(apply(rate, PROOF_SECONDS))
        if steps[-1].lasts:
            return steps
        rate = SHARE * min(rate, steps[-1].served)
    raise RuntimeError(f"the backlog grows even at {steps[-1].rate:.1f} jobs/s")
