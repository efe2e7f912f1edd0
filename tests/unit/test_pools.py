"""Room and deadlines of a window: full tiers, late tiers, and the reasons that name them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routet2i.contracts import Assignment, Pool, Speed
from routet2i.tiers import Tiers
from scheduler.allocator import REASONS
from scheduler.lateness import late_tiers
from scheduler.locked import take_locked
from scheduler.rooms import most_jobs
from tests.unit.test_deciding import DEPLOYMENT, PAIR, Case, batch_account, cases, make

NOW = 1_000_000  # ms


def limited(tiers: Tiers, **limits: int | None) -> Tiers:
    profiles = {
        name: replace(profile, max_backlog=limits.get(name)) for name, profile in tiers.profiles.items()
    }
    return replace(tiers, profiles=profiles)


def pooled(case: Case, tiers: Tiers | None = None, **unfinished: int) -> Case:
    """The case with so many unfinished pictures and one worker on each tier."""
    pools = {name: Pool(tier=name, unfinished=n, workers=1) for name, n in unfinished.items()}
    work = replace(case.work, pools=pools, now_ms=NOW)
    return replace(case, work=work, tiers=tiers or case.tiers)


def hurried(case: Case, seconds: dict[str, float], **deadlines: float) -> Case:
    """The case with measured seconds per picture, and jobs that are wanted within so many seconds."""
    speeds = tuple(
        Speed(tier=tier, width=64, height=64, seconds=one, pictures=100) for tier, one in seconds.items()
    )
    jobs = tuple(
        replace(
            job,
            deadline_ms=NOW + round(1000 * deadlines[job.job_id]) if job.job_id in deadlines else None,
        )
        for job in case.work.jobs
    )
    return replace(case, work=replace(case.work, jobs=jobs, speeds=speeds, now_ms=NOW))


def told(case: Case) -> dict[str, tuple[str, str]]:
    """Job -> tier and reason; the tier of one that waits is empty."""
    decision = case.decide()
    found = {a.job_id: (a.tier, a.reason) for a in decision.assignments}
    return found | {job_id: ("", why) for job_id, why in decision.deferred}


def taken(case: Case) -> Counter[str]:
    pictures = {job.job_id: job.n for job in case.work.jobs}
    found: Counter[str] = Counter()
    for a in case.decide().assignments:
        found[a.tier] += pictures[a.job_id]
    return found


@given(
    case=cases(),
    limits=st.fixed_dictionaries({}, optional={"edge": st.integers(4, 20), "cloud": st.integers(4, 20)}),
    unfinished=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    deadlines=st.lists(st.none() | st.integers(-5, 60), min_size=24, max_size=24),
)
@settings(deadline=None)
def test_room_and_deadlines_break_no_budget_and_every_job_is_decided_once(
    case: Case, limits: dict[str, int], unfinished: tuple[int, int], deadlines: list[int | None]
) -> None:
    # Given any window, with full or slow tiers
    case = pooled(case, limited(case.tiers, **limits), edge=unfinished[0], cloud=unfinished[1])
    wanted = {
        job.job_id: float(one) for job, one in zip(case.work.jobs, deadlines, strict=False) if one is not None
    }
    case = hurried(case, {"edge": 1.0, "cloud": 2.0}, **wanted)
    # When it is decided
    decision = case.decide()
    # Then no budget and no room is exceeded
    for account in case.work.accounts:
        free = case.free(account)
        assert free is None or case.paid(decision, account) <= free
    for tier, pictures in taken(case).items():
        if tier in limits:
            assert pictures <= max(0, limits[tier] - case.work.pools[tier].unfinished)
    # And each job is assigned or waits, once
    decided = [a.job_id for a in decision.assignments] + [job_id for job_id, _ in decision.deferred]
    assert sorted(decided) == sorted(job.job_id for job in case.work.jobs)
    # And says why; a deadline or room is named only where there is one
    for job_id, (_, why) in told(case).items():
        assert why in REASONS
        assert why != "deadline" or job_id in wanted
        assert why not in ("tier_full", "capacity") or limits


@given(case=cases())
@settings(deadline=None)
def test_tiers_with_room_and_deadlines_far_away_change_nothing(case: Case) -> None:
    far = hurried(
        pooled(case, limited(case.tiers, edge=1_000, cloud=1_000), edge=5, cloud=5),
        {"edge": 1.0, "cloud": 1.0},
        **{job.job_id: 3600.0 for job in case.work.jobs},
    )
    assert told(far) == told(case)


def test_a_full_cloud_leaves_the_rest_to_the_edge_and_a_full_edge_lets_them_wait() -> None:
    # Given a cloud with room for one picture more, and an edge for one
    tiers = limited(PAIR, edge=10, cloud=10)
    case = pooled(make({"a": [0.2, 0.1, 0.3]}, limits={}), tiers, edge=9, cloud=9)
    # Then the job that gains most has the cloud, the first of the others the edge
    assert told(case) == {
        "a000": ("edge", "tier_full"),
        "a001": ("cloud", "predicted_better_on_cloud"),
        "a002": ("", "capacity"),
    }


def test_a_job_that_is_as_good_on_the_edge_waits_for_it() -> None:
    case = pooled(make({"a": [0.8]}, limits={}), limited(PAIR, edge=5), edge=5)
    assert told(case) == {"a000": ("", "capacity")}


def test_a_job_larger_than_the_limit_goes_when_nothing_else_is_before_it() -> None:
    tiers = limited(PAIR, edge=3)
    case = make({"a": [0.8]}, limits={}, pictures=[4])
    assert told(pooled(case, tiers, edge=0)) == {"a000": ("edge", "predicted_better_on_edge")}
    assert told(pooled(case, tiers, edge=1)) == {"a000": ("", "capacity")}


def test_a_close_deadline_takes_the_fast_tier_and_is_named_where_it_decided() -> None:
    # Given an edge with a minute of work before it, an idle cloud, and jobs wanted in ten seconds
    slow_edge = {"edge": 1.0, "cloud": 5.0}
    case = pooled(make({"a": [0.8, 0.1, 0.8]}, limits={}), edge=60, cloud=0)
    case = hurried(case, slow_edge, a000=10, a001=10)
    # Then the first goes to the cloud for its deadline only, the second would have gone there anyway
    assert told(case) == {
        "a000": ("cloud", "deadline"),
        "a001": ("cloud", "predicted_better_on_cloud"),
        "a002": ("edge", "predicted_better_on_edge"),
    }


def test_a_dearer_tier_that_is_late_is_not_paid_for() -> None:
    case = pooled(make({"a": [0.1, 0.1]}, limits={}), edge=0, cloud=60)
    case = hurried(case, {"edge": 1.0, "cloud": 1.0}, a000=10)
    assert told(case) == {"a000": ("edge", "deadline"), "a001": ("cloud", "predicted_better_on_cloud")}


def test_money_for_a_deadline_is_what_is_left_above_all_floors() -> None:
    # Given a batch that can pay one step, and two jobs that the edge would draw late
    account = batch_account("a")
    case = make({"a": [0.7, 0.1, 0.6]}, limits={account: 3 * 9_000 + 56_000})
    case = hurried(pooled(case, edge=60, cloud=0), {"edge": 1.0, "cloud": 1.0}, a000=10, a002=10)
    # Then one is in time, before the job that gains most; the other's reason is the money
    assert told(case) == {
        "a000": ("edge", "cloud_money_short"),
        "a001": ("edge", "cloud_money_short"),
        "a002": ("cloud", "deadline"),
    }
    # And without any money above the floors nobody waits for the sake of a deadline
    poor = hurried(
        pooled(make({"a": [0.7]}, limits={DEPLOYMENT: 9_000}, outer=(DEPLOYMENT,)), edge=60),
        {"edge": 1.0, "cloud": 1.0},
        a000=10,
    )
    assert told(poor) == {"a000": ("edge", "deployment_money_short")}


def test_a_deadline_is_paid_for_before_jobs_that_are_still_to_come() -> None:
    # Given money for one step, a job that is wanted soon, and five jobs behind the window
    account = batch_account("a")
    case = make({"a": [0.8, 0.1]}, limits={account: 7 * 9_000 + 56_000}, behind=5)
    case = hurried(pooled(case, edge=60, cloud=0), {"edge": 1.0, "cloud": 1.0}, a000=10)
    assert told(case) == {"a000": ("cloud", "deadline"), "a001": ("edge", "cloud_money_short")}


def test_a_job_waits_for_room_on_the_only_tier_in_time() -> None:
    # Given a cloud that is full but quick, and an edge that is late
    case = pooled(make({"a": [0.8, 0.8]}, limits={}), limited(PAIR, cloud=4), edge=60, cloud=4)
    case = hurried(case, {"edge": 1.0, "cloud": 1.0}, a000=10)
    assert told(case) == {"a000": ("", "capacity"), "a001": ("edge", "predicted_better_on_edge")}


@pytest.mark.parametrize(
    ("seconds", "deadline", "workers", "expected"),
    [
        ({"edge": 1.0, "cloud": 1.0}, 100.0, 1, [False, False]),  # both in time
        ({"edge": 1.0, "cloud": 1.0}, 30.0, 1, [True, False]),
        ({"edge": 1.0, "cloud": 1.0}, 30.0, 3, [False, False]),  # three workers share what is before it
        ({"edge": 1.0, "cloud": 1.0}, 30.0, 0, [True, False]),  # nobody heard of counts as one
        ({"edge": 1.0, "cloud": 40.0}, 30.0, 1, [False, False]),  # no tier is in time
        ({"edge": 1.0}, 30.0, 1, [True, False]),  # nobody knows the cloud's speed
        ({}, 0.0, 1, [False, False]),
    ],
)
def test_a_tier_is_late_if_what_is_before_a_job_and_the_job_take_longer_and_another_is_in_time(
    seconds: dict[str, float], deadline: float, workers: int, expected: list[bool]
) -> None:
    case = hurried(pooled(make({"a": [0.5]}, limits={}), edge=60, cloud=0), seconds, a000=deadline)
    pools = {"edge": Pool(tier="edge", unfinished=60, workers=workers)}
    late = late_tiers(replace(case.work, pools=pools), np.array([0], dtype=np.int8), tiers=PAIR)
    assert late.tolist() == [expected]


def test_a_paused_tier_is_in_time_for_nothing() -> None:
    # Given an edge that is too slow for two deadlines, and a cloud that would be in time for both
    case = pooled(make({"a": [0.8, 0.1, 0.8]}, limits={}), edge=60, cloud=0)
    case = hurried(case, {"edge": 1.0, "cloud": 1.0}, a000=10, a001=10)
    assert told(case)["a000"] == ("cloud", "deadline")
    # When the cloud is paused, then no job waits for it: hurry cannot help
    paused = replace(case, work=replace(case.work, resting=frozenset({"cloud"})))
    assert told(paused) == {
        "a000": ("edge", "predicted_better_on_edge"),
        "a001": ("edge", "tier_full"),
        "a002": ("edge", "predicted_better_on_edge"),
    }
    # And when the edge is, then whoever has a deadline goes to the cloud at once
    paused = replace(case, work=replace(case.work, resting=frozenset({"edge"})))
    assert told(paused) == {
        "a000": ("cloud", "deadline"),
        "a001": ("cloud", "predicted_better_on_cloud"),
        "a002": ("", "capacity"),
    }


def test_jobs_before_it_in_the_window_count_where_they_are_expected() -> None:
    # Given idle tiers of a second a picture, and eight jobs as good on the edge, all wanted in three seconds
    case = pooled(make({"a": [0.8] * 8}, limits={}), edge=0, cloud=0)
    case = hurried(case, {"edge": 1.0, "cloud": 1.0}, **{f"a{k:03}": 3.0 for k in range(8)})
    # Then three are in time on the edge, three on the cloud, and for the others it is no use to hurry
    assert [where for _, where in sorted(told(case).items())] == (
        [("edge", "predicted_better_on_edge")] * 3
        + [("cloud", "deadline")] * 3
        + [("edge", "predicted_better_on_edge")] * 2
    )


def test_only_where_all_tiers_are_limited_are_fewer_jobs_read() -> None:
    pools = {"edge": Pool(tier="edge", unfinished=3, workers=1)}
    assert most_jobs(limited(PAIR, edge=5), pools) is None
    assert most_jobs(limited(PAIR, edge=5, cloud=7), pools) == 2 + 7
    assert most_jobs(limited(PAIR, edge=2, cloud=7), pools) == 7


def test_a_promised_job_waits_for_room_and_the_others_have_what_it_leaves() -> None:
    # Given two jobs that a preview has sent to a cloud with room for one, and a free one
    case = make({"a": [0.1, 0.1, 0.1]}, limits={})
    jobs = tuple(
        replace(
            job,
            locked=Assignment(
                job_id=job.job_id, tier="cloud", reason="r", prs=0.1, threshold=0.5, micro_usd=7
            )
            if job.job_id < "a002"
            else None,
        )
        for job in case.work.jobs
    )
    case = pooled(replace(case, work=replace(case.work, jobs=jobs)), limited(PAIR, cloud=5), cloud=4)
    # When they are set aside
    found = take_locked(case.work, tiers=case.tiers, microbatch_jobs=8)
    # Then the second waits, and the cloud is full for the third
    assert found.deferred == (("a001", "capacity"),)
    # And while the cloud is paused, both wait, and are told so
    paused = take_locked(
        replace(case.work, resting=frozenset({"cloud"})), tiers=case.tiers, microbatch_jobs=8
    )
    assert paused.deferred == (("a000", "tier_paused"), ("a001", "tier_paused"))
    assert [a.job_id for one in found.microbatches for a in one.assignments] == ["a000"]
    assert told(replace(case, work=found.rest, predictions=case.predictions[2:])) == {
        "a002": ("edge", "tier_full")
    }
