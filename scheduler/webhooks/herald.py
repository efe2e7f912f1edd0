"""The thread of `serve` that notices ends of batches and sends what webhooks ask for; several do no harm.

What is sent lies in SQL before anybody sends it, and each try is claimed there: a herald that dies has told
nobody a lie, its claim ends and another one sends again, under the same id. It knows no SQL and no socket.
"""

import random
import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from db.outbox import Delivery
from routet2i.errors import RouteT2IError, ServiceUnavailable
from scheduler.webhooks.posting import post
from scheduler.webhooks.signature import headers

SENDERS = 4  # at a time; each webhook has at most one
LOOK_SECONDS = 1.0
RETRY_SECONDS = 5.0  # pause after a database that does not answer

Post = Callable[..., int]
_log = structlog.get_logger(__name__)


class Outbox(Protocol):
    """What a herald needs of `db.repository.Repository`."""

    def notice_batches(self, *, since_ms: int | None) -> int:
        """Watch batches that webhooks are about."""

    def tell_endings(self) -> int:
        """Write what is to be sent of batches that ended."""

    def claim_delivery(self, *, delivery_id: str | None = None) -> Delivery | None:
        """Take the delivery that is due longest, or this one."""

    def conclude_delivery(
        self, delivery: Delivery, *, status: int | None, error: str | None, milliseconds: int, chance: float
    ) -> str:
        """Log a try and say what the delivery is now."""


def send(outbox: Outbox, delivery: Delivery, *, private_hosts: Collection[str], post: Post = post) -> str:
    """Make one try of a claimed delivery and log it; return what the delivery is now."""
    started = time.monotonic()
    status, error = None, None
    try:
        status = post(
            delivery.url,
            body=delivery.body.encode(),
            headers=headers(
                delivery.secret, message_id=delivery.id, seconds=int(time.time()), body=delivery.body
            ),
            private_hosts=private_hosts,
        )
    except RouteT2IError as refused:
        error = _printable(str(refused))
    except Exception as failed:  # a try that is not concluded would be made for ever
        _log.critical("webhook_failed", delivery=delivery.id, exc_info=True)
        error = _printable(f"{type(failed).__name__}: {failed}")
    if status is not None and not 200 <= status < 300:
        error = f"the receiver answered {status}"
    state = outbox.conclude_delivery(
        delivery,
        status=status,
        error=error,
        milliseconds=round(1000 * (time.monotonic() - started)),
        chance=random.random(),  # noqa: S311 - spreads tries, guards nothing
    )
    _log.info(
        "webhook_tried",
        webhook=delivery.webhook_id,
        delivery=delivery.id,
        number=delivery.number,
        status=status,
        error=error,
        state=state,
    )
    return state


def _printable(text: str) -> str:
    """Return a text that may hold what a receiver has sent, as every database takes it."""
    return "".join(one if one.isprintable() else "?" for one in text)


class Herald:
    """Looks each second at what has ended and what is due, until it is stopped."""

    def __init__(self, outbox: Outbox, *, private_hosts: Collection[str], post: Post = post) -> None:
        self._outbox = outbox
        self._private_hosts = private_hosts
        self._post = post
        self._stop = threading.Event()
        self._since_ms: int | None = None
        self._threads = [
            threading.Thread(target=self._forever, args=(self._look,), name="herald", daemon=True),
            *(
                threading.Thread(
                    target=self._forever, args=(self._send_next,), name=f"sender-{n}", daemon=True
                )
                for n in range(SENDERS)
            ),
        ]

    def start(self) -> None:
        """Begin; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the tries that are under way, and wait for none: their claims end by themselves."""
        self._stop.set()

    def _forever(self, work: Callable[[], bool]) -> None:
        """Do a piece of work again and again, at once while there is more of it."""
        while not self._stop.is_set():
            try:
                more = work()
            except ServiceUnavailable as error:
                _log.warning("database_unavailable", error=str(error), retry_seconds=RETRY_SECONDS)
                self._stop.wait(RETRY_SECONDS)
            except Exception:
                _log.critical("herald_failed", exc_info=True)  # of one row; the others are told
                self._stop.wait(RETRY_SECONDS)
            else:
                if not more:
                    self._stop.wait(LOOK_SECONDS)

    def _look(self) -> bool:
        began = round(time.time() * 1000)
        self._outbox.notice_batches(since_ms=self._since_ms)
        self._since_ms = began
        return self._outbox.tell_endings() > 0

    def _send_next(self) -> bool:
        delivery = self._outbox.claim_delivery()
        if delivery is None:
            return False
        send(self._outbox, delivery, private_hosts=self._private_hosts, post=self._post)
        return True
