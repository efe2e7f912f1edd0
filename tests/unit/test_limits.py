"""Buckets of tokens: no key makes more requests than its rate allows, and none is told to wait too long."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from scheduler.api.limits import BURST_SECONDS, Limits


@given(
    per_minute=st.integers(1, 6_000),
    pauses=st.lists(st.floats(0, 30), min_size=1, max_size=60),
)
def test_no_key_makes_more_requests_than_its_rate_allows(per_minute: int, pauses: list[float]) -> None:
    # Given a clock and a bucket
    now = [0.0]
    limits = Limits(per_minute, clock=lambda: now[0])
    made = 0
    for pause in pauses:
        now[0] += pause
        # When a request is made
        verdict = limits.take("ann")
        made += verdict.allowed
        # Then so many are let in at most
        most = max(1, int(per_minute / 60 * BURST_SECONDS)) + now[0] * per_minute / 60
        assert made <= most + 1e-6
        # And who is refused is let in after the wait that it is told
        if not verdict.allowed:
            later = now[0] + verdict.wait_seconds + 1e-6
            assert Limits.take(_at(limits, now, later), "ann").allowed
            made += 1


def _at(limits: Limits, now: list[float], moment: float) -> Limits:
    now[0] = moment
    return limits


def test_one_keys_haste_is_not_anothers_and_no_limit_says_nothing() -> None:
    limits = Limits(6, clock=lambda: 0.0)
    assert [limits.take("ann").allowed, limits.take("ann").allowed] == [True, False]
    assert limits.take("bob").allowed
    assert Limits(None).take("ann") is None


def test_headers_say_what_is_left_and_when_to_come_again() -> None:
    limits = Limits(6, clock=lambda: 0.0)
    assert limits.take("ann").headers["x-ratelimit-remaining-requests"] == "0"
    told = limits.take("ann").headers
    assert (told["Retry-After"], told["retry-after-ms"]) == ("10", "10000")
    assert told["x-ratelimit-reset-requests"] == "10.000s"


def test_many_threads_at_once_get_no_more_than_one_would() -> None:
    # Given a bucket of a hundred, and a clock that stands
    limits = Limits(600, clock=lambda: 0.0)
    # When eight threads take as fast as they can, and some give back
    with ThreadPoolExecutor(8) as crowd:
        allowed = sum(one.allowed for one in crowd.map(lambda _: limits.take("ann"), range(2_000)))
        assert allowed == 100
        list(crowd.map(lambda _: limits.give_back("ann"), range(7)))
        # Then so many are let in
        assert sum(one.allowed for one in crowd.map(lambda _: limits.take("ann"), range(2_000))) == 7
