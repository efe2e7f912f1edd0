"""Spans of budgets and the periods they cut time into, by UTC; pure arithmetic.

A span is minute, hour, day, month, total, or a number of seconds like 900s. Names of one span's periods sort
by time. It knows no clock, no money and no table.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from routet2i.errors import UsageError

TOTAL = "total"  # one period without end
MONTH = "month"
FORMS = {  # span of fixed length -> (seconds, how its period is named)
    "minute": (60, "%Y-%m-%dT%H:%M"),
    "hour": (3_600, "%Y-%m-%dT%H"),
    "day": (86_400, "%Y-%m-%d"),
}
SPANS = (*FORMS, MONTH, TOTAL)  # that people choose from
_SECONDS = re.compile(r"[1-9]\d{0,9}s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """One stretch of time that a limit covers."""

    name: str  # total, 2026-11-21 for a day, 2026-11 for a month, the first second for a span in seconds
    number: int  # consecutive periods of a span have consecutive numbers
    starts_ms: int  # first moment of it, milliseconds since 1970; 0 of the one without end
    ends_ms: int | None  # first moment after it; None = it has no end


def period_of(span: str, *, now_ms: int) -> Period:
    """Return the period of a span that a moment lies in.

    Args:
        span: one of SPANS, or seconds like 900s.
        now_ms: milliseconds since 1970.
    Raises:
        UsageError: there is no such span.
    """
    if span == TOTAL:
        return Period(name=TOTAL, number=0, starts_ms=0, ends_ms=None)
    if span == MONTH:
        moment = datetime.fromtimestamp(now_ms / 1000, tz=UTC)
        return _month(moment.year * 12 + moment.month - 1)
    return _fixed(span, now_ms // 1000 // _seconds(span))


def read_period(span: str, name: str) -> Period:
    """Return the period of a span that has this name; the inverse of `period_of`."""
    if span == TOTAL:
        return period_of(TOTAL, now_ms=0)
    if span == MONTH:
        year, month = name.split("-")
        return _month(int(year) * 12 + int(month) - 1)
    if span not in FORMS:
        return _fixed(span, int(name) // _seconds(span))
    start = datetime.strptime(name, FORMS[span][1]).replace(tzinfo=UTC)
    return _fixed(span, int(start.timestamp()) // _seconds(span))


def _seconds(span: str) -> int:
    if span in FORMS:
        return FORMS[span][0]
    if not _SECONDS.fullmatch(span):
        raise UsageError(f"{span!r} is no span; choose one of {', '.join(SPANS)}")
    return int(span.removesuffix("s"))


def _fixed(span: str, number: int) -> Period:
    seconds = _seconds(span)
    start = number * seconds
    named = datetime.fromtimestamp(start, tz=UTC).strftime(FORMS[span][1]) if span in FORMS else str(start)
    return Period(name=named, number=number, starts_ms=start * 1000, ends_ms=(start + seconds) * 1000)


def _month(number: int) -> Period:
    year, month = divmod(number, 12)
    return Period(
        name=f"{year:04d}-{month + 1:02d}",
        number=number,
        starts_ms=_first_of(number),
        ends_ms=_first_of(number + 1),
    )


def _first_of(month: int) -> int:
    return int(datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000
