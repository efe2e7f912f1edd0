"""Bodies of requests have a largest size and time: JSON is read whole, before anybody has asked for the key.

It knows no route but that of uploads, which counts for itself. Written as plain ASGI, as it must see pieces.
"""

import time

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler.api.answers import envelope

MOST_BYTES = 1 << 20  # no order comes near
WHOLE_SECONDS = 60.0  # that such a body may take
PIECE_SECONDS = 30.0  # that one piece of any body may take
STREAMED = ("/v1/files",)  # these read piece by piece, after a look at the key


class SmallBodies:
    """Answers 413 to what is longer, and 408 to what takes longer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        streamed = scope["path"] in STREAMED
        told = Headers(scope=scope).get("content-length", "")
        if not streamed and told.isdecimal() and (len(told) > 12 or int(told) > MOST_BYTES):
            answer = envelope(413, _sentence(), code="body_too_long")
            await answer(scope, receive, send)
            return
        left, whole = MOST_BYTES, False
        ends = time.monotonic() + WHOLE_SECONDS

        async def counted() -> Message:
            nonlocal left, whole
            if whole:  # from now on whoever asks waits for the caller to go away
                return await receive()
            seconds = PIECE_SECONDS if streamed else min(PIECE_SECONDS, ends - time.monotonic())
            try:
                with anyio.fail_after(max(0.0, seconds)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body did not come in time", {"Connection": "close"}) from None
            whole = not message.get("more_body", False)
            left -= len(message.get("body", b""))
            if left < 0 and not streamed:
                raise HTTPException(413, _sentence())
            return message

        await self._app(scope, counted, send)


def _sentence() -> str:
    return f"a body has at most {MOST_BYTES} bytes; files are uploaded with POST /v1/files"
