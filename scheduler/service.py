"""The scheduler's loop: open a window, predict, assign, pack, record, commit, dispatch; and sweep.

One scheduler leads at a time, by a lease in the database; that only saves work, for every statement is right
with two leaders as well. Messages go out from a thread of their own, so that a broker that hangs keeps no
window from closing. It knows neither SQL nor how a prediction or a choice is made.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Protocol

import structlog

from db.pairs import ShadowPair
from routet2i import tracing
from routet2i.contracts import (
    SHADOW_CLIENT,
    Account,
    Pool,
    Purse,
    RecordedWindow,
    Speed,
    SweepReport,
    WindowPlan,
    WindowWork,
    Yardstick,
    new_id,
)
from routet2i.errors import LeaseLost, ServiceUnavailable
from routet2i.heartbeat import HEARTBEAT_SECONDS, LIVE_SECONDS
from routet2i.settings import Settings
from routet2i.tiers import Tiers
from scheduler.allocation.market import Market
from scheduler.allocator import pack
from scheduler.budget import purse_of
from scheduler.comparison import compare
from scheduler.deciding import decide_window
from scheduler.demand import Demand
from scheduler.dispatch import Outbox, Publish, send_ready
from scheduler.drift import Drift
from scheduler.locked import take_locked
from scheduler.memory import Memory, Records
from scheduler.pace import Pace
from scheduler.predictor.interface import Predictor
from scheduler.predictor.yardsticks import yardstick_of
from scheduler.rooms import most_jobs, rooms
from scheduler.shadows import plan_shadows

POLICY = "bid_price"  # name of the allocator's rule, stored with each window
TTL_SECONDS = 15.0  # of the leader's lease (reliability.md, section 6)
RENEW_SECONDS = 5.0  # two renewals may fail before the lease ends
TRUST_SECONDS = TTL_SECONDS - 3.0  # after a renewal began: a margin for clocks and a slow answer
ELECT_SECONDS = 1.0  # pause of a follower between two looks
SWEEP_SECONDS = 1.0
POOL_SAMPLE = 1_000  # microbatches of a tier without a limit that are counted for a deadline's sake
TIDY_SECONDS = 3600.0  # between two looks for temporary files of dead writers
DRIFT_SECONDS = 60.0  # between two looks at how predictions fare
DRIFT_PAIRS = 1000  # the newest of the deciding version: older ones may tell of other prompts
LOOK_SECONDS = 0.2  # longest pause between two looks at what waits
RETRY_SECONDS = 1.0  # pause after a database that does not answer
BUSY_SECONDS = 0.005  # pause of the dispatcher after a round that sent something
IDLE_SECONDS = 0.2  # its longest pause: the time a freed slot may wait
JOIN_SECONDS = 15.0  # a publish to a dead broker returns in less (reliability.md, section 5)

_log = structlog.get_logger(__name__)


class Windows(Records, Protocol):
    """What a window needs of `db.repository.Repository`."""

    def waiting_jobs(self, *, limit: int) -> int:
        """Count the jobs that a window could take now, up to a limit."""

    def open_window(self, *, limit: int, purse: Purse, full: Set[str]) -> WindowWork | None:
        """Return the jobs whose turn it is, with the accounts they draw on; None if no job waits.

        Jobs that ask for a tier in `full` are left out.
        """

    def pools(self, tiers: Iterable[str], *, sample: int | None = None) -> Mapping[str, Pool]:
        """Return tier -> its workers and what they have before them."""

    def resting_tiers(self) -> frozenset[str]:
        """Return the tiers that are paused."""

    def speeds(self) -> tuple[Speed, ...]:
        """Return the seconds per picture of each tier and size, as measured."""

    def record_window(self, plan: WindowPlan) -> RecordedWindow:
        """Write a plan and reserve its money in one transaction; raises LeaseLost if the term has ended."""


class Sweeps(Protocol):
    """What a sweep needs of `db.repository.Repository`."""

    def sweep(
        self, *, resend_seconds: float, max_deaths: int, heartbeat_seconds: float, innocent: bool
    ) -> SweepReport:
        """Bring back what was lost."""


class Pairs(Protocol):
    """What a look at drift needs of `db.repository.Repository`."""

    def shadow_pairs(self, *, version: str | None, limit: int | None) -> Sequence[ShadowPair]:
        """Return the newest complete pairs that a predictor version decided, oldest first."""

    def yardsticks(self) -> Mapping[tuple[str, str], Yardstick]:
        """Return what predictor versions measure PRS with."""


class SchedulerStore(Windows, Sweeps, Pairs, Outbox, Protocol):
    """All that a scheduler needs of `db.repository.Repository`."""

    def elect(self, *, holder: str, ttl_seconds: float) -> int | None:
        """Become leader if nobody is; the term, or None."""

    def keep_leading(self, *, holder: str, term: int, ttl_seconds: float) -> bool:
        """Prolong a term; False if it has ended."""

    def resign(self, *, holder: str, term: int) -> None:
        """End a term now."""

    def recount_waiting(self) -> int:
        """Count anew what waits, where the count is wrong; return in how many batches it was."""

    def live_workers(self, *, within_seconds: float) -> Mapping[str, int]:
        """Return tier -> number of workers heard of lately."""


def run_window(
    repository: Windows,
    predictor: Predictor,
    *,
    tiers: Tiers,
    settings: Settings,
    term: int | None,
    now: float | None = None,
    memory: Memory | None = None,
    limit: int | None = None,
) -> RecordedWindow | None:
    """Run one decision round: open, predict, assign, pack, record.

    Args:
        term: of the leader that decides; None = nobody leads (tests, one-off runs).
        now: Unix time in seconds that names the budget periods; None = the database's clock.
        memory: of the leader; changed. None = this window is decided as if nothing had come before.
        limit: most jobs of this window; None = `window_jobs`.
    Returns:
        What became of the plan, or None if no job waits, or all routed tiers are full.
    Raises:
        LeaseLost: another scheduler was elected meanwhile; nothing was written.
        ServiceUnavailable: the database does not answer.
    """
    purse = purse_of(
        deployment=settings.deployment,
        limit_micro_usd=settings.budget_micro_usd,
        seconds=settings.budget_period_seconds,
        now=now,
    )
    began_ns = time.time_ns()
    work = _open_window(repository, tiers=tiers, limit=limit or settings.window_jobs, purse=purse)
    if work is None:
        return None
    locked = take_locked(work, tiers=tiers, microbatch_jobs=settings.microbatch_jobs)
    plan, markets = decide(
        locked.rest,
        predictor,
        tiers=tiers,
        settings=settings,
        term=term,
        purse=purse,
        markets={} if memory is None else memory.markets(repository, locked.rest, predictor, tiers=tiers),
        demands={} if memory is None else memory.demands(repository, locked.rest),
    )
    if memory is not None:
        memory.remember(markets)
    plan = locked.added_to(plan)
    recorded = repository.record_window(plan)
    if recorded.shadow_batch is not None:
        tracing.submitted(
            recorded.shadow_batch, began_ns=began_ns, attributes={"routet2i.client": SHADOW_CLIENT}
        )
    _trace(plan, began_ns=began_ns)
    _log.info(
        "window",
        window=recorded.window_id,
        jobs=len(work.jobs),
        assigned=recorded.assigned,
        deferred=recorded.deferred,
        fallback=recorded.fallback,
        solve_us=plan.solve_us,
    )
    return recorded


def _trace(plan: WindowPlan, *, began_ns: int) -> None:
    """Record the window in the trace of each batch that it has decided jobs of."""
    jobs = Counter[tuple[str, str]]()
    for one in plan.microbatches:
        jobs[one.batch_id, one.tier] += len(one.assignments)
    for batch_id in {batch_id for batch_id, _ in jobs}:
        told = {
            f"routet2i.jobs.{tier}": number for (batch, tier), number in jobs.items() if batch == batch_id
        }
        tracing.record(
            batch_id,
            "window",
            began_ns=began_ns,
            attributes={
                "routet2i.window": plan.window_id,
                "routet2i.predictor": f"{plan.predictor_name} {plan.predictor_version}",
                **told,
            },
        )


def _open_window(repository: Windows, *, tiers: Tiers, limit: int, purse: Purse) -> WindowWork | None:
    """Read the next jobs to decide, with the tiers' pools where they matter; None if none can be decided.

    Where all routed tiers have a limit, no more jobs are read than could find room: those behind them stay
    as they are, in their order. So do jobs that ask for a tier that is full.
    """
    limited = [tier.name for tier in tiers.profiles.values() if tier.max_backlog is not None]
    pools = repository.pools(limited) if limited else {}
    resting = repository.resting_tiers()
    room = most_jobs(tiers, pools, resting=resting)
    if room == 0:
        return None
    full = {
        name
        for name, left in zip(tiers.routed, rooms(tiers, pools, resting=resting), strict=True)
        if left == 0
    }
    work = repository.open_window(limit=limit if room is None else min(limit, room), purse=purse, full=full)
    if work is None:
        return None
    work = replace(work, pools=pools, resting=resting)
    if all(job.deadline_ms is None for job in work.jobs):
        return work
    others = repository.pools(set(tiers.routed) - set(limited), sample=POOL_SAMPLE)
    return replace(work, pools={**pools, **others}, speeds=repository.speeds())


def decide(
    work: WindowWork,
    predictor: Predictor,
    *,
    tiers: Tiers,
    settings: Settings,
    term: int | None,
    purse: Purse,
    markets: Mapping[str, Market],
    demands: Mapping[Account, Demand],
) -> tuple[WindowPlan, Mapping[str, Market]]:
    """Return the plan for one window, and what its budgets remember then.

    Args:
        markets: budget id -> what its bid price remembers of earlier windows; a budget may be missing.
        demands: account -> jobs that nobody has submitted yet.
    """
    started = time.perf_counter_ns()
    decision = decide_window(
        work,
        predictor.predict([job.prompt for job in work.jobs]),
        tiers=tiers,
        yardstick=yardstick_of(predictor),
        markets=markets,
        demands=demands,
    )
    plan = WindowPlan(
        window_id=new_id(),
        microbatches=pack(
            decision.assignments,
            work.jobs,
            tiers=tiers,
            microbatch_jobs=settings.microbatch_jobs,
            resting=work.resting,
        ),
        policy=POLICY,
        predictor_name=predictor.name,
        predictor_version=predictor.version,
        available_micro_usd=decision.available,
        solve_us=(time.perf_counter_ns() - started) // 1000,
        deferred=decision.deferred,
        leader_term=term,
        purse=purse,
        shadows=plan_shadows(
            (job.job_id for job in work.jobs),
            settings=settings,
            tiers=tiers,
            yardstick=yardstick_of(predictor),
            now=work.now_ms / 1000,
            resting=work.resting,
        ),
    )
    return plan, decision.markets


def sweep(repository: Sweeps, *, settings: Settings, innocent: bool = False) -> SweepReport:
    """Bring back what was lost, by the settings' deadlines; `innocent` claims have no death counted."""
    report = repository.sweep(
        resend_seconds=settings.resend_seconds,
        max_deaths=settings.max_deaths,
        heartbeat_seconds=HEARTBEAT_SECONDS,
        innocent=innocent,
    )
    if report != SweepReport():
        _log.info("swept", **{name: getattr(report, name) for name in SweepReport.__slots__})
    return report


def look_for_drift(
    repository: Pairs, predictor: Predictor, *, tiers: Tiers, settings: Settings
) -> Drift | None:
    """Compare a predictor's newest predictions with its pairs of pictures, and warn if the alarm is on.

    Returns:
        None if there is no pair yet.
    """
    compared = compare(
        repository.shadow_pairs(version=predictor.version, limit=DRIFT_PAIRS),
        yardsticks=repository.yardsticks(),
        tiers=tiers,
        weights=settings.read_metrics().weights,
    )
    own = [one.drift for one in compared if one.name == predictor.name]
    if not own:
        return None
    drift = own[0]
    if drift.alarm:
        _log.warning(
            "drift_alarm",
            predictor=predictor.name,
            version=predictor.version,
            pairs=drift.pairs,
            predicted=round(drift.predicted, 3),
            measured=round(drift.measured, 3),
            calibration_error=drift.calibration_error.value,
            remedy="routet2i predictor drift",
        )
    return drift


class Scheduler:
    """The process that leads, or waits to lead."""

    def __init__(
        self,
        repository: SchedulerStore,
        current: Callable[[], Predictor],
        *,
        tiers: Tiers,
        settings: Settings,
        publish: Publish,
        holder: str,
        clock: Callable[[], float] = time.monotonic,
        on_turn: Callable[[], None] = lambda: None,
        tidy: Callable[[], int] = lambda: 0,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            on_turn: called at each turn of the loop, whatever the database does.
            tidy: deletes what dead writers of pictures left behind and returns how many; called by the
                leader once an hour, in a thread of its own.
        """
        self._repository = repository
        self._current = current  # asked once per window, which its answer then decides as a whole
        self._tiers = tiers
        self._settings = settings
        self._publish = publish
        self._holder = holder  # unique among schedulers, e.g. scheduler@host:pid
        self._clock = clock
        self._on_turn = on_turn
        self._tidy = tidy
        self._memory = Memory()
        self._pace = Pace(
            most=settings.window_jobs, age=settings.window_seconds, target=settings.window_target_seconds
        )
        self._waiting_since: float | None = None  # by `clock`: when a window could first have been opened
        self._term: int | None = None
        self._trusted_until = 0.0  # by `clock`
        self._innocent_until = 0.0  # by `clock`: claims that end before could not be renewed, by anybody
        self._work_ready = threading.Event()  # wakes the dispatcher
        self._ended = threading.Event()  # stops it
        self._dispatch_error: Exception | None = None  # what stopped it

    @property
    def leads(self) -> bool:
        """Whether this scheduler may decide now."""
        return self._term is not None and self._clock() < self._trusted_until

    def run_forever(self, stop: threading.Event) -> None:
        """Lead whenever possible until `stop` is set; then finish the window, resign and return.

        A database that does not answer is waited for. Any other error ends the loop and is raised, after
        the leader's lease was given up.
        """
        self._ended.clear()
        dispatcher = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)
        dispatcher.start()
        threading.Thread(target=self._tidy_forever, name="janitor", daemon=True).start()
        try:
            self._lead_forever(stop)
        finally:
            self._ended.set()
            self._work_ready.set()
            self._resign()
            dispatcher.join(JOIN_SECONDS)

    def _lead_forever(self, stop: threading.Event) -> None:
        window_due = sweep_due = renew_due = drift_due = self._clock()
        while not stop.is_set():
            self._on_turn()
            if self._dispatch_error is not None:
                raise self._dispatch_error
            try:
                if self._clock() >= renew_due:
                    renew_due = self._clock() + self._renew()
                if self.leads and self._clock() >= sweep_due:
                    sweep_due = self._clock() + SWEEP_SECONDS
                    innocent = self._clock() < self._innocent_until
                    sweep(self._repository, settings=self._settings, innocent=innocent)
                    self._work_ready.set()
                if self.leads and self._clock() >= window_due:
                    window_due = self._clock() + self._window()
                if self.leads and self._settings.shadow_share and self._clock() >= drift_due:
                    drift_due = self._clock() + DRIFT_SECONDS
                    look_for_drift(
                        self._repository, self._current(), tiers=self._tiers, settings=self._settings
                    )
            except LeaseLost:
                _log.warning("leadership_lost", term=self._term)
                self._term = None
                renew_due = self._clock() + ELECT_SECONDS
            except ServiceUnavailable as error:
                _log.warning("database_unavailable", error=str(error), retry_seconds=RETRY_SECONDS)
                self._innocent_until = self._clock() + RETRY_SECONDS + self._settings.lease_seconds
                stop.wait(RETRY_SECONDS)
                continue
            due = min(renew_due, sweep_due, window_due) if self.leads else renew_due
            stop.wait(max(0.0, due - self._clock()))

    def _renew(self) -> float:
        """Become or stay leader; return the seconds until the next try."""
        started = self._clock()
        if self._term is not None:
            kept = self._repository.keep_leading(
                holder=self._holder, term=self._term, ttl_seconds=TTL_SECONDS
            )
            if not kept:
                _log.warning("leadership_lost", term=self._term)
                self._term = None
        if self._term is None:
            self._term = self._repository.elect(holder=self._holder, ttl_seconds=TTL_SECONDS)
            if self._term is None:
                return ELECT_SECONDS
            self._memory = Memory()  # of another's windows it knows nothing
            _log.info("elected", holder=self._holder, term=self._term)
            if mended := self._repository.recount_waiting():
                _log.warning("waiting_recounted", batches=mended)
        self._trusted_until = started + TRUST_SECONDS
        return RENEW_SECONDS

    def _window(self) -> float:
        """Run a window if it is time to close one; return the seconds until the next look."""
        started = self._clock()
        size = self._pace.size
        waiting = self._repository.waiting_jobs(limit=size)
        if not waiting:
            self._waiting_since = None
            return min(LOOK_SECONDS, self._settings.window_seconds)
        if self._waiting_since is None:
            self._waiting_since = started
        age = started - self._waiting_since
        if not self._pace.closes(waiting=waiting, oldest_seconds=age):
            return min(LOOK_SECONDS, self._settings.window_seconds - age)
        recorded = run_window(
            self._repository,
            self._current(),
            tiers=self._tiers,
            settings=self._settings,
            term=self._term,
            memory=self._memory,
            limit=size,
        )
        if recorded is None:
            return min(LOOK_SECONDS, self._settings.window_seconds)
        decided = recorded.assigned + recorded.deferred
        self._pace = self._pace.after(jobs=decided, seconds=self._clock() - started)
        if recorded.assigned:
            self._work_ready.set()
        if decided >= size and recorded.assigned:
            return 0.0  # what is left has waited as long
        self._waiting_since = None
        return min(LOOK_SECONDS, self._settings.window_seconds)

    def _dispatch(self) -> None:
        """Body of the dispatcher's thread: an error it cannot answer ends the whole scheduler."""
        try:
            self._dispatch_forever()
        except Exception as error:
            self._dispatch_error = error

    def _dispatch_forever(self) -> None:
        """Send what is ready while this scheduler leads."""
        pause = BUSY_SECONDS
        while not self._ended.is_set():
            if self._work_ready.wait(pause):
                self._work_ready.clear()
            if not self.leads or self._ended.is_set():
                pause = IDLE_SECONDS
                continue
            try:
                published = send_ready(
                    self._repository,
                    publish=self._publish,
                    tiers=self._tiers,
                    sent_per_slot=self._settings.sent_per_slot,
                    live=self._repository.live_workers(within_seconds=LIVE_SECONDS),
                )
            except ServiceUnavailable as error:
                _log.warning("database_unavailable", error=str(error), retry_seconds=RETRY_SECONDS)
                self._ended.wait(RETRY_SECONDS)
                continue
            pause = BUSY_SECONDS if published else min(2 * pause, IDLE_SECONDS)

    def _tidy_forever(self) -> None:
        """Body of the janitor's thread: what it cannot delete today it meets again in an hour."""
        while not self._ended.wait(TIDY_SECONDS):
            if not self.leads:
                continue
            try:
                deleted = self._tidy()
            except OSError as error:
                _log.warning("not_tidied", error=str(error))
            else:
                _log.info("tidied", temporary_files=deleted)

    def _resign(self) -> None:
        """Give the lease up, so that another scheduler need not wait for its end."""
        if self._term is None:
            return
        term, self._term = self._term, None
        try:
            self._repository.resign(holder=self._holder, term=term)
        except ServiceUnavailable as error:
            _log.warning("not_resigned", error=str(error), ttl_seconds=TTL_SECONDS)
        else:
            _log.info("resigned", holder=self._holder, term=term)
