"""Our policy: the market that the scheduler itself keeps, asked for a bid price in each window.

It knows what every policy knows.
"""

from scheduler.allocation.hulls import floors, increments
from scheduler.allocation.knapsack import solve
from scheduler.allocation.market import Market
from scheduler.allocation.options import Tiers
from scheduler.simulation.policies import Known, SimWindow


class Ours:
    """See the module."""

    def __init__(self, known: Known) -> None:
        self._market = Market.after(known.earlier.options)

    def decide(self, window: SimWindow) -> Tiers:
        """Return the best that the money buys at the price."""
        seen = self._market.with_jobs(window.options, period=str(window.period))
        self._market = seen.judged(jobs_left=window.jobs_left)
        offer = self._market.offer(increments(window.options), money=window.money, jobs_left=window.jobs_left)
        floor = int(floors(window.options)[1].sum())
        return solve(window.options, budget=floor + offer.most, price=offer.price).tier
