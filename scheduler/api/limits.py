"""How many requests a key may make: a bucket of tokens per key in each process, and headers that tell.

It knows keys and the clock, no route. How many jobs may wait is the door's affair (`db.door`).
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BURST_SECONDS = 10.0  # of its rate that a key may use at once
REMEMBERED_KEYS = 10_000
STATE = "rate"  # where in a request's state its verdict lies


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a request may be made, and what may be made then."""

    allowed: bool
    limit: int  # requests at once
    remaining: int
    full_seconds: float  # until the bucket is full again
    wait_seconds: float  # until the next one is allowed

    @property
    def headers(self) -> dict[str, str]:
        """Return them as OpenAI's headers."""
        told = {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{self.full_seconds:.3f}s",
        }
        if not self.allowed:
            told["Retry-After"] = str(max(1, math.ceil(self.wait_seconds)))
            told["retry-after-ms"] = str(max(1, math.ceil(self.wait_seconds * 1000)))
        return told


class Limits:
    """Buckets of one process."""

    def __init__(self, per_minute: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets.

        Args:
            per_minute: requests of one key; None = no limit.
        """
        self._rate = None if per_minute is None else per_minute / 60
        self._size = 0 if self._rate is None else max(1, math.floor(self._rate * BURST_SECONDS))
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # key -> tokens, and when there were so many
        self._lock = threading.Lock()

    def take(self, key_id: str) -> Verdict | None:
        """Take a token for one request; None = there is no limit."""
        if self._rate is None:
            return None
        now = self._clock()
        with self._lock:
            if len(self._levels) >= REMEMBERED_KEYS and key_id not in self._levels:
                self._levels = {
                    name: (tokens, since)
                    for name, (tokens, since) in self._levels.items()
                    if tokens + (now - since) * self._rate < self._size
                }
            tokens, since = self._levels.get(key_id, (float(self._size), now))
            tokens = min(self._size, tokens + (now - since) * self._rate)
            allowed = tokens >= 1
            tokens -= allowed
            self._levels[key_id] = tokens, now
        return self._verdict(tokens, allowed=bool(allowed))

    def give_back(self, key_id: str) -> None:
        """Undo a `take`."""
        with self._lock:
            if key_id in self._levels:
                tokens, since = self._levels[key_id]
                self._levels[key_id] = tokens + 1, since

    def _verdict(self, tokens: float, *, allowed: bool) -> Verdict:
        assert self._rate is not None
        return Verdict(
            allowed=allowed,
            limit=self._size,
            remaining=math.floor(tokens),
            full_seconds=(self._size - tokens) / self._rate,
            wait_seconds=0.0 if allowed else (1 - tokens) / self._rate,
        )


class RateHeaders:
    """Adds a request's verdict to its answer's headers; plain ASGI, so that streams pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""

        async def sending(message: Message) -> None:
            verdict: Verdict | None = scope.get("state", {}).get(STATE)
            if message["type"] == "http.response.start" and verdict is not None:
                headers = MutableHeaders(scope=message)
                for name, value in verdict.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sending)
