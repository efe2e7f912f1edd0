"""How pictures are bought: permission first, then the call, the picture stored, and only then the bill.

It knows the order of these steps and what follows from each answer, for several pictures at once. It knows
neither SQL nor HTTP: the verbs are `db.repository.Repository`'s, the answers `routet2i.provider`'s.

Source: reliability.md, section 7.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import structlog

from routet2i import failpoints
from routet2i.contracts import Bought, Claim, Permit, Withheld
from routet2i.errors import GenerationFailed, LeaseLost, ProviderFault, ServiceUnavailable, UnknownCharge
from routet2i.execution import CallBook, Lease, Order, Pictures, RenderRequest
from routet2i.provider import Accepted, Answer, Busy, Declined, Drawn, Provider, Refused, Unsure, Unusable
from routet2i.settings import Settings
from routet2i.tiers import LOOPBACK, TierProfile

SENDS = 3  # of one key, to a provider that bills it once
ASKS_WITHOUT_ANSWER = 5  # for a picture that the provider has accepted
BUSY_ANSWERS = 10  # of one picture in one claim, before the worker rests
POLL_SECONDS = 1.0  # between questions
POLL_TIMEOUTS = 5  # timeouts of the tier, before a picture that is being drawn is given up
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds between tries to write down what was bought
SLICE_SECONDS = 0.1  # a wait looks up this often
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Interface(Protocol):
    """What is wanted of `routet2i.provider.Provider`."""

    def draw(self, request: RenderRequest, *, idem_key: str) -> Answer:
        """Ask once for one picture."""

    def ask(self, request: RenderRequest, *, remote_id: str) -> Answer:
        """Ask once what became of a picture that the provider accepted."""


def open_buyer(settings: Settings, profile: TierProfile) -> "Buyer":
    """Return the buyer of a tier of kind http.

    Raises:
        UsageError: there is no key for it.
        ProviderFault: fakes are wanted, and the provider is a real one.
    """
    assert profile.endpoint is not None
    if settings.fake_models and urlsplit(profile.endpoint).hostname not in LOOPBACK:
        raise ProviderFault(
            f"ROUTET2I_FAKE_MODELS is set, and tier {profile.name!r} costs real money at {profile.endpoint}; "
            "unset it, or choose another tier file"
        )
    return Buyer(profile, provider=Provider(profile, key=settings.api_key(profile.name)))


class Buyer:
    """A paid tier's maker of pictures; `routet2i.execution.Buyer`."""

    def __init__(self, profile: TierProfile, *, provider: Interface) -> None:
        """Call nobody yet."""
        self.model_id = profile.model
        self.model_revision = str(profile.endpoint)
        self.settings = json.dumps(
            {
                "endpoint": profile.endpoint,
                "parameters": dict(profile.parameters),
                "seed": "sent" if profile.sends_seed else "not sent",
            }
        )
        self._profile = profile
        self._provider = provider
        self._quiet_until = 0.0  # monotonic; the provider asked all of us to wait

    def buy(
        self,
        orders: Sequence[Order],
        *,
        claim: Claim,
        book: CallBook,
        pictures: Pictures,
        lease: Lease,
        stop: threading.Event | None,
    ) -> Sequence[bytes | Exception | None]:
        """See `routet2i.execution.Buyer.buy`."""
        halt = threading.Event()

        def stopped() -> bool:
            return halt.is_set() or (stop is not None and stop.is_set())

        def one(order: Order) -> bytes | Exception | None:
            purchase = _Purchase(
                order, buyer=self, claim=claim, book=book, pictures=pictures, lease=lease, stopped=stopped
            )
            try:
                return purchase.run()
            except GenerationFailed as error:
                return error
            except BaseException:  # of the worker: the others finish what they have begun, and begin no more
                halt.set()
                raise

        with ThreadPoolExecutor(self._profile.requests_at_once, thread_name_prefix="call") as pool:
            futures = [pool.submit(one, order) for order in orders]
        return [future.result() for future in futures]

    def call(self, request: RenderRequest, permit: Permit, *, remote_id: str | None) -> Answer:
        """Send one request, new or for what is being drawn."""
        if remote_id is not None:
            return self._provider.ask(request, remote_id=remote_id)
        return self._provider.draw(request, idem_key=permit.idem_key)

    def quieten(self, seconds: float) -> None:
        """Let every purchase of this process wait: the provider has said so to one of them."""
        self._quiet_until = max(self._quiet_until, time.monotonic() + seconds)

    def quiet_seconds(self) -> float:
        """Return how long the provider does not want to be asked."""
        return self._quiet_until - time.monotonic()

    @property
    def profile(self) -> TierProfile:
        """The tier."""
        return self._profile


class _Stopped(Exception):
    """Told to stop before the picture came; nothing is lost."""


@dataclass(kw_only=True)
class _Try:
    """One permitted call while its answer is waited for."""

    permit: Permit
    remote_id: str | None
    doubtful: bool  # it may have been billed already
    sends_lost: int = 0
    busy: int = 0

    @property
    def is_asking(self) -> bool:
        return self.remote_id is not None


class _Purchase:
    """One picture on its way, in one thread."""

    def __init__(
        self,
        order: Order,
        *,
        buyer: Buyer,
        claim: Claim,
        book: CallBook,
        pictures: Pictures,
        lease: Lease,
        stopped: Callable[[], bool],
    ) -> None:
        self._order = order
        self._buyer = buyer
        self._claim = claim
        self._book = book
        self._pictures = pictures
        self._lease = lease
        self._stopped = stopped

    def run(self) -> bytes | None:
        """Return the picture; None if the job was cancelled or the worker told to stop.

        Raises:
            GenerationFailed: the provider declines it, or its answer is lost (UnknownCharge).
            ProviderFault: the provider refuses us. LeaseLost, ServiceUnavailable, StoreFull: as everywhere.
        """
        why = "an earlier answer was lost"
        while not self._stopped():
            self._lease.check()
            permit = self._book.intend(
                self._claim,
                job_id=self._order.job_id,
                index=self._order.index,
                cost_max=self._order.micro_usd,
                repeatable=self._buyer.profile.idempotent,
            )
            if isinstance(permit, Bought):
                return self._pictures.read(permit.sha256)
            if permit is Withheld.UNKNOWN_CHARGE:
                raise UnknownCharge(f"paid for perhaps, but no picture came, and no more is bought: {why}")
            if isinstance(permit, Withheld):
                self._check_withheld(permit)
                return None  # cancelled
            failpoints.reach("after_intent")
            tried = _Try(permit=permit, remote_id=permit.remote_id, doubtful=permit.resumed)
            try:
                return self._carry_out(tried)
            except _Lost as lost:
                why = str(lost)
            except _Stopped:
                return None
        return None

    def _check_withheld(self, reason: Withheld) -> None:
        """Raise what concerns this worker rather than the job."""
        if reason is Withheld.STALE:
            raise LeaseLost(f"a newer claim of microbatch {self._claim.microbatch_id} exists")
        if reason is Withheld.PAUSED:
            raise ProviderFault(
                f"tier {self._claim.tier!r} has billed more than its price and is paused; "
                f"see it: routet2i budget show; accept it: routet2i budget resume {self._claim.tier}"
            )

    def _carry_out(self, tried: _Try) -> bytes:
        """Call until it is clear what became of one permission; raises _Lost where it never is."""
        asking_until = time.monotonic() + POLL_TIMEOUTS * self._buyer.profile.timeout_seconds
        while True:
            self._pause(tried, self._buyer.quiet_seconds())
            answer = self._buyer.call(self._order.request, tried.permit, remote_id=tried.remote_id)
            failpoints.reach("after_http")
            if isinstance(answer, Drawn):
                return self._keep(answer, tried)
            if isinstance(answer, Unusable):
                self._settle(tried, micro_usd=answer.micro_usd, sha256=None, error=answer.why)
                raise GenerationFailed(f"the provider's answer cannot be used: {answer.why}")
            if isinstance(answer, Accepted):
                self._accept(answer, tried)
                if time.monotonic() > asking_until:
                    self._lose(tried, f"{answer.remote_id} is not drawn yet")
                self._pause(tried, POLL_SECONDS)
            elif isinstance(answer, Busy):
                self._wait_for_room(answer, tried)
            elif isinstance(answer, Unsure):
                self._doubt(answer, tried)
            else:
                self._turned_away(answer, tried)

    def _keep(self, answer: Drawn, tried: _Try) -> bytes:
        """Store the picture first, then the bill."""
        try:
            sha256 = self._pictures.put(answer.png)
        except Exception as error:
            if not self._is_resumable(tried):  # else whoever comes next gets the picture for the same money
                self._settle(tried, micro_usd=answer.micro_usd, sha256=None, error=f"not stored: {error}")
            raise
        self._settle(tried, micro_usd=answer.micro_usd, sha256=sha256, error=None)
        return answer.png

    def _settle(self, tried: _Try, *, micro_usd: int | None, sha256: str | None, error: str | None) -> None:
        cost = self._order.micro_usd if micro_usd is None else micro_usd
        call_id = tried.permit.call_id
        overrun = _surely(
            lambda: self._book.settle_call(call_id, cost=cost, image_sha256=sha256, error=error)
        )
        failpoints.reach("after_settle")
        if overrun:
            _log.error("overrun", tier=self._claim.tier, call=call_id, micro_usd=cost, overrun=overrun)

    def _accept(self, answer: Accepted, tried: _Try) -> None:
        if tried.remote_id is None:
            _surely(lambda: self._book.accept_call(tried.permit.call_id, remote_id=answer.remote_id))
            tried.remote_id, tried.doubtful = answer.remote_id, True

    def _wait_for_room(self, answer: Busy, tried: _Try) -> None:
        if answer.is_for_all:
            self._buyer.quieten(answer.seconds)
        tried.busy += 1
        if tried.busy >= BUSY_ANSWERS:
            self._take_back(tried, error="the provider is busy")
            raise ProviderFault(f"the provider of tier {self._claim.tier!r} has been busy {tried.busy} times")
        self._pause(tried, answer.seconds)

    def _doubt(self, answer: Unsure, tried: _Try) -> None:
        """Go on where a repetition costs nothing; else count it as spent."""
        tried.doubtful = True
        tried.sends_lost += 1
        most = ASKS_WITHOUT_ANSWER if tried.is_asking else SENDS
        if not self._is_resumable(tried) or tried.sends_lost >= most:
            self._lose(tried, answer.why)
        self._pause(tried, PAUSES[min(tried.sends_lost, len(PAUSES)) - 1])

    def _lose(self, tried: _Try, why: str) -> None:
        _surely(lambda: self._book.doubt_call(tried.permit.call_id, error=why))
        _log.warning("call_unknown", tier=self._claim.tier, call=tried.permit.call_id, error=why)
        raise _Lost(why)

    def _turned_away(self, answer: Declined | Refused, tried: _Try) -> None:
        """Nothing was billed now; raises what follows for the job, or for the worker."""
        if isinstance(answer, Refused):
            self._take_back(tried, error=answer.why)
            raise ProviderFault(f"the provider of tier {self._claim.tier!r} refuses us: {answer.why}")
        if tried.doubtful:
            _surely(lambda: self._book.doubt_call(tried.permit.call_id, error=answer.why))
            raise UnknownCharge(f"paid for perhaps, and then declined: {answer.why}")
        self._take_back(tried, error=answer.why)
        raise GenerationFailed(f"the provider declines it: {answer.why}")

    def _take_back(self, tried: _Try, *, error: str) -> None:
        """Give the money back, unless an earlier try of the same call may have been billed."""
        if not tried.doubtful:
            _surely(lambda: self._book.void_call(self._claim, tried.permit.call_id, error=error))

    def _is_resumable(self, tried: _Try) -> bool:
        return tried.is_asking or self._buyer.profile.idempotent

    def _pause(self, tried: _Try, seconds: float) -> None:
        """Wait, while the lease is ours and nobody says stop; no call is out meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._lease.check()
            except LeaseLost:
                with contextlib.suppress(ServiceUnavailable):
                    self._take_back(tried, error="the lease was lost before the call")
                raise
            if self._stopped():
                self._take_back(tried, error="told to stop before the call")
                raise _Stopped
            left = deadline - time.monotonic()
            if left <= 0:
                return
            threading.Event().wait(min(left, SLICE_SECONDS))


class _Lost(Exception):
    """One permitted call is over, and nobody knows what became of it."""


def _surely(work: Callable[[], _T]) -> _T:
    """Write down what was bought, again where the database is silent for a moment; every verb may repeat."""
    for pause in PAUSES:
        try:
            return work()
        except ServiceUnavailable:
            threading.Event().wait(pause)
    return work()
