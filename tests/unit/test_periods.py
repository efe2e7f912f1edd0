"""Periods: every moment lies in exactly one, names sort by time, and a name is read back."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.errors import UsageError
from routet2i.periods import SPANS, period_of, read_period

MOMENTS = st.integers(0, int(datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000))
ENDING = [span for span in SPANS if span != "total"] + ["900s", "1s"]


def ms(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("span", "name", "ends"),
    [
        ("minute", "2026-02-28T23:59", "2026-03-01T00:00"),
        ("hour", "2026-02-28T23", "2026-03-01T00:00"),
        ("day", "2026-02-28", "2026-03-01T00:00"),
        ("month", "2026-02", "2026-03-01T00:00"),
    ],
)
def test_a_period_is_named_by_the_calendar_of_utc(span, name, ends):
    period = period_of(span, now_ms=ms("2026-02-28T23:59:59.999"))
    assert (period.name, period.ends_ms) == (name, ms(ends))


def test_a_total_never_ends_and_seconds_are_named_by_the_first_one():
    assert period_of("total", now_ms=5).ends_ms is None
    assert period_of("900s", now_ms=1_799_999).name == "900"
    assert period_of("month", now_ms=ms("2026-12-31T12:00")).ends_ms == ms("2027-01-01T00:00")


@given(MOMENTS, st.sampled_from(ENDING))
def test_a_period_holds_its_moment_and_the_next_one_begins_where_it_ends(now_ms, span):
    period = period_of(span, now_ms=now_ms)
    assert period.ends_ms > now_ms
    assert period_of(span, now_ms=period.ends_ms - 1) == period
    assert period_of(span, now_ms=period.ends_ms).number == period.number + 1


@given(MOMENTS, st.sampled_from(ENDING))
def test_a_name_tells_its_period(now_ms, span):
    period = period_of(span, now_ms=now_ms)
    assert read_period(span, period.name) == period


@given(st.lists(st.integers(11 * 10**11, 4 * 10**12), min_size=2), st.sampled_from(ENDING))
def test_names_sort_by_time(moments, span):
    periods = [period_of(span, now_ms=one) for one in sorted(moments)]
    assert [one.name for one in periods] == sorted(one.name for one in periods)


@pytest.mark.parametrize("span", ["week", "", "0s", "s", "-1s", "1.5s"])
def test_an_unknown_span_is_refused(span):
    with pytest.raises(UsageError, match="no span"):
        period_of(span, now_ms=0)
