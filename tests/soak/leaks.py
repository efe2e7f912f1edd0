"""Leaks put into a worker on purpose, for the negative controls; the product has no switch for any.

`SOAK_LEAK=name` in a worker's environment puts one in place. Each names the series in which it must be seen.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from sqlalchemy import Connection

from db.session import make_engine
from routet2i.execution import Generator, RenderRequest
from routet2i.settings import Settings

EVERY = 4  # groups of pictures between two things that are never given back
_kept: list[Any] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """One control."""

    sentence: str
    seen_in: str  # the end of a series' name, or of several, by blanks
    happen: Callable[[Settings, Sequence[RenderRequest], int], None]


def _prompts(settings: Settings, requests: Sequence[RenderRequest], number: int) -> None:
    _kept.extend((request.prompt, bytearray(3 * request.width * request.height)) for request in requests)


def _connection(settings: Settings, requests: Sequence[RenderRequest], number: int) -> None:
    if number % EVERY == 0:
        connection: Connection = make_engine(settings.database).connect()
        connection.exec_driver_sql("SELECT 1")
        connection.rollback()
        _kept.append(connection)


def _key(settings: Settings, requests: Sequence[RenderRequest], number: int) -> None:
    if number % EVERY == 0:
        assert settings.broker is not None
        with redis.Redis.from_url(settings.broker) as client:
            client.set(f"soak:{os.getpid()}:{number}", requests[0].prompt)


def _file(settings: Settings, requests: Sequence[RenderRequest], number: int) -> None:
    if number % EVERY == 0:
        descriptor, _ = tempfile.mkstemp(prefix="soak-")
        os.close(descriptor)


LEAKS: Mapping[str, Leak] = {
    "prompts": Leak(
        sentence="a worker keeps every prompt and a picture's pixels", seen_in="private", happen=_prompts
    ),
    "connection": Leak(
        sentence="a worker never closes a connection",
        seen_in="connections database_files",
        happen=_connection,
    ),
    "key": Leak(sentence="a worker leaves keys in the broker", seen_in="keys", happen=_key),
    "file": Leak(sentence="a worker leaves temporary files", seen_in="temporary", happen=_file),
}


class Leaking:
    """A generator that leaks with each group."""

    def __init__(self, generator: Generator, settings: Settings, leak: Leak) -> None:
        """Draw with another generator."""
        self._generator = generator
        self._settings = settings
        self._leak = leak
        self._groups = 0
        self.model_id = generator.model_id
        self.model_revision = generator.model_revision
        self.settings = generator.settings

    def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
        """See `execution.Generator.generate`."""
        self._groups += 1
        self._leak.happen(self._settings, requests, self._groups)
        return self._generator.generate(requests)
