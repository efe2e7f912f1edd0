"""What a leader remembers from window to window: each budget's market, and when jobs came.

What it cannot remember it reads off what earlier windows have recorded, so a new leader goes on where the one
before it has ended. It decides nothing and knows no SQL.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from routet2i.contracts import SLOT_MS, Account, Arrivals, DecidedJob, Scope, WindowWork
from routet2i.tiers import Tiers
from scheduler.allocation.bid_price import SAMPLE_JOBS
from scheduler.allocation.market import Market
from scheduler.demand import Demand, demand
from scheduler.gains import options_of
from scheduler.predictor.interface import Predictor
from scheduler.predictor.yardsticks import yardstick_of

MARKETS = 256  # budgets whose market is remembered; 0.3 MB each


class Records(Protocol):
    """What a memory needs of `db.repository.Repository`."""

    def decided_jobs(
        self, accounts: Iterable[Account], *, predictor_name: str, predictor_version: str, limit: int
    ) -> Mapping[Account, tuple[DecidedJob, ...]]:
        """Return the newest jobs that windows with this predictor have decided for accounts, oldest first."""

    def arrivals(self, accounts: Iterable[Account], *, now_ms: int) -> Mapping[Account, Arrivals]:
        """Return how many jobs came for accounts, in slots that are complete."""


class Memory:
    """Of one leader; what its first window needs is read then."""

    def __init__(self) -> None:
        self._markets: dict[str, Market] = {}  # budget id -> its market, the latest used last
        self._slot = -1  # in which arrivals were read
        self._arrivals: dict[Account, Arrivals] = {}

    def markets(
        self, records: Records, work: WindowWork, predictor: Predictor, *, tiers: Tiers
    ) -> Mapping[str, Market]:
        """Return budget id -> market, for all of a window's budgets with a limit that have decided before.

        Jobs that another predictor was asked about are left out: its gains may have another yardstick.
        """
        unknown = [one for one in _limited(work) if one.budget_id not in self._markets]
        if unknown:
            found = records.decided_jobs(
                unknown,
                predictor_name=predictor.name,
                predictor_version=predictor.version,
                limit=SAMPLE_JOBS,
            )
            for account, jobs in found.items():
                options = options_of(
                    jobs,
                    [job.prediction for job in jobs],
                    tiers=tiers,
                    yardstick=yardstick_of(predictor),
                    rank=range(len(jobs)),
                )
                self._markets[account.budget_id] = Market.new().with_jobs(options, period=account.period)
        return self._markets

    def remember(self, seen: Mapping[str, Market]) -> None:
        """Keep the markets that a window leaves; forget the ones that are longest unused."""
        for budget_id, market in seen.items():
            self._markets.pop(budget_id, None)
            self._markets[budget_id] = market
        for budget_id in list(self._markets)[:-MARKETS]:
            del self._markets[budget_id]

    def demands(self, records: Records, work: WindowWork) -> dict[Account, Demand]:
        """Return the jobs that nobody has submitted yet, by account, for limits of clients and deployments.

        A limit without an end, and what a batch sets aside for itself, expects none.
        """
        ends = {one: work.accounts[one].ends_ms for one in _limited(work) if one.scope is not Scope.BATCH}
        if work.now_ms // SLOT_MS != self._slot:
            self._slot = work.now_ms // SLOT_MS
            self._arrivals = {}
        new = [one for one, ends_ms in ends.items() if ends_ms is not None and one not in self._arrivals]
        if new:
            self._arrivals.update(records.arrivals(new, now_ms=work.now_ms))
        return {
            one: demand(self._arrivals[one], now_ms=work.now_ms, ends_ms=ends_ms)
            for one, ends_ms in ends.items()
            if ends_ms is not None
        }


def _limited(work: WindowWork) -> list[Account]:
    """Return the accounts that have a limit."""
    return [account for account, funds in work.accounts.items() if funds.limit is not None]
