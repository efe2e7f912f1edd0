"""Logging of one process: one event name and its fields per line, as text or JSON, secrets taken out.

It knows formats and redaction. It does not know what happened: callers use `structlog.get_logger()` and name
events; prompts never appear, their hash and length do. Lines of other libraries pass through the same chain.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from pydantic import SecretStr

from routet2i.settings import Settings

_URL_SECRET = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")  # user:password of any URL
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline: terminals obey them
_HIDDEN = "***"
SHORTEST_KEY = 4  # characters: hiding fewer would hide other words
_TALKATIVE = (
    *("celery.worker.strategy", "celery.app.trace"),  # two lines a task, with a stranger's arguments
    *("httpx2", "httpcore2"),  # a line a request
)

Processor = Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]


def configure(settings: Settings, *, service: str) -> None:
    """Send every log line of this process to standard error; call once, at start.

    Args:
        service: name of this process in every line, e.g. `scheduler` or `worker`.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _add(service=service),
        redactor(settings),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, sort_keys=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def redactor(settings: Settings) -> Processor:
    """Return a processor that hides the settings' secrets, any URL's password, and control characters."""
    secrets = sorted(_secrets(settings), key=len, reverse=True)

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            for secret in secrets:
                value = value.replace(secret, _HIDDEN)
            value = _URL_SECRET.sub(_HIDDEN, value)
            return _CONTROL.sub(lambda match: repr(match.group())[1:-1], value)
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key in event:
            if not key.startswith("_"):  # structlog's own record and flags
                event[key] = clean(event[key])
        return event

    return redact


def _secrets(settings: Settings) -> set[str]:
    """Return the passwords inside the URLs that this process was given, and its providers' keys."""
    found = set()
    for url in (settings.database_url, settings.broker_url):
        password = urlsplit(url.get_secret_value()).password if url is not None else None
        if password:
            found |= {password, unquote(password)}
    if settings.api_keys is not None:
        found |= {text for text in _texts(settings.api_keys) if len(text) >= SHORTEST_KEY}
    return found


def _texts(keys: SecretStr) -> set[str]:
    """Return the whole setting, which may be a bare key by mistake, and the texts in it."""
    whole = keys.get_secret_value()
    try:
        found = json.loads(whole)
    except ValueError:
        found = None
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return {whole, *(text for text in inner if isinstance(text, str))}


def _add(**fields: str) -> Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.update(fields)
        return event

    return add
