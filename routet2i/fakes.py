"""Stand-ins for everything slow, in memory and deterministic; tests and benchmarks share them.

They keep the protocols of `routet2i.execution` and pass the same contract tests as the real classes. They
know no SQL, no torch, no disk. With ROUTET2I_FAKE_MODELS=1 a worker uses `FakeGenerator` and `FakeScorer`.
"""

import hashlib
import io
import json
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from routet2i.contracts import (
    Bought,
    CallState,
    Claim,
    ClaimedJob,
    JobOutcome,
    MicrobatchState,
    Permit,
    Withheld,
    new_id,
)
from routet2i.errors import GenerationFailed
from routet2i.execution import RenderRequest


@dataclass(kw_only=True)
class _Row:
    """What the database would hold of one microbatch."""

    tier: str
    width: int
    height: int
    jobs: tuple[ClaimedJob, ...]
    state: MicrobatchState = MicrobatchState.READY
    fence: int = 0
    lease_until: float = 0.0  # by the store's clock
    outcomes: dict[str, JobOutcome] = field(default_factory=dict)


@dataclass(kw_only=True)
class FakeCall:
    """What the database would hold of one paid call."""

    job_id: str
    index: int
    cost_max: int
    state: CallState = CallState.INTENT
    remote_id: str | None = None
    sha256: str | None = None
    error: str | None = None


class FakeStore:
    """The worker's half of the repository, in memory; `execution.Store` and `worker.WorkerStore`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin empty; `clock` returns seconds and decides when a lease has ended."""
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._cancelled: set[str] = set()
        self.releases: list[tuple[str, str]] = []  # (microbatch id, reason)
        self.recorded: list[list[str]] = []  # job ids of each record that was accepted: one transaction each
        self.beats: dict[str, str] = {}  # worker -> state
        self.calls: dict[str, FakeCall] = {}
        self.faults: dict[str, str | None] = {}  # worker -> why it gave its last microbatch back

    def add(self, jobs: Sequence[ClaimedJob], *, tier: str, width: int = 64, height: int = 64) -> str:
        """Make a ready microbatch and return its id."""
        microbatch_id = new_id()
        self._rows[microbatch_id] = _Row(tier=tier, width=width, height=height, jobs=tuple(jobs))
        return microbatch_id

    def cancel(self, job_id: str) -> None:
        """Ask for a job to be cancelled."""
        self._cancelled.add(job_id)

    def expire(self, microbatch_id: str) -> None:
        """Do what the sweeper does to a claim whose lease has ended: a higher fence, ready again."""
        row = self._rows[microbatch_id]
        row.fence += 1
        row.state = MicrobatchState.READY

    def state(self, microbatch_id: str) -> MicrobatchState:
        """Return a microbatch's state."""
        return self._rows[microbatch_id].state

    def outcomes(self, microbatch_id: str) -> Mapping[str, JobOutcome]:
        """Return the recorded outcomes by job id."""
        return self._rows[microbatch_id].outcomes

    def claim(self, microbatch_id: str, *, tier: str, worker: str, lease_seconds: float) -> Claim | None:
        """See `execution.Store.claim`."""
        with self._lock:
            row = self._rows.get(microbatch_id)
            if row is None or row.tier != tier:
                return None
            if row.state not in (MicrobatchState.READY, MicrobatchState.SENT):
                return None
            row.state = MicrobatchState.CLAIMED
            row.fence += 1
            row.lease_until = self._clock() + lease_seconds
            return Claim(
                microbatch_id=microbatch_id,
                tier=tier,
                fence=row.fence,
                worker=worker,
                lease_seconds=lease_seconds,
                width=row.width,
                height=row.height,
                jobs=tuple(
                    job
                    for job in row.jobs
                    if job.job_id not in row.outcomes and job.job_id not in self._cancelled
                ),
            )

    def renew(self, claim: Claim) -> bool:
        """See `execution.Store.renew`."""
        with self._lock:
            return self._hold(claim) is not None

    def cancelled(self, claim: Claim) -> frozenset[str]:
        """See `execution.Store.cancelled`."""
        return frozenset(job.job_id for job in claim.jobs if job.job_id in self._cancelled)

    def record(self, claim: Claim, outcomes: Sequence[JobOutcome]) -> bool:
        """See `execution.Store.record`."""
        with self._lock:
            row = self._hold(claim)
            if row is None:
                return False
            for outcome in outcomes:
                row.outcomes.setdefault(outcome.job_id, outcome)
            self.recorded.append([outcome.job_id for outcome in outcomes])
            return True

    def finish(self, claim: Claim) -> bool:
        """See `execution.Store.finish`."""
        return self._close(claim, MicrobatchState.DONE)

    def release(self, claim: Claim, *, reason: str) -> bool:
        """See `execution.Store.release`."""
        released = self._close(claim, MicrobatchState.READY)
        if released:
            self.releases.append((claim.microbatch_id, reason))
        return released

    def report_cut_off(self, claim: Claim) -> bool:
        """See `execution.Store.report_cut_off`."""
        return self.release(claim, reason="lost database")

    def intend(
        self, claim: Claim, *, job_id: str, index: int, cost_max: int, repeatable: bool
    ) -> Permit | Bought | Withheld:
        """See `execution.CallBook.intend`; its money has no end, and a lost picture is not bought again."""
        with self._lock:
            if self._hold(claim) is None:
                return Withheld.STALE
            if job_id in self._cancelled:
                return Withheld.CANCELLED
            for call_id, call in self.calls.items():
                if (call.job_id, call.index) != (job_id, index) or call.state is CallState.VOID:
                    continue
                if call.sha256 is not None:
                    return Bought(sha256=call.sha256)
                if call.state is not CallState.INTENT:
                    return Withheld.UNKNOWN_CHARGE
                return Permit(call_id=call_id, idem_key=call_id, remote_id=call.remote_id, resumed=True)
            call_id = new_id()
            self.calls[call_id] = FakeCall(job_id=job_id, index=index, cost_max=cost_max)
            return Permit(call_id=call_id, idem_key=call_id, remote_id=None, resumed=False)

    def accept_call(self, call_id: str, *, remote_id: str) -> None:
        """See `execution.CallBook.accept_call`."""
        self.calls[call_id].remote_id = remote_id

    def settle_call(
        self, call_id: str, *, cost: int, image_sha256: str | None, error: str | None = None
    ) -> int:
        """See `execution.CallBook.settle_call`."""
        call = self.calls[call_id]
        call.state, call.sha256, call.error = CallState.CHARGED, image_sha256, error
        return max(0, cost - call.cost_max)

    def doubt_call(self, call_id: str, *, error: str) -> None:
        """See `execution.CallBook.doubt_call`."""
        self.calls[call_id].state, self.calls[call_id].error = CallState.UNKNOWN, error

    def void_call(self, claim: Claim, call_id: str, *, error: str) -> None:
        """See `execution.CallBook.void_call`."""
        self.calls[call_id].state, self.calls[call_id].error = CallState.VOID, error

    def beat(self, *, worker: str, tier: str, device: str, version: str, state: str) -> None:
        """See `worker.WorkerStore.beat`."""
        self.beats[worker] = state

    def note_fault(self, *, worker: str, fault: str | None) -> None:
        """See `worker.WorkerStore.note_fault`."""
        self.faults[worker] = fault

    def has_old_work(self, *, tier: str, seconds: float) -> bool:
        """See `heartbeat.Beats.has_old_work`: what waits was made just now."""
        return False

    def progress(self, microbatch_id: str) -> tuple[int, int]:
        """See `heartbeat.Beats.progress`."""
        row = self._rows[microbatch_id]
        return len(row.outcomes), len(row.jobs)

    def _hold(self, claim: Claim) -> _Row | None:
        """Return the row if the claim is the current one, and renew its lease."""
        row = self._rows.get(claim.microbatch_id)
        if row is None or row.fence != claim.fence or row.state is not MicrobatchState.CLAIMED:
            return None
        row.lease_until = self._clock() + claim.lease_seconds
        return row

    def _close(self, claim: Claim, state: MicrobatchState) -> bool:
        with self._lock:
            row = self._hold(claim)
            if row is not None:
                row.state = state
            return row is not None


class FakePictures:
    """Pictures in a dictionary; `execution.Pictures`."""

    def __init__(self) -> None:
        """Begin empty."""
        self.stored: dict[str, bytes] = {}

    def check_room(self) -> None:
        """Find room, always."""

    def put(self, png: bytes) -> str:
        """Keep the bytes under their SHA-256."""
        name = hashlib.sha256(png).hexdigest()
        self.stored[name] = png
        return name

    def read(self, sha256: str) -> bytes:
        """Return a stored picture; see `execution.Pictures.read`."""
        try:
            return self.stored[sha256]
        except KeyError:
            raise GenerationFailed(f"picture {sha256} is gone") from None


class FakeGenerator:
    """A gradient whose colours follow from prompt, negative prompt, seed and size; `execution.Generator`."""

    model_id = "fake"
    model_revision = "fake-1"

    def __init__(self, *, distinct: bool = True, style: str = "") -> None:
        """Draw a picture per request, or with `distinct` false one and the same tiny one, at no cost.

        Another `style` draws other pictures of the same requests, as another model would.
        """
        self._style = style.encode()
        self.settings = json.dumps({"generator": "fake", "distinct": distinct})
        self.calls: list[int] = []  # group sizes, in order
        self._same = None if distinct else _gradient(b"the same", width=8, height=8)

    def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
        """See `execution.Generator.generate`."""
        self.calls.append(len(requests))
        if self._same is not None:
            return [self._same] * len(requests)
        return [
            _gradient(self._style + _key(request), width=request.width, height=request.height)
            for request in requests
        ]


class FakeScorer:
    """Scores in [0, 1] that follow from picture, prompt and metric name; `execution.Scorer`."""

    def __init__(self, names: Sequence[str]) -> None:
        """Measure these metrics."""
        self._names = tuple(names)

    def score(self, pictures: Sequence[bytes], prompts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """See `execution.Scorer.score`."""
        return [
            dict(zip(self._names, _fractions(picture, prompt, len(self._names)), strict=True))
            for picture, prompt in zip(pictures, prompts, strict=True)
        ]


def _key(request: RenderRequest) -> bytes:
    return json.dumps([request.prompt, request.negative_prompt, request.seed]).encode()


def _fractions(picture: bytes, prompt: str, count: int) -> list[float]:
    """Return `count` numbers in [0, 1], one per 2 bytes of an extensible hash."""
    digest = hashlib.shake_128(picture + prompt.encode()).digest(2 * count)
    return [number / 0xFFFF for number in struct.unpack(f">{count}H", digest)]


def _gradient(key: bytes, *, width: int, height: int) -> bytes:
    """Return a PNG that fades from one colour to another, both taken from the key's hash."""
    digest = hashlib.sha256(key).digest()
    ramp = Image.linear_gradient("L").resize((width, height))
    picture = Image.composite(
        Image.new("RGB", (width, height), tuple(digest[:3])),
        Image.new("RGB", (width, height), tuple(digest[3:6])),
        ramp,
    )
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=1)
    return file.getvalue()
