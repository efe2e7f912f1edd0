"""What a leader remembers from window to window: each budget's market, and when jobs came.

What it cannot remember it reads off what earlier windows have recorded, so a new leader goes on where the one
before it has ended. What a budget is to expect of its period it reads off the periods before; of a batch, off
some jobs of its file: a sorted one would fool a price that knows the newest jobs alone. It decides nothing
and knows no SQL.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from routet2i.contracts import (
    SLOT_MS,
    Account,
    Arrivals,
    DecidedJob,
    Prediction,
    SampledJob,
    Scope,
    WindowWork,
)
from routet2i.tiers import Tiers
from scheduler.allocation.bid_price import SAMPLE_JOBS
from scheduler.allocation.market import Market
from scheduler.allocation.options import Options
from scheduler.demand import Demand, demand
from scheduler.gains import Sized, options_of
from scheduler.predictor.interface import Predictor
from scheduler.predictor.yardsticks import yardstick_of

MARKETS = 256  # budgets whose market is remembered; 0.3 MB each


ASKED_JOBS = 512  # that are predicted before their window, once per budget: a second's work


class Records(Protocol):
    """What a memory needs of `db.repository.Repository`."""

    def decided_jobs(
        self, accounts: Iterable[Account], *, predictor_name: str, predictor_version: str, limit: int
    ) -> Mapping[Account, tuple[DecidedJob, ...]]:
        """Return the newest jobs that windows with this predictor have decided for accounts, oldest first."""

    def sampled_jobs(self, batch_id: str, *, jobs: int) -> tuple[SampledJob, ...]:
        """Return about so many jobs of a batch, spread over its file."""

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
        """Return budget id -> market, for all of a window's budgets with a limit that anything is known of.

        Jobs that another predictor was asked about are left out: its gains may have another yardstick.
        """
        unknown = [one for one in _limited(work) if not self._knows(one)]
        if unknown:
            found = records.decided_jobs(
                unknown,
                predictor_name=predictor.name,
                predictor_version=predictor.version,
                limit=SAMPLE_JOBS,
            )
            values = _Values(predictor, tiers=tiers)
            for account in unknown:
                jobs = found.get(account, ())
                starts_ms = work.accounts[account].starts_ms
                earlier = [job for job in jobs if job.decided_ms < starts_ms]
                own = [job for job in jobs if job.decided_ms >= starts_ms]
                expected = (
                    values.decided(earlier) if earlier else values.asked(_sample(records, work, account))
                )
                market = Market.after(expected).with_jobs(values.decided(own), period=account.period)
                self._markets[account.budget_id] = market
        return self._markets

    def _knows(self, account: Account) -> bool:
        known = self._markets.get(account.budget_id)
        return known is not None and known.period == account.period

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


class _Values:
    """What jobs are worth by one predictor, as a window would see it."""

    def __init__(self, predictor: Predictor, *, tiers: Tiers) -> None:
        self._predictor = predictor
        self._tiers = tiers

    def decided(self, jobs: Sequence[DecidedJob]) -> Options:
        """Return the options of jobs that were predicted then."""
        return self._options(jobs, [job.prediction for job in jobs])

    def asked(self, jobs: Sequence[SampledJob]) -> Options:
        """Return the options of jobs that are predicted now."""
        predictions = self._predictor.predict([job.prompt for job in jobs]) if jobs else []
        return self._options(jobs, predictions)

    def _options(self, jobs: Sequence[Sized], predictions: Sequence[Prediction]) -> Options:
        return options_of(
            jobs,
            predictions,
            tiers=self._tiers,
            yardstick=yardstick_of(self._predictor),
            rank=range(len(jobs)),
        )


def _sample(records: Records, work: WindowWork, account: Account) -> list[SampledJob]:
    """Return some jobs of the window's batches that draw on an account, by what waits in each.

    None if nothing waits behind the window: it sees all there is.
    """
    here = Counter(job.batch_id for job in work.jobs)
    waiting = {
        batch: sum(group.jobs for group in work.waiting[batch])
        for batch, chain in work.chains.items()
        if account in chain
    }
    total = sum(waiting.values())
    if total <= sum(here[batch] for batch in waiting):
        return []
    return [
        job
        for batch, jobs in waiting.items()
        for job in records.sampled_jobs(batch, jobs=max(1, ASKED_JOBS * jobs // total))
    ]


def _limited(work: WindowWork) -> list[Account]:
    """Return the accounts that have a limit."""
    return [account for account, funds in work.accounts.items() if funds.limit is not None]
