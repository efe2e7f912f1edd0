"""Bodies of requests have a largest size: JSON is read whole, before anybody has asked for the key.

It knows no route but that of uploads, which counts for itself. Written as plain ASGI, as it must see pieces.
"""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler.api.answers import envelope

MOST_BYTES = 1 << 20  # no order comes near
STREAMED = ("/v1/files",)  # these read piece by piece, after a look at the key


class SmallBodies:
    """Answers 413 to what is longer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] != "http" or scope["path"] in STREAMED:
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        if told.isdecimal() and (len(told) > 12 or int(told) > MOST_BYTES):
            answer = envelope(413, _sentence(), code="body_too_long")
            await answer(scope, receive, send)
            return
        left = MOST_BYTES

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, _sentence())
            return message

        await self._app(scope, counted, send)


def _sentence() -> str:
    return f"a body has at most {MOST_BYTES} bytes; files are uploaded with POST /v1/files"
