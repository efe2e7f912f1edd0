"""Who calls: a key in the header `Authorization: Bearer`, or the cookie of a page; and what its role may do.

It knows keys by their hash (`db.keys`) and roles; what a route shows to whom it asks the `Caller`. The
database is asked for every good key again: a revoked one is refused at once, in each process.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from db.keys import Role, digest
from db.repository import Repository
from scheduler.api.answers import Refused
from scheduler.api.limits import STATE, Limits

T = TypeVar("T")

COOKIE = "routet2i_key"
WRONG = "the key is unknown, was revoked or has expired; ask for one: routet2i key create"
REMEMBERED_SECONDS = 5.0  # a wrong key is asked of the database at most this often
REMEMBERED_KEYS = 10_000
NEW_KEYS_A_MINUTE = 600  # that one address may try: nobody guesses 256 bits, but each try is a question


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """The key's owner."""

    key_id: str
    client: str  # whose batches it submits and, as a submitter, sees
    role: Role

    @property
    def sees_all(self) -> bool:
        """Whether other clients' batches are shown too."""
        return self.role in (Role.AUDITOR, Role.ADMIN)

    @property
    def may_submit(self) -> bool:
        """Whether it may make and cancel batches."""
        return self.role in (Role.SUBMITTER, Role.ADMIN)

    @property
    def may_change_all(self) -> bool:
        """Whether it may change what belongs to no client."""
        return self.role is Role.ADMIN

    def may_see(self, client: str) -> bool:
        """Whether a batch of that client is shown."""
        return self.sees_all or client == self.client

    def may_change(self, client: str) -> bool:
        """Whether a batch of that client may be cancelled, retried, paid for."""
        return self.role is Role.ADMIN or (self.role is Role.SUBMITTER and client == self.client)


class Doorkeeper:
    """Asks who has a key; an address that tries many is slowed down, but for keys that were good before."""

    def __init__(self, repository: Repository, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._repository = repository
        self._clock = clock
        self._wrong: OrderedDict[str, float] = OrderedDict()  # hash -> when it was asked for
        self._good: OrderedDict[str, None] = OrderedDict()  # hashes that were good once
        self._tries = Limits(NEW_KEYS_A_MINUTE, clock=clock)
        self._lock = threading.Lock()

    def admit(self, secret: str, *, address: str = "") -> Caller:
        """Return who has this key; raises Refused with 401, or 429 for too many wrong ones.

        Args:
            address: where the request comes from.
        """
        hashed = digest(secret)
        now = self._clock()
        with self._lock:
            asked = self._wrong.get(hashed)
            is_new = hashed not in self._good
        if asked is not None and now - asked <= REMEMBERED_SECONDS:
            raise _unknown(WRONG)
        if is_new:
            verdict = self._tries.take(address)
            if verdict is not None and not verdict.allowed:
                raise Refused(
                    429, "too many wrong keys come from your address", code="too_many_keys",
                    headers={"Retry-After": verdict.headers["Retry-After"]},
                )  # fmt: skip
        row = self._repository.find_key(hashed)
        with self._lock:
            if row is None:
                self._good.pop(hashed, None)
                _remember(self._wrong, hashed, now)
            else:
                _remember(self._good, hashed, None)
        if row is None:
            raise _unknown(WRONG)
        if is_new:
            self._tries.give_back(address)
        return Caller(key_id=row.id, client=row.client, role=row.role)


def _remember(known: "OrderedDict[str, T]", hashed: str, value: T) -> None:
    known[hashed] = value
    while len(known) > REMEMBERED_KEYS:
        known.popitem(last=False)


def caller(request: Request) -> Caller:
    """Return who calls; raises Refused with 401, or 429 if it calls too often."""
    secret, from_cookie = _secret(request)
    if from_cookie and request.method not in ("GET", "HEAD") and not from_our_page(request):
        raise Refused(403, "this request comes from another site's page", code="foreign_origin")
    if not secret:
        raise _unknown(
            "send a key: Authorization: Bearer KEY; an administrator makes one: routet2i key create"
        )
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    found = doorkeeper.admit(secret, address=address_of(request))
    limits: Limits = request.app.state.limits
    verdict = limits.take(found.key_id)
    setattr(request.state, STATE, verdict)
    if verdict is not None and not verdict.allowed:
        raise Refused(
            429,
            f"this key may make {verdict.limit} requests at once; wait {verdict.wait_seconds:.1f} s",
            code="rate_limit_exceeded",
            headers=verdict.headers,
        )
    return found


def is_still_good(request: Request) -> bool:
    """Whether the key of a request that goes on for long is good yet; it costs the caller nothing."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    try:
        doorkeeper.admit(_secret(request)[0], address=address_of(request))
    except Refused:
        return False
    return True


def address_of(request: Request) -> str:
    """Return where a request comes from, as far as the server knows."""
    return "" if request.client is None else request.client.host


def _secret(request: Request) -> tuple[str, bool]:
    """Return a request's key, empty if it has none, and whether it is a cookie's."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret, False
    secret = request.cookies.get(COOKIE, "")
    return secret, bool(secret)


def from_our_page(request: Request) -> bool:
    """Whether a browser says that the request was made by a page of this very address."""
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] == request.headers.get("host")


def submitter(found: Annotated[Caller, Depends(caller)]) -> Caller:
    """Return who calls, if it may submit; raises Refused with 401 or 403."""
    if not found.may_submit:
        raise Refused(403, f"a key of role {found.role} may look but not submit", code="role")
    return found


def auditor(found: Annotated[Caller, Depends(caller)]) -> Caller:
    """Return who calls, if it may see everybody's rows; raises Refused with 401 or 403."""
    if not found.sees_all:
        raise Refused(403, "this needs a key of role auditor or admin", code="role")
    return found


def admin(found: Annotated[Caller, Depends(caller)]) -> Caller:
    """Return who calls, if it may change everything; raises Refused with 401 or 403."""
    if found.role is not Role.ADMIN:
        raise Refused(403, "this needs a key of role admin", code="role")
    return found


def _unknown(message: str) -> Refused:
    return Refused(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


AnyCaller = Annotated[Caller, Depends(caller)]
Submitter = Annotated[Caller, Depends(submitter)]
Auditor = Annotated[Caller, Depends(auditor)]
Admin = Annotated[Caller, Depends(admin)]
