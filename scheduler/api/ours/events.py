"""A batch's progress as server-sent events: one when something changed, `done` at the end.

An event's id is what it says, so a listener that comes back with `Last-Event-ID` hears only what is new. All
who listen to one batch in this process share one question to the database a second. It changes nothing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated

import orjson
import structlog
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from db.audit import BatchStatus
from routet2i.errors import RouteT2IError
from scheduler.api.answers import Refused
from scheduler.api.callers import AnyCaller, is_still_good
from scheduler.api.ours.batches import Batch
from scheduler.api.ours.sight import BatchId, batch_seen

LOOK_SECONDS = 1.0
QUIET_SECONDS = 15.0  # after which a comment keeps proxies from hanging up
LONGEST_SECONDS = 3600.0  # then the listener comes back, with a key that is good then
MOST_LISTENERS = 256  # of one process
MOST_OF_A_KEY = 32
_log = structlog.get_logger(__name__)

router = APIRouter(prefix="/routet2i/v1/batches", tags=["batches"])


@dataclass(kw_only=True, slots=True)
class _Look:
    at: float
    status: BatchStatus


class Feed:
    """What this process has seen lately of the batches that somebody listens to."""

    def __init__(self, count: Callable[[str], BatchStatus]) -> None:
        """Begin with nobody listening.

        Args:
            count: where a batch stands now; raises what the database says. Whoever hears of a change and asks
                it then must find nothing older.
        """
        self._count = count
        self._seen: dict[str, _Look] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self.listeners: Counter[str] = Counter()  # key -> how many

    async def status(self, batch_id: str) -> BatchStatus:
        """Return where a batch stands, at most a second old; raises what the database says."""
        async with self._turns.setdefault(batch_id, asyncio.Lock()):
            look = self._seen.get(batch_id)
            if look is None or time.monotonic() - look.at >= LOOK_SECONDS:
                status = await run_in_threadpool(self._count, batch_id)
                look = self._seen[batch_id] = _Look(at=time.monotonic(), status=status)
            return look.status

    def forget(self, batch_id: str) -> None:
        """Drop what was seen of a batch: its next listener asks again."""
        self._seen.pop(batch_id, None)
        turn = self._turns.get(batch_id)
        if turn is not None and not turn.locked():
            del self._turns[batch_id]


@router.get(
    "/{batch_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "the batch is complete, and the listener has heard so"},
    },
)
async def listen(
    request: Request,
    caller: AnyCaller,
    batch_id: BatchId,
    last_event_id: Annotated[str | None, Header(max_length=256)] = None,
) -> Response:
    """Tell a batch's progress until it is complete."""
    await run_in_threadpool(batch_seen, request, caller, batch_id)
    feed: Feed = request.app.state.feed
    status = await feed.status(batch_id)
    if status.complete and last_event_id == _mark(status):
        feed.forget(batch_id)
        return Response(status_code=204)  # a browser's EventSource stops coming back
    if feed.listeners.total() >= MOST_LISTENERS:
        feed.forget(batch_id)
        raise Refused(503, "too many listeners; ask for the batch itself", code="too_many_listeners")
    if feed.listeners[caller.key_id] >= MOST_OF_A_KEY:
        feed.forget(batch_id)
        raise Refused(
            429, f"{MOST_OF_A_KEY} listeners have this key already; close one", code="too_many_listeners"
        )
    return StreamingResponse(
        _events(request, caller.key_id, batch_id, heard=last_event_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(request: Request, key_id: str, batch_id: str, *, heard: str | None) -> AsyncIterator[bytes]:
    feed: Feed = request.app.state.feed
    feed.listeners[key_id] += 1
    try:
        yield b"retry: 2000\n\n"
        begun = told = time.monotonic()
        while time.monotonic() - begun < LONGEST_SECONDS:
            try:
                status = await feed.status(batch_id)
                mark = _mark(status)
                speaks = mark != heard or time.monotonic() - told >= QUIET_SECONDS
                if speaks and not await run_in_threadpool(is_still_good, request):
                    return
            except RouteT2IError as error:
                _log.warning("events_blind", batch=batch_id, error=str(error))
                await asyncio.sleep(2 * LOOK_SECONDS)
                continue
            if mark != heard:
                heard, told = mark, time.monotonic()
                yield _event("done" if status.complete else "progress", mark, status)
            elif speaks:
                told = time.monotonic()
                yield b": still here\n\n"
            if status.complete:
                return
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        feed.listeners[key_id] -= 1
        if not feed.listeners[key_id]:
            del feed.listeners[key_id]
        feed.forget(batch_id)


def _mark(status: BatchStatus) -> str:
    """Return what an event says, short enough for a header."""
    counts = [status.n_accepted, *status.by_state.values(), status.reserved_micro_usd, status.spent_micro_usd]
    return f"{status.state}-{'-'.join(map(str, counts))}"


def _event(name: str, mark: str, status: BatchStatus) -> bytes:
    data = orjson.dumps(Batch.of(status, paused=False).model_dump(mode="json", exclude={"paused"}))
    return b"id: " + mark.encode() + b"\nevent: " + name.encode() + b"\ndata: " + data + b"\n\n"
