"""What a worker does with one microbatch: claim, generate, record.

The collaborators are given: this module knows the order of the steps, the lease and the faults, but neither
SQL nor torch nor Celery. The real ones are `db.repository.Repository`, `routet2i.models.*` and
`routet2i.images.ImageStore`; `routet2i.fakes` has the others.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import structlog

from routet2i import failpoints, tracing
from routet2i.contracts import Bought, Claim, ClaimedJob, JobOutcome, JobState, Permit, Picture, Withheld
from routet2i.errors import (
    DeviceFault,
    GenerationFailed,
    LeaseLost,
    ProviderFault,
    RouteT2IError,
    ServiceUnavailable,
    UnknownCharge,
)
from routet2i.tiers import TierProfile

RENEWALS_PER_LEASE = 3  # two may fail and the third still comes in time
SAFETY_SECONDS = 5.0  # a lease is trusted this much less than it lasts: clocks and commits are not instant
SAFETY_SHARE = 0.2  # ... or this share of it, whichever is less
MAX_FAILED_RENEWALS = 2
AGAIN_SECONDS = 0.25  # between two tries to reach a database that does not answer
MAX_ERROR_CHARS = 500  # of an error text that becomes a job's outcome
_S = TypeVar("_S")
LOST_DEVICE = ("illegal memory access", "device-side assert")  # CUDA's words; that context never works again
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """How one call of `run_microbatch` ended."""

    DONE = "done"  # every job of the claim has its outcome
    NOTHING_TO_CLAIM = "nothing_to_claim"  # a duplicate, finished, of another tier, or unknown
    LEASE_LOST = "lease_lost"  # somebody else may have claimed it; nothing more was written
    RELEASED = "released"  # asked to stop; the rest was given back


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderRequest:
    """One picture to render."""

    prompt: str
    negative_prompt: str | None
    seed: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One picture to buy."""

    job_id: str
    index: int  # 0-based among the job's pictures
    request: RenderRequest
    micro_usd: int  # the most it may cost


class CallBook(Protocol):
    """What a buyer needs of the database: `db.repository.Repository` says what each verb promises."""

    def intend(
        self, claim: Claim, *, job_id: str, index: int, cost_max: int, repeatable: bool
    ) -> Permit | Bought | Withheld:
        """Permit the purchase of one picture, or say what to do instead; fenced."""

    def accept_call(self, call_id: str, *, remote_id: str) -> None:
        """Keep the provider's name of a picture that it is drawing."""

    def settle_call(
        self, call_id: str, *, cost: int, image_sha256: str | None, error: str | None = None
    ) -> int:
        """Record what a call has cost, and return by how much that is too much; not fenced."""

    def doubt_call(self, call_id: str, *, error: str) -> None:
        """Count an open call as spent: its answer was lost."""

    def void_call(self, claim: Claim, call_id: str, *, error: str) -> None:
        """Take back the money of a call that was surely not billed."""


class Store(CallBook, Protocol):
    """What a worker needs of the database; every write is fenced and safe to repeat."""

    def claim(self, microbatch_id: str, *, tier: str, worker: str, lease_seconds: float) -> Claim | None:
        """Take the microbatch; None if it is claimed, finished, of another tier or unknown."""

    def renew(self, claim: Claim) -> bool:
        """Prolong the lease; False if a newer claim exists or the microbatch is closed."""

    def cancelled(self, claim: Claim) -> frozenset[str]:
        """Return the job ids of this claim that somebody asked to cancel."""

    def record(self, claim: Claim, outcomes: Sequence[JobOutcome]) -> bool:
        """Write outcomes, pictures, scores and settlement in one transaction; False if the fence is old."""

    def finish(self, claim: Claim) -> bool:
        """Close the microbatch: cancel what was asked to be cancelled, release what is left of the money."""

    def release(self, claim: Claim, *, reason: str) -> bool:
        """Give an unfinished microbatch back without counting a death (drain, full disk, load failure)."""

    def report_cut_off(self, claim: Claim) -> bool:
        """Say that we lived but could not reach the database: no death is counted."""


class Generator(Protocol):
    """A loaded pipeline of one tier."""

    model_id: str
    model_revision: str
    settings: str  # JSON text of everything that shapes the pixels

    def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
        """Return one PNG per request, in order; an exception in place of a picture that cannot be made."""


@runtime_checkable
class Buyer(Protocol):
    """A paid provider's side of one tier."""

    model_id: str
    model_revision: str
    settings: str  # JSON text of what is sent with every request

    def buy(
        self,
        orders: Sequence[Order],
        *,
        claim: Claim,
        book: CallBook,
        pictures: "Pictures",
        lease: "Lease",
        stop: threading.Event | None,
    ) -> Sequence[bytes | Exception | None]:
        """Return per order a PNG, which is stored and paid for, or why its job fails, or None.

        None: nothing was bought, because its job was cancelled or the worker was told to stop.
        """


class Scorer(Protocol):
    """Judges pictures against their prompts."""

    def score(self, pictures: Sequence[bytes], prompts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """Return metric -> [0, 1] per PNG picture."""


class Pictures(Protocol):
    """A store of finished pictures, named by the SHA-256 of their bytes."""

    def check_room(self) -> None:
        """Raise StoreFull if there is too little room to begin."""

    def put(self, png: bytes) -> str:
        """Store a picture durably and return its name; raises StoreFull."""

    def read(self, sha256: str) -> bytes:
        """Return a stored picture; raises GenerationFailed if it is gone."""


class Lease:
    """A claim kept alive by a thread, and what the worker may still believe about it.

    Trust ends `SAFETY_SECONDS` before the lease could have ended, counted from the *start* of the last
    renewal that succeeded; after two failed renewals in a row it ends at once.

    Source: reliability.md, section 4.
    """

    def __init__(self, store: Store, claim: Claim, *, since: float) -> None:
        """Begin to renew; `since` is the monotonic time in seconds at which the claim was asked for."""
        self._store = store
        self._claim = claim
        self._trusted_seconds = claim.lease_seconds - min(SAFETY_SECONDS, SAFETY_SHARE * claim.lease_seconds)
        self._deadline = since + self._trusted_seconds
        self._lost = False
        self._failed = 0  # renewals in a row
        self._stop = threading.Event()
        context = contextvars.copy_context()  # whose ids its log lines have
        self._thread = threading.Thread(target=context.run, args=(self._renew,), name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def was_cut_off(self) -> bool:
        """Whether the lease could not be renewed because the database did not answer; ask after its end.

        A worker that stood still has not even tried: its silence counts.
        """
        return self._failed > 0

    def check(self) -> None:
        """Raise LeaseLost unless the claim is surely still ours."""
        if self._lost or time.monotonic() >= self._deadline:
            raise LeaseLost(f"the lease of microbatch {self._claim.microbatch_id} cannot be trusted any more")

    def _renew(self) -> None:
        while not self._stop.wait(self._claim.lease_seconds / RENEWALS_PER_LEASE):
            started = time.monotonic()
            try:
                self._lost = not self._store.renew(self._claim)
            except Exception as error:  # whatever the database client raises: the deadline is the answer
                self._failed += 1
                _log.warning("renewal_failed", failed=self._failed, error=type(error).__name__)
                self._lost = self._failed >= MAX_FAILED_RENEWALS
            else:
                if self._lost:  # what failed before is the reason
                    return
                self._failed = 0
                self._deadline = started + self._trusted_seconds
            if self._lost:
                return


@dataclass(kw_only=True)
class _Job:
    """A claimed job while its pictures come in."""

    job: ClaimedJob
    pictures: list[Picture] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None

    @property
    def is_final(self) -> bool:
        return self.error is not None or len(self.pictures) == self.job.n


def run_microbatch(
    microbatch_id: str,
    *,
    store: Store,
    profile: TierProfile,
    worker: str,
    load: Callable[[], tuple[Generator | Buyer, Scorer]],
    pictures: Pictures,
    lease_seconds: float,
    stop: threading.Event | None = None,
) -> Outcome:
    """Claim a microbatch, render or buy its jobs in groups, score, store and record them, and close it.

    A job whose picture cannot be made fails alone. A fault of the worker (model, disk, database) gives the
    claim back without counting a death and is raised: the caller must not go on as if nothing had happened.

    Args:
        load: returns the tier's generator, or buyer, and scorer; called under the lease, since a first load
            takes long.
        lease_seconds: life of the claim without renewal.
        stop: once set, the group at work is finished and the rest given back.

    Raises:
        ModelError: the tier's models cannot be loaded.
        StoreFull: no room for pictures.
        ProviderFault: the paid provider refuses us, or only takes money.
        ServiceUnavailable: the database does not answer.
        DeviceFault: the accelerator is lost. The claim is *kept*: the sweeper counts a death when it expires,
            since a job that breaks the device every time must become poison and not come back for ever.
    """
    pictures.check_room()
    asked = time.monotonic()
    claim = store.claim(microbatch_id, tier=profile.name, worker=worker, lease_seconds=lease_seconds)
    if claim is None:
        return Outcome.NOTHING_TO_CLAIM
    if time.monotonic() - asked > lease_seconds / RENEWALS_PER_LEASE:  # its answer was lost, and looked for
        asked = time.monotonic()
        if not store.renew(claim):
            return Outcome.LEASE_LOST
    failpoints.reach("after_claim")
    structlog.contextvars.bind_contextvars(
        batch=claim.batch_id, microbatch=claim.microbatch_id, fence=claim.fence, tier=claim.tier
    )
    lease = Lease(store, claim, since=asked)
    try:
        with (
            tracing.span(
                "microbatch",
                batch_id=claim.batch_id,
                microbatch=claim.microbatch_id,
                tier=claim.tier,
                fence=claim.fence,
                jobs=len(claim.jobs),
                worker=worker,
            ),
            lease,
        ):
            return _carry_out(
                claim,
                store=store,
                profile=profile,
                load=load,
                pictures=pictures,
                lease=lease,
                stop=stop,
            )
    except LeaseLost:
        if lease.was_cut_off:
            _patiently(claim, lambda: store.report_cut_off(claim))
        return Outcome.LEASE_LOST
    except ServiceUnavailable:
        _patiently(claim, lambda: store.report_cut_off(claim))
        raise


def _carry_out(
    claim: Claim,
    *,
    store: Store,
    profile: TierProfile,
    load: Callable[[], tuple[Generator | Buyer, Scorer]],
    pictures: Pictures,
    lease: Lease,
    stop: threading.Event | None,
) -> Outcome:
    """Do what a claim asks for; whatever goes wrong on our side gives it back.

    Raises:
        LeaseLost: it may be somebody else's by now.
    """
    try:
        with tracing.span("load"):
            generator, scorer = load()
        rendered = _render(
            claim,
            store=store,
            profile=profile,
            generator=generator,
            scorer=scorer,
            pictures=pictures,
            lease=lease,
            stop=stop,
        )
        if not rendered:
            store.release(claim, reason="drain")
            return Outcome.RELEASED
        failpoints.reach("before_done")
        finished = _patiently(claim, lambda: store.finish(claim))
        return Outcome.DONE if finished else Outcome.LEASE_LOST
    except (DeviceFault, LeaseLost, ServiceUnavailable):
        raise
    except BaseException as error:  # any fault of the worker, time limits and interrupts included
        store.release(claim, reason=type(error).__name__)
        raise


def _patiently(claim: Claim, work: Callable[[], _T]) -> _T:
    """Do a fenced piece of work, for a lease's time again and again while the database does not answer.

    It must be safe to repeat though it was done: what is lost may be the answer to a commit.
    """
    began = time.monotonic()
    tries = 0
    while True:
        try:
            done = work()
        except ServiceUnavailable:
            if time.monotonic() - began >= claim.lease_seconds:
                raise
        else:
            if tries:
                _log.warning("database_was_away", tries=tries, seconds=round(time.monotonic() - began, 1))
            return done
        tries += 1
        time.sleep(AGAIN_SECONDS)


def _render(
    claim: Claim,
    *,
    store: Store,
    profile: TierProfile,
    generator: Generator | Buyer,
    scorer: Scorer,
    pictures: Pictures,
    lease: Lease,
    stop: threading.Event | None,
) -> bool:
    """Render every job of the claim that nobody cancels; False if told to stop before the end."""
    jobs = {job.job_id: _Job(job=job) for job in claim.jobs}
    waiting = [(job.job_id, index) for job in claim.jobs for index in range(job.n)]
    while waiting:
        if stop is not None and stop.is_set():
            return False
        lease.check()
        gone = _patiently(claim, lambda: store.cancelled(claim))
        waiting = [one for one in waiting if one[0] not in gone and jobs[one[0]].error is None]
        group, waiting = waiting[: profile.microbatch_size], waiting[profile.microbatch_size :]
        if not group:
            break
        requests = [_request(claim, jobs[job_id].job, index) for job_id, index in group]
        started = time.monotonic()
        if isinstance(generator, Buyer):
            orders = [
                _order(jobs[job_id].job, index, request)
                for (job_id, index), request in zip(group, requests, strict=True)
            ]
            with tracing.span("buy", pictures=len(orders)):
                made = generator.buy(
                    orders, claim=claim, book=store, pictures=pictures, lease=lease, stop=stop
                )
        else:
            with tracing.span("generate", pictures=len(requests)):
                made = _drawn(generator, requests)
        _keep_group(claim, group, requests=requests, made=made, jobs=jobs, scorer=scorer, pictures=pictures)
        share = (time.monotonic() - started) / len(group)
        for job_id, _ in group:
            jobs[job_id].seconds += share
        final = [
            jobs[job_id] for job_id in dict.fromkeys(job_id for job_id, _ in group) if jobs[job_id].is_final
        ]
        # without a look at the lease: what is drawn is worth a try, and the store asks for the fence
        outcomes = [_outcome(one, generator) for one in final]
        with tracing.span("record", jobs=len(final)):
            recorded = not final or _patiently(claim, partial(store.record, claim, outcomes))
        if not recorded:
            raise LeaseLost(f"a newer claim of microbatch {claim.microbatch_id} exists")
        for one in final:
            if one.error is not None:
                _log.warning(
                    "job_failed", job=one.job.job_id, prompt=one.job.prompt, error=type(one.error).__name__
                )
        failpoints.reach("after_outcome")
        if stop is not None and stop.is_set() and None in made:
            return False
        if all(isinstance(one, UnknownCharge) for one in made):
            raise ProviderFault(f"tier {profile.name!r} may take money, and sends nothing: {made[0]!r}")
    return True


def _drawn(generator: Generator, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
    return _attempt(generator.generate, requests)


def _keep_group(
    claim: Claim,
    group: Sequence[tuple[str, int]],
    *,
    requests: Sequence[RenderRequest],
    made: Sequence[bytes | Exception | None],
    jobs: Mapping[str, _Job],
    scorer: Scorer,
    pictures: Pictures,
) -> None:
    """Judge and store one group of pictures; what fails is noted at its job, in place."""
    good = [
        (one, request, png)
        for one, request, png in zip(group, requests, made, strict=True)
        if isinstance(png, bytes)
    ]
    with tracing.span("score", pictures=len(good)):
        judged = _attempt(
            lambda some: scorer.score(
                [png for _, _, png in some], [request.prompt for _, request, _ in some]
            ),
            good,
        )
    with tracing.span("store") as span:
        _store(claim, zip(good, judged, strict=True), jobs=jobs, pictures=pictures, span=span)
    for (job_id, _), result in zip(group, made, strict=True):
        if isinstance(result, Exception):
            jobs[job_id].error = result


_Good = tuple[tuple[str, int], RenderRequest, bytes]


def _store(
    claim: Claim,
    judged: Iterable[tuple[_Good, Mapping[str, float] | Exception]],
    *,
    jobs: Mapping[str, _Job],
    pictures: Pictures,
    span: tracing.Span,
) -> None:
    for (job_id, index), request, png, scores in ((*g, s) for g, s in judged):
        if isinstance(scores, Exception):
            jobs[job_id].error = scores
            continue
        jobs[job_id].pictures.append(
            Picture(
                index=index,
                seed=request.seed,
                sha256=pictures.put(png),
                width=claim.width,
                height=claim.height,
                scores=scores,
            )
        )
        span.event("picture", job=job_id, index=index, sha256=jobs[job_id].pictures[-1].sha256)


def _attempt(work: Callable[[Sequence[_S]], Sequence[_T]], items: Sequence[_S]) -> Sequence[_T | Exception]:
    """Return the work's results; if it fails for want of memory or because of one item, its halves are tried.

    What fails alone is an error in its place: an unknown fault must neither fail the neighbours of the guilty
    one nor loop for ever.
    """
    if not items:
        return []
    try:
        return work(items)
    except RouteT2IError as error:
        if not isinstance(error, GenerationFailed):
            raise
        failed: Exception = error
    except Exception as error:
        if any(words in str(error) for words in LOST_DEVICE):
            raise DeviceFault(str(error)) from error
        _log.exception("group_failed", pictures=len(items))
        failed = error
    if len(items) == 1:
        return [failed]
    middle = len(items) // 2  # out of the handler: only now is what the failed pass allocated free
    return [*_attempt(work, items[:middle]), *_attempt(work, items[middle:])]


def _request(claim: Claim, job: ClaimedJob, index: int) -> RenderRequest:
    return RenderRequest(
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        seed=job.seed + index,
        width=claim.width,
        height=claim.height,
    )


def _order(job: ClaimedJob, index: int, request: RenderRequest) -> Order:
    """Return what may be bought: a job's money is divided among its pictures to the last micro-dollar."""
    share, odd = divmod(job.micro_usd, job.n)
    return Order(job_id=job.job_id, index=index, request=request, micro_usd=share + (index < odd))


def _outcome(one: _Job, generator: Generator | Buyer) -> JobOutcome:
    """Return what is recorded: all pictures and their price, or an error and no price.

    A bought picture has been paid for already: the store adds what the job's calls have cost.
    """
    failed = one.error is not None
    free = failed or isinstance(generator, Buyer)
    return JobOutcome(
        job_id=one.job.job_id,
        state=JobState.FAILED if failed else JobState.SUCCEEDED,
        micro_usd=0 if free else one.job.micro_usd,
        pictures=() if failed else tuple(one.pictures),
        seconds=one.seconds,
        model_id=generator.model_id,
        model_revision=generator.model_revision,
        settings=generator.settings,
        error_class=type(one.error).__name__ if failed else None,
        error=str(one.error)[:MAX_ERROR_CHARS] if failed else None,
    )
