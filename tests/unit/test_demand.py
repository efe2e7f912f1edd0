"""Jobs that nobody has submitted yet: expected humbly, and what windows make of a day's money with them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import (
    SLOT_MS,
    Account,
    Arrivals,
    Funds,
    Prediction,
    Waiting,
    WindowJob,
    WindowWork,
)
from routet2i.tiers import packaged, read_tiers
from scheduler.allocation.knapsack import solve
from scheduler.allocation.market import Market
from scheduler.allocation.options import Floats, Options
from scheduler.deciding import decide_window
from scheduler.demand import NONE, SLOTS_PER_DAY, Demand, demand
from scheduler.simulation.qualities import law_qualities
from scheduler.simulation.traces import DAY, draw_trace
from scheduler.simulation.traffic import make_traffic

PAIR = read_tiers(packaged("pocket"))
EDGE, CLOUD = (PAIR[name].micro_usd_per_image for name in ("edge", "cloud"))
DAY_MS = 86_400_000
COUNTS = st.lists(st.integers(0, 5_000), max_size=40).map(tuple)


def arrivals(*jobs: int, pictures: int = 1) -> Arrivals:
    return Arrivals(jobs=jobs, pictures=pictures * sum(jobs))


def test_a_steady_stream_is_expected_to_go_on_less_one_deviation() -> None:
    # Given 100 jobs of 3 pictures in each of 200 slots
    seen = arrivals(*[100] * 200, pictures=3)
    # When half a slot of the period has gone and four and a half lie ahead
    now = 1_000 * SLOT_MS + SLOT_MS // 2
    found = demand(seen, now_ms=now, ends_ms=1_005 * SLOT_MS)
    # Then nearly 450 jobs of as many pictures are expected
    assert 400 < found.jobs < 450
    assert found.pictures == pytest.approx(3 * found.jobs)


def test_who_has_no_history_expects_nothing() -> None:
    assert demand(arrivals(), now_ms=0, ends_ms=DAY_MS) == NONE
    assert demand(arrivals(0, 0), now_ms=2 * SLOT_MS, ends_ms=DAY_MS) == NONE


def test_one_file_after_a_long_silence_is_not_taken_for_a_stream() -> None:
    # Given a day without a job, and 10,000 in the last slot
    found = demand(arrivals(1, *[0] * 287, 10_000), now_ms=289 * SLOT_MS, ends_ms=2 * DAY_MS)
    # Then nothing more is expected, though 287 slots lie ahead
    assert found == NONE
    # And neither is a file a day, whenever the day begins
    daily = ([0] * 100 + [10_000] + [0] * 187) * 5
    for slots in range(3 * SLOTS_PER_DAY, 5 * SLOTS_PER_DAY, 7):
        seen = arrivals(*daily[:slots])
        assert demand(seen, now_ms=slots * SLOT_MS, ends_ms=(slots + 288) * SLOT_MS) == NONE


@given(counts=COUNTS, into=st.integers(0, SLOT_MS - 1), ahead=st.integers(0, 3 * DAY_MS))
def test_demand_is_never_negative_and_ends_with_the_period_or_with_what_was_seen(
    counts: tuple[int, ...], into: int, ahead: int
) -> None:
    now = 5_000 * SLOT_MS + into
    found = demand(arrivals(*counts), now_ms=now, ends_ms=now + ahead)
    assert found.jobs >= 0
    # no further ahead than back
    far = demand(arrivals(*counts), now_ms=now, ends_ms=now + len(counts) * SLOT_MS + DAY_MS)
    assert demand(arrivals(*counts), now_ms=now, ends_ms=now + len(counts) * SLOT_MS) == far
    assert demand(arrivals(*counts), now_ms=now, ends_ms=now) == NONE


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What became of a day's money."""

    of_hindsight: float  # share of the gain of one who sees the whole day and serves all
    served: float  # share of the jobs
    per_dollar: float  # gain


def a_day(*, share: float, forecast: bool, until: float = 1.0, seed: int = 0) -> Spent:
    """Decide a diurnal day every fifteen minutes, after two such days.

    Args:
        share: of the day's jobs that the money pays the cloud for, above all floors.
        forecast: whether jobs to come are expected.
        until: part of the day after which nothing comes, against all experience.
    """
    trace = draw_trace("diurnal", rate=0.05, seconds=DAY, seed=seed)
    gains = make_traffic(trace, law_qualities(tiers=2, seed=seed), seed=seed).options.gain[:, 1]
    money = len(gains) * EDGE + int(share * len(gains) * (CLOUD - EDGE))
    kept = trace.at < until * DAY
    at, prs = trace.at[kept], np.clip(0.5 - gains[kept], 0, 1)
    before = np.repeat(trace.earlier_counts, 3) // 3  # its slots have fifteen minutes
    client, batch = (
        Account(budget_id="client:c/day", period="d"),
        Account(budget_id="batch:b", period="total"),
    )
    markets: Mapping[str, Market] = {}
    spent, served, gain = 0, 0, 0.0
    for close in np.arange(1, 97) * 900.0:
        rows = np.flatnonzero((at >= close - 900.0) & (at < close))
        if not len(rows):
            continue
        now = 2 * DAY_MS + int(close * 1000) - 1
        come = np.bincount((at[at < close] // 300).astype(int), minlength=SLOTS_PER_DAY)
        counts = (*before.tolist(), *come[: int(close) // 300 - 1].tolist())
        expected = demand(arrivals(*counts), now_ms=now, ends_ms=3 * DAY_MS) if forecast else NONE
        decision = decide_window(
            window(rows, {batch: None, client: money}, spent=spent, now=now),
            [Prediction(prs=float(one)) for one in prs[rows]],
            tiers=PAIR,
            yardstick=None,
            markets=markets,
            demands={client: expected},
        )
        markets = decision.markets
        spent += sum(one.micro_usd for one in decision.assignments)
        served += len(decision.assignments)
        gain += sum(0.5 - one.prs for one in decision.assignments if one.tier == "cloud")
    best = solve(whole(prs), budget=money).gain
    return Spent(of_hindsight=gain / best, served=served / len(at), per_dollar=gain / spent * 1e6)


def window(rows: np.ndarray, limits: Mapping[Account, int | None], *, spent: int, now: int) -> WindowWork:
    return WindowWork(
        jobs=tuple(
            WindowJob(job_id=f"{row:07}", batch_id="b", prompt="p", width=None, height=None, n=1)
            for row in rows
        ),
        accounts={one: Funds(limit=limit, reserved=0, spent=spent) for one, limit in limits.items()},
        chains={"b": tuple(limits)},
        waiting={"b": (Waiting(width=None, height=None, jobs=len(rows), pictures=len(rows)),)},
        now_ms=now,
    )


def whole(prs: Floats) -> Options:
    return Options(
        micro_usd=np.tile(np.array([[EDGE, CLOUD]]), (len(prs), 1)),
        gain=np.stack([np.zeros(len(prs)), 0.5 - prs], axis=1),
        rank=np.arange(len(prs)),
    )


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_the_money_of_a_day_reaches_its_evening_and_gains_more(share: float) -> None:
    # When a day is decided with and without a forecast of what is to come
    told, blind = a_day(share=share, forecast=True), a_day(share=share, forecast=False)
    # Then the forecast is within four points of hindsight, far ahead of the other
    assert told.of_hindsight > 0.96
    assert told.of_hindsight > blind.of_hindsight + 0.15
    # And every job is served, where the other has no money left for many
    assert told.served == 1.0
    assert blind.served < 0.75


def test_where_nothing_binds_a_forecast_changes_nothing() -> None:
    told, blind = a_day(share=0.8, forecast=True), a_day(share=0.8, forecast=False)
    assert told.of_hindsight == pytest.approx(blind.of_hindsight, abs=0.005)


@pytest.mark.parametrize("until", [0.6, 0.8])
def test_if_arrivals_stop_the_money_that_is_over_is_all_that_is_lost(until: float) -> None:
    # When a day like the two before it ends early
    told = a_day(share=0.4, forecast=True, until=until)
    blind = a_day(share=0.4, forecast=False, until=until)
    # Then what was spent has gained more per dollar, and nobody was left out
    assert told.per_dollar > blind.per_dollar
    assert told.served == 1.0 >= blind.served
    if until == 0.8:  # and late in the day more is gained altogether
        assert told.of_hindsight > blind.of_hindsight


def test_expected_jobs_are_kept_a_floor_for_but_never_defer_those_that_wait() -> None:
    # Given money for the floors of three jobs and one step up, and a job's floor
    client = Account(budget_id="client:c/day", period="d")
    work = window(np.arange(3), {client: 4 * EDGE + CLOUD - EDGE}, spent=0, now=0)
    predictions = [Prediction(prs=prs) for prs in (0.1, 0.2, 0.3)]

    def tiers(expected: Demand) -> list[str]:
        decision = decide_window(
            work, predictions, tiers=PAIR, yardstick=None, markets={}, demands={client: expected}
        )
        assert not decision.deferred
        return [one.tier for one in decision.assignments]

    # Then the step is bought with nothing expected, and with one job of the same mix
    assert tiers(NONE) == ["cloud", "edge", "edge"]
    assert tiers(Demand(jobs=1.0, pictures=1.0)) == ["cloud", "edge", "edge"]
    # And nothing is bought if all the rest is needed for floors, even if that is not enough for all
    assert tiers(Demand(jobs=100.0, pictures=100.0)) == ["edge"] * 3
