"""Types of what requests carry: text that every database takes, ids that may be ours, our own address.

It knows forms, no route and no row.
"""

import re
from typing import Annotated

from fastapi import Request
from pydantic import AfterValidator

from routet2i.errors import NotFound
from scheduler.api.answers import Refused
from scheduler.api.deployment import settings_of

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _plain(value: str) -> str:
    found = _UNFIT.search(value)
    if found is not None:
        raise ValueError(
            f"character {found.start() + 1} is U+{ord(found[0]):04X}: control characters are refused"
        )
    return value


Plain = Annotated[str, AfterValidator(_plain)]  # one line of text without control characters


def public_url(request: Request) -> str:
    """Return the address under which clients reach us, without a slash at its end."""
    configured: str = settings_of(request).public_url
    return (configured or str(request.base_url)).rstrip("/")


def known_id(value: str, *, prefix: str, what: str) -> str:
    """Return an id that may be one of ours; raises NotFound for every other text."""
    if not re.fullmatch(rf"{prefix}[0-9a-f]{{32}}", value):
        raise NotFound(f"no {what} {value[:60]!r}")
    return value


def cursor(value: str | None, *, prefix: str) -> str | None:
    """Return the id that a page begins behind; raises Refused if it is none."""
    if value is not None and not re.fullmatch(rf"{prefix}[0-9a-f]{{32}}", value):
        raise Refused(
            400, f"after = {value[:60]!r} is no id; take the last one of a page", code="after", param="after"
        )
    return value


def idempotency_key(value: str | None) -> str | None:
    """Return the header's value; raises Refused if no database should keep it."""
    if value is not None and not re.fullmatch(r"[\x21-\x7e]{1,255}", value):
        raise Refused(
            400, "Idempotency-Key must be 1 to 255 visible ASCII characters", code="idempotency_key"
        )
    return value
