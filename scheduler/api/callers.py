"""Who calls: a key in the header `Authorization: Bearer`, or the cookie of a page; and what its role may do.

It knows keys by their hash (`db.keys`) and roles; what a route shows to whom it asks the `Caller`. A key that
was revoked is refused within `REMEMBERED_SECONDS`.
"""

import threading
import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from db.keys import KeyRow, Role, digest
from db.repository import Repository
from scheduler.api.answers import Refused
from scheduler.api.limits import STATE, Limits

COOKIE = "routet2i_key"
REMEMBERED_SECONDS = 5.0  # a key is asked of the database at most this often
REMEMBERED_KEYS = 10_000


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
    """Knows for some seconds which keys were good."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._known: dict[str, tuple[float, KeyRow | None]] = {}
        self._lock = threading.Lock()

    def admit(self, secret: str) -> Caller:
        """Return who has this key; raises Refused with 401."""
        hashed = digest(secret)
        now = time.monotonic()
        with self._lock:
            found = self._known.get(hashed)
        if found is None or now - found[0] > REMEMBERED_SECONDS:
            found = now, self._repository.find_key(hashed)
            with self._lock:
                if len(self._known) >= REMEMBERED_KEYS:  # a flood of wrong ones
                    self._known.clear()
                self._known[hashed] = found
        row = found[1]
        if row is None:
            raise _unknown("the key is unknown, was revoked or has expired; ask for one: routet2i key create")
        return Caller(key_id=row.id, client=row.client, role=row.role)


def caller(request: Request) -> Caller:
    """Return who calls; raises Refused with 401, or 429 if it calls too often."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        secret = request.cookies.get(COOKIE, "")
        if secret and request.method not in ("GET", "HEAD") and not from_our_page(request):
            raise Refused(403, "this request comes from another site's page", code="foreign_origin")
    if not secret:
        raise _unknown(
            "send a key: Authorization: Bearer KEY; an administrator makes one: routet2i key create"
        )
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    found = doorkeeper.admit(secret)
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
