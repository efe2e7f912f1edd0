"""Redis for Celery, with a look at every message before kombu believes it.

Whoever can write to the broker is not trusted. One malformed message would end a worker, and again after each
start, for an unacknowledged message comes back; here it is dropped and counted instead. It knows the envelope
of messages and its limits; what a task does with its arguments is `routet2i.worker`.
"""

import base64
from collections.abc import Mapping
from queue import Empty
from typing import Any

import orjson
import structlog
from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

MAX_BODY = 4096  # characters of a task's body: it names one microbatch
MAX_ANSWER = 1 << 22  # of what workers tell each other and Flower
AGAIN_SECONDS = 0.5  # between two tries to reach a broker that is away; kombu's pause grows to 30 s
MOST_AGAIN_SECONDS = 1.0
_log = structlog.get_logger(__name__)


def use_checked_transport() -> None:
    """Let redis:// and rediss:// of this process mean the transport of this module."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


def is_sound(message: Any, queue: str) -> bool:
    """Whether an envelope is what Celery writes, and on a tier's queue a task's with one small JSON body."""
    if not isinstance(message, Mapping):
        return False
    body, headers, properties = (message.get(key) for key in ("body", "headers", "properties"))
    if not (isinstance(body, str) and isinstance(headers, dict) and isinstance(properties, dict)):
        return False
    info = properties.get("delivery_info")
    if not isinstance(info, dict) or not all(
        isinstance(info.get(key), str) for key in ("exchange", "routing_key")
    ):
        return False
    if (
        not isinstance(properties.get("delivery_tag"), str)
        or message.get("content-type") != "application/json"
    ):
        return False
    if message.get("content-encoding") not in ("utf-8", "us-ascii"):
        return False
    if queue.endswith(".pidbox") or queue.startswith("celeryev"):
        return len(body) <= MAX_ANSWER
    return _is_task(body, headers, encoding=properties.get("body_encoding"))


def _is_task(body: str, headers: Mapping[str, Any], *, encoding: Any) -> bool:
    if len(body) > MAX_BODY or encoding != "base64":
        return False
    if not all(isinstance(headers.get(key), str) for key in ("task", "id")):
        return False
    if any(headers.get(key) is not None for key in ("eta", "expires", "group")):
        return False
    try:
        args, kwargs, embed = orjson.loads(base64.b64decode(body, validate=True))
    except (ValueError, TypeError):
        return False
    return args == [] and isinstance(kwargs, dict) and isinstance(embed, dict) and not any(embed.values())


class Channel(kombu_redis.Channel):
    """A channel that a message which is no JSON cannot break."""

    def _brpop_read(self, **options: Any) -> Any:
        """Read one message; what cannot be read is gone from the queue already, and dropped."""
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]  # kombu has no types
        except Empty:
            raise
        except (ValueError, RecursionError) as error:  # JSON and UTF-8; the broker's own errors are others
            _log.warning("message_dropped", reason=f"no JSON: {type(error).__name__}")
            raise Empty from None


class Transport(kombu_redis.Transport):
    """kombu's transport, which hands on sound messages only."""

    Channel = Channel
    dropped = 0

    def _deliver(self, message: Any, queue: str) -> None:
        if is_sound(message, queue):
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
            return
        self.dropped += 1
        _log.warning("message_dropped", reason="no message of ours", queue=queue, dropped=self.dropped)


class EagerConnection(Connection):
    """A connection that looks for its broker about once a second, so that a short outage stays short."""

    def _ensure_connection(  # type: ignore[override]  # `options` takes the rest of its arguments
        self,
        errback: Any = None,
        max_retries: int | None = None,
        interval_start: float = AGAIN_SECONDS,
        interval_step: float = AGAIN_SECONDS,
        interval_max: float = MOST_AGAIN_SECONDS,
        **options: Any,
    ) -> Any:
        """Wait for the broker; whoever consumes and whoever publishes comes through here."""
        return super()._ensure_connection(  # type: ignore[no-untyped-call]
            errback, max_retries, interval_start, interval_step, interval_max, **options
        )
