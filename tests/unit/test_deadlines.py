"""What people write as a deadline: moments, durations, and everything else with a remedy."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.deadlines import MAX_DAYS, SECONDS, BadDeadline, Deadline, read_deadline

NOON = 1_795_348_800_000  # 2026-11-22T12:00:00Z


@pytest.mark.parametrize(
    "text",
    ["2026-11-22T18:00:00Z", "2026-11-22T19:00:00+01:00", "2026-11-22 18:00Z", "20261122T180000Z"],
)
def test_a_moment_may_be_written_in_any_zone(text: str) -> None:
    assert read_deadline(text, now_ms=NOON) == Deadline(at_ms=NOON + 6 * 3_600_000)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("90m", 5_400), ("2h", 7_200), ("366d", 31_622_400)]
)
def test_a_duration_has_its_unit_behind_it(text: str, seconds: int) -> None:
    assert read_deadline(text, now_ms=NOON) == Deadline(within_ms=seconds * 1000)


@pytest.mark.parametrize(
    ("text", "reason", "remedy"),
    [
        ("tomorrow", "'tomorrow' is neither a moment nor a duration", "90m, 2h or 1d"),
        ("0m", "neither", "90m"),
        ("-5m", "neither", "90m"),
        ("1.5h", "neither", "90m"),
        ("2H", "neither", "90m"),
        ("2 h", "neither", "90m"),
        ("٣h", "neither", "90m"),
        ("2026-13-01T00:00Z", "neither", "90m"),
        ("2026-11-22", "time zone", "Z for UTC"),
        ("2026-11-22T11:59:59Z", "has passed", "give a later one, or none"),
        ("2026-11-22T12:00:00Z", "has passed", "give a later one, or none"),
        ("2027-11-24T12:00:00Z", "more than 366 days away", "nearer"),
        ("999999999d", "more than 366 days away", "nearer"),
    ],
)
def test_what_is_no_deadline_is_refused_with_a_remedy(text: str, reason: str, remedy: str) -> None:
    with pytest.raises(BadDeadline) as refused:
        read_deadline(text, now_ms=NOON)
    assert reason in refused.value.reason
    assert remedy in refused.value.remedy
    assert str(refused.value) == f"{refused.value.reason}; {refused.value.remedy}"


def test_without_a_clock_any_moment_will_do() -> None:
    assert read_deadline("1969-12-31T23:59:59Z", now_ms=None) == Deadline(at_ms=-1_000)
    assert read_deadline("9999-12-31T23:59:59-23:59", now_ms=None).at_ms is not None


@given(st.text(max_size=40), st.none() | st.just(NOON))
def test_any_text_is_a_deadline_or_refused_in_words_that_print(text: str, now_ms: int | None) -> None:
    said = ""
    try:
        found = read_deadline(text, now_ms=now_ms)
    except BadDeadline as refused:
        said = str(refused)
    else:
        assert (found.at_ms is None) != (found.within_ms is None)
    assert said.isprintable()
    assert len(said) < 500


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)),
)
def test_a_moment_means_the_same_however_it_is_written(moment: datetime, offset: timedelta) -> None:
    zone = timezone(timedelta(minutes=offset // timedelta(minutes=1)))
    written = moment.replace(tzinfo=UTC).astimezone(zone).isoformat()
    found = read_deadline(written, now_ms=None).at_ms
    assert found == (moment - datetime(1970, 1, 1)) // timedelta(milliseconds=1)


@given(st.integers(1, 10**9 - 1), st.sampled_from(sorted(SECONDS)))
def test_a_duration_is_taken_up_to_a_year(number: int, unit: str) -> None:
    text = f"{number}{unit}"
    if number * SECONDS[unit] > MAX_DAYS * 86_400:
        with pytest.raises(BadDeadline, match="366 days"):
            read_deadline(text, now_ms=None)
    else:
        assert read_deadline(text, now_ms=None).within_ms == number * SECONDS[unit] * 1000
