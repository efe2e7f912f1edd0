"""The values that cross a process or a module boundary, and the two state machines.

Plain frozen data: this module knows no SQL, no queue, no model and no clock. Units stand in the names:
money is integer micro-dollars (`micro_usd`), time in the database is integer milliseconds (`_ms`).
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from routet2i.periods import TOTAL

MESSAGE_VERSION = 1  # of the Celery message {"v": 1, "microbatch_id": "<uuid>"}; other versions are dropped
SHADOW_CLIENT = "shadow"  # owns the batches of shadow jobs; `status` and `last` leave them out
NAME = r"[A-Za-z0-9._-]{1,64}"  # what a client or a deployment may be called
SHADOW_REASON = "shadow"  # of every shadow's assignment; a code of `scheduler.allocator.REASONS`


class TierKind(StrEnum):
    """Which of the two worker applications serves a tier."""

    EDGE = "edge"
    CLOUD = "cloud"


class JobState(StrEnum):
    """A job's state as every reader sees it (view `job_audit`, `status`, `results`)."""

    QUEUED = "queued"
    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has its one outcome."""
        return not JOB_TRANSITIONS[self]


JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.ASSIGNED, JobState.CANCELLED}),
    JobState.ASSIGNED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.ASSIGNED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class MicrobatchState(StrEnum):
    """A microbatch's state as stored."""

    READY = "ready"
    SENT = "sent"
    CLAIMED = "claimed"
    DONE = "done"
    SPLIT = "split"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no worker may ever claim it again."""
        return not MICROBATCH_TRANSITIONS[self]


MICROBATCH_TRANSITIONS: Mapping[MicrobatchState, frozenset[MicrobatchState]] = {
    MicrobatchState.READY: frozenset(
        {MicrobatchState.SENT, MicrobatchState.CLAIMED, MicrobatchState.CANCELLED}
    ),
    MicrobatchState.SENT: frozenset(
        {MicrobatchState.READY, MicrobatchState.CLAIMED, MicrobatchState.CANCELLED}
    ),
    MicrobatchState.CLAIMED: frozenset(
        {MicrobatchState.READY, MicrobatchState.DONE, MicrobatchState.SPLIT, MicrobatchState.DEAD}
    ),
    MicrobatchState.DONE: frozenset(),
    MicrobatchState.SPLIT: frozenset(),
    MicrobatchState.DEAD: frozenset(),
    MicrobatchState.CANCELLED: frozenset(),
}


class BatchEvent(StrEnum):
    """How a batch ended, as webhooks tell it."""

    COMPLETED = "batch.completed"  # every job has its outcome, and one at least its pictures
    FAILED = "batch.failed"  # ... but none has pictures
    CANCELLED = "batch.cancelled"
    EXPIRED = "batch.expired"  # its time was over before all were drawn


class CallState(StrEnum):
    """What is known of one paid call."""

    INTENT = "intent"  # permitted; it may be out now
    CHARGED = "charged"  # billed, and we know how much
    UNKNOWN = "unknown"  # billed perhaps: counts as spent
    VOID = "void"  # not billed


def new_id() -> str:
    """Return a UUID of version 7 as text: unique, and growing with time, so that ids sort as they were made.

    Source: RFC 9562, section 5.7, and 6.2 method 3: 48 bits of Unix milliseconds, version, 12 bits of the
    millisecond's fraction (a step of 244 ns, less than this function takes), variant, 62 random bits.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") >> 2
    return str(UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random))


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """One accepted line of a user's file."""

    line_no: int  # 1-based line of the file it came from; also the job's `seq`
    custom_id: str  # the user's own id, echoed everywhere; data, never a path
    prompt: str  # NFC, no control characters
    negative_prompt: str | None = None
    seed: int  # of the first picture; picture k uses seed + k; in [0, 2**31)
    width: int | None = None  # pixels; None = the assigned tier's own size
    height: int | None = None
    n: int = 1  # pictures wanted
    priority: int = 0  # higher is sooner among its client's jobs, never before another client's
    metadata: str | None = None  # the user's JSON object, as text, kept and echoed
    deadline_ms: int | None = None  # until when it is wanted, milliseconds since 1970; None = see within_ms
    within_ms: int | None = None  # of its submission, where that says it; None with the above = no deadline
    response_format: str | None = None  # how an API's answer shows its pictures: url, b64_json or its default
    tier: str | None = None  # that must draw it; None = the window chooses


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """One line of a user's file that did not become a job."""

    line_no: int  # 1-based
    reason: str  # what is wrong, with the value
    remedy: str  # what to type instead
    raw_sha256: str  # of the line's bytes: the text itself may be hostile
    custom_id: str | None = None  # the user's own id, where the line has one that may be echoed
    code: str | None = None  # for programs: model_not_found; None = the line is wrong in another way


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the predictor expects for one job; nothing has been generated yet."""

    prs: float  # predicted Pareto relative superiority of edge over cloud, [0, 1]; below 0.5 = cloud better
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # tier -> metric -> [0, 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """The tier chosen for one job, with its reason."""

    job_id: str
    tier: str
    reason: str  # a code of `scheduler.allocator.REASONS`
    prs: float  # the prediction the choice was made with
    threshold: float  # alpha: the job goes to the cloud iff prs < threshold
    micro_usd: int  # price of all its pictures on this tier
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # predicted, tier -> metric


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowJob:
    """One queued job as the scheduler sees it while it decides."""

    job_id: str
    batch_id: str
    prompt: str
    width: int | None
    height: int | None
    n: int
    locked: Assignment | None = None  # what the preview of its batch has promised; None = it is free
    deadline_ms: int | None = None  # wanted until then; None = any time
    tier: str | None = None  # that must draw it; None = any


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewLine:
    """What a preview promises for one line of its file: the assignment of the job that it becomes."""

    line_no: int  # 1-based
    tier: str
    reason: str  # a code of `scheduler.allocator.REASONS`
    prs: float
    threshold: float
    micro_usd: int  # price of all its pictures on this tier
    scores: Mapping[str, Mapping[str, float]]  # predicted, tier -> metric


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewHead:
    """What a preview was made of."""

    file_sha256: str  # of the bytes that were read
    fmt: str  # they were read as
    predictor_name: str
    predictor_version: str
    budget_micro_usd: int | None  # that was asked for; None = no limit
    jobs: int  # lines that it promises something for
    micro_usd: int  # of all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPreview:
    """A preview as a submission needs it."""

    preview_id: str
    head: PreviewHead
    prices: Mapping[int, tuple[str, int]]  # line -> tier and micro-USD that were promised


@dataclass(frozen=True, kw_only=True, slots=True)
class Microbatch:
    """Jobs of one batch, one tier and one shape, that one Celery message will name."""

    microbatch_id: str
    batch_id: str
    tier: str
    kind: TierKind
    width: int  # pixels
    height: int
    assignments: tuple[Assignment, ...]
    fallback: tuple[Assignment, ...] = ()  # same jobs on the cheaper tier, used if the ledger refuses
    fallback_tier: str | None = None
    fallback_width: int | None = (
        None  # pixels on the fallback tier: a job without a size takes the tier's own
    )
    fallback_height: int | None = None

    @property
    def micro_usd(self) -> int:
        """What the ledger must reserve for it."""
        return sum(a.micro_usd for a in self.assignments)

    @property
    def fallback_micro_usd(self) -> int:
        """What the ledger must reserve for it on the fallback tier."""
        return sum(a.micro_usd for a in self.fallback)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimedJob:
    """One job of a claimed microbatch, with all that a worker needs to render it."""

    job_id: str
    prompt: str
    negative_prompt: str | None
    seed: int
    n: int
    micro_usd: int  # reserved for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A worker's right to one microbatch, until its lease ends or a newer fence exists."""

    microbatch_id: str
    tier: str
    fence: int  # grows by one with each claim; every later write carries it
    worker: str
    lease_seconds: float
    width: int
    height: int
    jobs: tuple[ClaimedJob, ...]  # unfinished and not cancelled, in order
    batch_id: str | None = None  # whose jobs they are; for log lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Permit:
    """Permission to buy one picture, committed before the call is made."""

    call_id: str
    idem_key: str  # ours, sent with every try
    remote_id: str | None  # the provider's, of a picture that it is drawing already
    resumed: bool  # the call may have been made before: nobody knows what became of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Bought:
    """A picture that an earlier claim has paid for."""

    sha256: str  # its name in the image store


class Withheld(StrEnum):
    """Why nothing may be bought."""

    STALE = "stale"  # a newer claim exists
    CANCELLED = "cancelled"  # somebody asked for the job to be cancelled
    PAUSED = "paused"  # the tier has billed more than its price, and nobody has accepted that yet
    UNKNOWN_CHARGE = "unknown_charge"  # paid for, perhaps, without a picture; no money for another one


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One generated, scored and stored picture."""

    index: int  # 0-based among the job's n pictures
    seed: int
    sha256: str  # of the PNG bytes: its name in the image store
    width: int
    height: int
    scores: Mapping[str, float]  # metric -> [0, 1], measured


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOutcome:
    """How one job ended in one attempt; the worker hands it to the store."""

    job_id: str
    state: JobState  # succeeded or failed
    micro_usd: int  # charged; at most what was reserved
    pictures: tuple[Picture, ...] = ()
    seconds: float = 0.0  # of the device, this job's share of the microbatch
    model_id: str | None = None
    model_revision: str | None = None
    settings: str | None = None  # JSON text: steps, guidance, dtype, device, scheduler, versions
    error_class: str | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedBatch:
    """The batch that a submission belongs to: a new one, or the one the same key opened before."""

    batch_id: str
    created: bool  # False: the same client, key and body were submitted before
    state: str  # ingesting, open or cancelled
    cursor_line: int  # last line of the file whose fate is already committed
    created_ms: int  # milliseconds since 1970 by the database's clock


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLimits:
    """How many jobs may wait for a window."""

    jobs: int  # in all
    client_jobs: int | None  # of one client; None = as many as in all


class Scope(StrEnum):
    """Whose money a budget is."""

    BATCH = "batch"
    CLIENT = "client"
    DEPLOYMENT = "deployment"


# Why the ledger sent a job to the cheaper tier, or let it wait: codes of `scheduler.allocator.REASONS`
GUARDED_BY: Mapping[Scope, str] = {
    Scope.BATCH: "budget_guard",
    Scope.CLIENT: "client_budget_guard",
    Scope.DEPLOYMENT: "deployment_budget_guard",
}
SHORT_BY: Mapping[
    Scope, str
] = {  # reason of a job that a dearer tier would draw better, by whose money ended
    Scope.BATCH: "cloud_money_short",
    Scope.CLIENT: "client_money_short",
    Scope.DEPLOYMENT: "deployment_money_short",
}
DEFERRED_BY: Mapping[Scope, str] = {
    Scope.BATCH: "budget",
    Scope.CLIENT: "client_budget",
    Scope.DEPLOYMENT: "deployment_budget",
}
TIER_MISSING = "tier_missing"
TIER_PAUSED = "tier_paused"
TIER_AWAY = frozenset({TIER_MISSING, TIER_PAUSED})  # a job waits until a person brings its tier back


class Carry(StrEnum):
    """What a period takes over of the money that the one before it left."""

    NONE = "none"
    ALL = "all"
    CAPPED = "capped"  # at most so much


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetPolicy:
    """A limit for each period of a span."""

    scope: Scope
    name: str  # of a deployment or a client, or a batch's id
    span: str  # minute, hour, day, month, total, or seconds like 900s (`routet2i.periods`)
    limit_micro_usd: int | None  # of one period, before carry-over; None = no limit (any more)
    carry: Carry = Carry.NONE
    cap_micro_usd: int | None = None  # most that is carried over; given iff carry is capped

    @property
    def budget_id(self) -> str:
        """Return the id that the budgets of all its periods share."""
        own = f"{self.scope}:{self.name}"
        whole_batch = self.scope is Scope.BATCH and self.span == TOTAL
        return own if whole_batch or self.span.endswith("s") else f"{own}/{self.span}"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Account:
    """One period of one budget: a row of the table `budget`."""

    budget_id: str
    period: str

    @property
    def scope(self) -> Scope:
        """Return whose money it is."""
        return Scope(self.budget_id.split(":", 1)[0])

    @property
    def client(self) -> str | None:
        """Return whose jobs draw on it; None: not just one client's."""
        scope, own = self.budget_id.split(":", 1)
        return own.rpartition("/")[0] if scope == Scope.CLIENT else None

    @property
    def batch_id(self) -> str | None:
        """Return the only batch whose jobs draw on it; None: it is not a batch's own."""
        scope, own = self.budget_id.split(":", 1)
        return own.partition("/")[0] if scope == Scope.BATCH else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Purse:
    """Whose money a window may spend, beside that of its batches and their clients."""

    deployment: str = "default"
    policy: BudgetPolicy | None = None  # of the environment; those of the database bind as well
    now_ms: int | None = None  # names the periods; None = the database's clock


@dataclass(frozen=True, kw_only=True, slots=True)
class Funds:
    """One account's money, as a window reads it."""

    limit: int | None  # micro-USD, carry-over included; None = unlimited
    reserved: int  # micro-USD held for assigned jobs
    spent: int  # micro-USD charged, or unknown
    starts_ms: int = 0  # first moment of its period, since 1970; 0 = it has no begin
    ends_ms: int | None = None  # first moment after it; None = it has no end


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Queued jobs of one size and one wish for a tier, those of this window included."""

    width: int | None  # pixels; None = the tier's own
    height: int | None
    jobs: int
    pictures: int
    tier: str | None = None  # that must draw them; None = any


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How long a tier took lately for pictures of one size."""

    tier: str
    width: int  # pixels
    height: int
    seconds: float  # of the device per picture, above 0: the median over pictures
    pictures: int  # it was measured on


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Pictures of one size that are not drawn yet."""

    tier: str | None  # None = not decided yet
    width: int | None  # pixels; None = the tier's own
    height: int | None
    pictures: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """A tier's workers and what they have before them."""

    tier: str
    unfinished: int  # pictures that are assigned to it and not drawn yet, shadows included
    workers: int  # heard of lately


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowWork:
    """What one decision round may decide about."""

    jobs: tuple[WindowJob, ...]  # the one whose turn it is first; floors are paid in this order
    accounts: Mapping[Account, Funds]  # all that the jobs draw on
    chains: Mapping[str, tuple[Account, ...]]  # batch id -> what it draws on: batch, clients', deployment's
    waiting: Mapping[str, tuple[Waiting, ...]]  # batch id -> what is queued in it
    now_ms: int  # when it was read, by the database's clock
    elsewhere: Mapping[Account, tuple[Waiting, ...]] = field(default_factory=dict)  # queued in other batches
    pools: Mapping[str, Pool] = field(default_factory=dict)  # by tier; empty where nobody asks for them
    speeds: tuple[Speed, ...] = ()  # empty where no job has a deadline
    resting: frozenset[str] = frozenset()  # tiers that get no jobs now


@dataclass(frozen=True, kw_only=True, slots=True)
class DecidedJob:
    """A job that an earlier window assigned, and what was predicted for it."""

    n: int
    width: int | None  # pixels; None = the tier's own
    height: int | None
    prediction: Prediction
    decided_ms: int  # when, by the database's clock
    tier: str | None = None  # that had to draw it; None = any


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledJob:
    """A job of a batch, picked by chance: one for many."""

    prompt: str
    n: int
    width: int | None  # pixels; None = the tier's own
    height: int | None
    tier: str | None = None  # that must draw it; None = any


SLOT_MS = 300_000  # arrivals are counted per five minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrivals:
    """Jobs that came before a moment, per slot of `SLOT_MS`."""

    jobs: tuple[int, ...]  # oldest slot first, without a gap; the last one is complete
    pictures: int  # wanted by all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Yardstick:
    """What turns the scores of two pictures into a measured PRS, as a predictor version means it.

    PRS = sum of weight * sigmoid((edge score - cloud score) / span) over the metrics (`scheduler.prs`).
    """

    weights: Mapping[str, float]  # metric -> weight, sum 1
    spans: Mapping[str, float]  # metric -> Gamma g > 0, for the same metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowTier:
    """Where the shadow of a job is drawn."""

    tier: str
    kind: TierKind
    width: int  # pixels, of a job without a size of its own
    height: int
    micro_usd: int  # price of one picture


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowPlan:
    """Which jobs of a window are drawn on the other tier as well, and what that may cost."""

    share: float  # an eligible job gets a shadow with this probability: its propensity, in (0, 1]
    drawn: frozenset[str]  # the job ids that the draw has hit
    other: Mapping[str, ShadowTier]  # tier a job is assigned to -> where its shadow goes
    key: str  # names the shadow batch of this deployment and budget period
    limit_micro_usd: int  # of that batch, fixed when its first window is recorded
    microbatch_jobs: int  # most shadows one message names
    yardstick: Yardstick | None  # of the predictor that decided; None = it has none

    @property
    def dearest(self) -> int:
        """Return the price of the dearest shadow, micro-USD."""
        return max(one.micro_usd for one in self.other.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowPlan:
    """What a decision round proposes; the ledger turns it into permission, or refuses."""

    window_id: str
    microbatches: tuple[Microbatch, ...]
    policy: str  # name of the allocator's rule
    predictor_name: str
    predictor_version: str
    available_micro_usd: int | None  # what the window could spend; None = unlimited
    solve_us: int  # microseconds the decision took
    deferred: tuple[tuple[str, str], ...] = ()  # (job id, reason): they stay queued for a second
    leader_term: int | None = None  # the term this leader decides in; None = no leader asked
    purse: Purse = Purse()
    shadows: ShadowPlan | None = None  # None = no traffic is shadowed
    locked: frozenset[str] = frozenset()  # job ids that a preview has decided: no shadow judges this window


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedWindow:
    """What became of a plan."""

    window_id: str
    assigned: int  # jobs with an assignment, those on the fallback tier included
    deferred: int  # jobs that stay queued
    fallback: int  # jobs the ledger sent to the fallback tier
    shadow_batch: str | None = None  # that it has opened for second pictures, the first of their period


@dataclass(frozen=True, kw_only=True, slots=True)
class SentMicrobatch:
    """One microbatch whose message is due; it is already marked sent."""

    microbatch_id: str
    tier: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """What one sweep found and mended; counts of microbatches unless said otherwise."""

    resent: int = 0  # sent long ago, never claimed: ready again
    expired: int = 0  # claims whose lease had ended
    split: int = 0  # divided into one microbatch per job
    poisoned: int = 0  # jobs that killed too many workers
    released: int = 0  # closed ones whose money was still reserved
    lost_workers: int = 0  # workers without heartbeat
    cancelled: int = 0  # jobs whose cancellation waited for their worker
    failed: int = 0  # steps that raised: the log names each, and the next sweep tries again


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelReport:
    """What a batch's cancellation met; counts of jobs."""

    cancelled: int  # had not started: final at once
    running: int  # a worker has them: it stops before the next job
    already_final: int  # had their outcome before
