"""What more money buys: predicted gain against money for every budget, its knee, and the way back.

Pure: the steps that the allocator may buy in, points out. It knows neither tiers' names nor a batch; a point
says what the best plan within its money would bring, up to one step.
"""

from dataclasses import dataclass

import numpy as np

from scheduler.allocation.hulls import floors, increments
from scheduler.allocation.options import Floats, Money, Options


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityCurve:
    """Points from the cheapest plan to the one that no money improves; m steps make m + 1 points."""

    micro_usd: Money  # (m + 1,) rising; the first is the floor of all jobs
    gain: Floats  # (m + 1,) predicted, rising and concave; the first is 0
    efficiency: Floats  # (m,) gain per micro-dollar of the step behind each point but the first, falling

    @property
    def floor(self) -> int:
        """Return what the cheapest plan costs, micro-dollars."""
        return int(self.micro_usd[0])

    @property
    def ceiling(self) -> int:
        """Return what the best plan costs, micro-dollars: more money changes nothing."""
        return int(self.micro_usd[-1])

    def gain_at(self, budget: int) -> float:
        """Return the gain of the last point that the budget pays; 0 below the floor."""
        paid = int(np.searchsorted(self.micro_usd, budget, side="right"))
        return float(self.gain[max(paid - 1, 0)])

    def budget_for(self, gain: float) -> int | None:
        """Return the cheapest point's money with at least this gain; None if no money brings it."""
        slack = 1e-12 * max(1.0, float(self.gain[-1]))  # sums of floats reach their own total
        point = int(np.searchsorted(self.gain, gain - slack))
        return int(self.micro_usd[point]) if point < len(self.gain) else None

    def knee(self) -> int:
        """Return the point after which money brings less than the average of the whole curve.

        It is the point farthest above the straight line between the ends (Satopaa et al., Finding a Kneedle
        in a Haystack, 2011); of equal ones the cheapest.
        """
        span = self.ceiling - self.floor
        if not span or not self.gain[-1]:
            return 0
        above = self.gain / self.gain[-1] - (self.micro_usd - self.floor) / span
        return int(np.argmax(above))

    def sampled(self, points: int) -> list[int]:
        """Return indexes of at most so many points, evenly spaced in money, with both ends and the knee."""
        wanted = np.linspace(self.floor, self.ceiling, max(points - 1, 2))
        found = np.searchsorted(self.micro_usd, wanted, side="right") - 1
        return sorted({*found.tolist(), len(self.gain) - 1, self.knee()})


def quality_curve(options: Options) -> QualityCurve:
    """Return the curve of all jobs together: steps of their hulls, best per micro-dollar first.

    Args:
        options: every job; one that no tier may draw is left out.
    Source: the linear relaxation of the multiple-choice knapsack, routing.md section 10, for every budget.
    """
    _, floor = floors(options)
    steps = increments(options)
    order = np.lexsort((np.arange(len(steps)), options.rank[steps.job], -steps.efficiency))
    return QualityCurve(
        micro_usd=int(floor.sum()) + np.concatenate([[0], np.cumsum(steps.extra[order])]),
        gain=np.concatenate([[0.0], np.cumsum(steps.gain[order])]),
        efficiency=steps.efficiency[order],
    )
