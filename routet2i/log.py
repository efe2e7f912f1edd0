"""Logging of one process: one event name and its fields per line, as text or JSON, secrets taken out.

It knows formats and redaction. It does not know what happened: callers use `structlog.get_logger()` and name
events; a field `prompt` becomes its hash and length. Lines of other libraries pass through the same chain.
"""

import hashlib
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
_TOLD_SECRET = re.compile(  # what follows a name that is given to secrets, and keys of the usual providers
    r"""(?i)(\b(?:bearer|basic)\s+|\b(?:api[_-]?key|password|token)=)[^\s"',&]+|\bsk-[\w-]{8,}"""
)
_SECRET_FIELD = re.compile(r"(?i)(^|[_-])(password|passwd|secret|token|api[_-]?key|authorization|cookie)$")
_PROMPT_FIELD = re.compile(r"(?i)^(negative_)?prompts?$")
# What terminals obey, what reorders a line, and what begins a new one and may forge it
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROL_IN_TRACEBACK = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
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
    """Return a processor that hides secrets, prompts' words, and what a terminal would obey.

    Secrets are the settings' own, any URL's password, what stands in a field of a secret's name, and keys.
    """
    secrets = sorted(_secrets(settings), key=len, reverse=True)

    def hidden(text: str, *, control: re.Pattern[str] = _CONTROL) -> str:
        for secret in secrets:
            text = text.replace(secret, _HIDDEN)
        text = _TOLD_SECRET.sub(lambda found: (found[1] or "") + _HIDDEN, _URL_SECRET.sub(_HIDDEN, text))
        return control.sub(lambda match: repr(match.group())[1:-1], text)

    def clean(key: str, value: Any) -> Any:
        if _SECRET_FIELD.search(key):
            return _HIDDEN
        if isinstance(value, str):
            if _PROMPT_FIELD.search(key):
                return fingerprint(value)
            return hidden(value, control=_CONTROL_IN_TRACEBACK if key == "exception" else _CONTROL)
        if isinstance(value, Mapping):
            return {hidden(str(inner)): clean(str(inner), item) for inner, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [clean(key, item) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return hidden(str(value))

    def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key in event:
            if not key.startswith("_"):  # structlog's own record and flags
                event[key] = clean(key, event[key])
        return event

    return redact


def fingerprint(prompt: str) -> str:
    """Return what a log may say of a prompt: enough to find it in the database, none of its words."""
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
    return f"sha256:{digest[:16]}, {len(prompt)} chars"


def _secrets(settings: Settings) -> set[str]:
    """Return every secret that this process was given, and the passwords inside those that are URLs."""
    found = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if not isinstance(value, SecretStr):
            continue
        text = value.get_secret_value()
        password = urlsplit(text).password if "://" in text else text
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
