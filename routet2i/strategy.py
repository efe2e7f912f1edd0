"""How a worker takes a message in: Celery's own way, except that no message can end the process.

Celery unpacks body and headers in the worker's main process and lets errors of some shapes through: a body of
`{}` under a known task's name ends the worker, comes back unacknowledged, and ends the next one. Whoever can
write to the broker is not trusted, so such a message is refused like any other that Celery itself calls
invalid. It knows no task.
"""

from collections.abc import Callable
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.strategy import default
from kombu.exceptions import ContentDisallowed, DecodeError

Handler = Callable[..., Any]
NAME = "routet2i.strategy:careful"  # as a task's `Strategy`


def careful(task: Any, app: Any, consumer: Any, **named: Any) -> Handler:
    """Return what handles the messages of a task; Celery calls it once per task and connection."""
    return refusing(default(task, app, consumer, **named))


def refusing(handle: Handler) -> Handler:
    """Return a handler that calls a message invalid where `handle` stumbles over its shape."""

    def handler(*arguments: Any, **named: Any) -> Any:
        try:
            return handle(*arguments, **named)
        except (InvalidTaskError, ContentDisallowed, DecodeError):
            raise
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise InvalidTaskError(f"a message of no known shape: {type(error).__name__}") from error

    return handler
