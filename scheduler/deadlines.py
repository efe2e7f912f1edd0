"""What a person writes as a deadline: a moment with its offset, or a time from submission on.

It knows texts and no clock: who wants a moment held against the present says when that is.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from routet2i.errors import UsageError

MAX_DAYS = 366  # a later one is a slip: nobody's pictures wait longer
EXAMPLES = "2026-11-22T18:00:00Z, 90m, 2h or 1d"
LATER = "give a later one, or none"
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MAX_MS = MAX_DAYS * SECONDS["d"] * 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")


class BadDeadline(UsageError):
    """A text is no deadline, or one that cannot be kept; has the reason and the remedy apart."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadline:
    """Until when jobs are wanted: one of the two, or neither for as long as it takes."""

    at_ms: int | None = None  # milliseconds since 1970
    within_ms: int | None = None  # of the job's submission


NO_DEADLINE = Deadline()


def read_deadline(text: str, *, now_ms: int | None) -> Deadline:
    """Return the deadline that a text means.

    Args:
        text: a moment in ISO 8601 with an offset, or a number with s, m, h or d behind it.
        now_ms: that a moment must not lie before, milliseconds since 1970; None = any will do.
    Raises:
        BadDeadline: it is neither, has passed, or is more than MAX_DAYS away.
    """
    shown = repr(text[:40])
    if duration := _DURATION.fullmatch(text):
        within_ms = int(duration[1]) * SECONDS[duration[2]] * 1000
        if within_ms > _MAX_MS:
            raise _far(shown)
        return Deadline(within_ms=within_ms)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadDeadline(
            f"deadline {shown} is neither a moment nor a duration", f"write it like {EXAMPLES}"
        ) from None
    if moment.utcoffset() is None:
        raise BadDeadline(
            f"deadline {shown} does not say in which time zone it is",
            "end it with Z for UTC, or with an offset like +01:00",
        )
    at_ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    if now_ms is not None and at_ms <= now_ms:
        raise BadDeadline(f"deadline {shown} has passed", LATER)
    if now_ms is not None and at_ms - now_ms > _MAX_MS:
        raise _far(shown)
    return Deadline(at_ms=at_ms)


def _far(shown: str) -> BadDeadline:
    return BadDeadline(f"deadline {shown} is more than {MAX_DAYS} days away", "give a nearer one, or none")
