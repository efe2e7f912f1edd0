"""A job that asks for a tier gets that one or waits, whatever the others want and whatever there is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import (
    Account,
    Funds,
    GenerationRequest,
    Pool,
    Prediction,
    Waiting,
    WindowJob,
    WindowWork,
)
from routet2i.tiers import Tiers, packaged, read_tiers
from scheduler.allocator import REASONS, pack
from scheduler.deciding import Decision, decide_window
from scheduler.preview import plan
from scheduler.preview_draft import Draft
from scheduler.preview_lines import preview_lines

TIERS = read_tiers(packaged("pocket"))
EDGE, CLOUD = TIERS[TIERS.edge], TIERS[TIERS.cloud]
ACCOUNT = Account(budget_id="batch:b", period="total")


def work(jobs: list[tuple[str | None, int]], *, limit: int | None, behind: tuple[Waiting, ...] = ()):
    """Return a window of one batch; jobs as (wanted tier, pictures)."""
    own = [
        WindowJob(job_id=f"j{k:03}", batch_id="b", prompt="p", width=None, height=None, n=n, tier=tier)
        for k, (tier, n) in enumerate(jobs)
    ]
    groups = tuple(
        Waiting(width=None, height=None, jobs=1, pictures=job.n, tier=job.tier) for job in own
    ) + tuple(behind)
    return WindowWork(
        jobs=tuple(own),
        accounts={ACCOUNT: Funds(limit=limit, reserved=0, spent=0)},
        chains={"b": (ACCOUNT,)},
        waiting={"b": groups},
        now_ms=0,
    )


def decided(window: WindowWork, prs: list[float], *, tiers: Tiers = TIERS) -> Decision:
    predictions = [Prediction(prs=one) for one in prs]
    return decide_window(window, predictions, tiers=tiers, yardstick=None, markets={})


jobs_and_money = st.tuples(
    st.lists(
        st.tuples(st.sampled_from([None, EDGE.name, CLOUD.name]), st.integers(1, 4), st.floats(0, 1)),
        min_size=1,
        max_size=12,
    ),
    st.none() | st.integers(0, 60 * CLOUD.price(1)),
    st.none() | st.integers(0, 20),
    st.none() | st.integers(0, 20),
)


@given(jobs_and_money)
def test_who_asks_for_a_tier_gets_it_or_waits_within_money_and_room(drawn) -> None:
    # Given a window of jobs with and without wishes, a budget, and tiers with or without a limit
    jobs, limit, edge_room, cloud_room = drawn
    limited = replace(
        TIERS,
        profiles={
            EDGE.name: replace(EDGE, max_backlog=None if edge_room is None else edge_room + 1),
            CLOUD.name: replace(CLOUD, max_backlog=None if cloud_room is None else cloud_room + 1),
        },
    )
    window = replace(
        work([(tier, n) for tier, n, _ in jobs], limit=limit),
        pools={name: Pool(tier=name, unfinished=1, workers=1) for name in limited.profiles},
    )
    # When it is decided
    decision = decided(window, [prs for _, _, prs in jobs], tiers=limited)
    # Then each job is assigned or waits, with a reason that people can read
    told = {one.job_id: one.reason for one in decision.assignments} | dict(decision.deferred)
    assert sorted(told) == [job.job_id for job in window.jobs]
    assert set(told.values()) <= set(REASONS)
    # And who asks for a tier has it, for that reason and at that tier's price
    wanted = {job.job_id: job for job in window.jobs}
    for one in decision.assignments:
        job = wanted[one.job_id]
        assert (one.reason == "requested") == (job.tier is not None)
        assert job.tier in (None, one.tier)
        assert one.micro_usd == limited[one.tier].price(job.n)
    # And all together stay within the money
    assert limit is None or sum(one.micro_usd for one in decision.assignments) <= limit
    # And their microbatches have no other tier to fall back to
    for microbatch in pack(decision.assignments, window.jobs, tiers=limited, microbatch_jobs=4):
        wishes = {wanted[one.job_id].tier for one in microbatch.assignments}
        assert len(wishes) == 1 or None not in wishes
        assert not (microbatch.fallback and wishes != {None})


def test_money_of_jobs_that_ask_for_the_dear_tier_is_kept_while_they_wait() -> None:
    # Given money for one dear job on the cloud and this window's one on the edge, and a dear one behind
    behind = Waiting(width=None, height=None, jobs=1, pictures=1, tier=CLOUD.name)
    window = work([(None, 1)], limit=CLOUD.price(1) + EDGE.price(1), behind=(behind,))
    # When a job comes first that the cloud would draw much better
    (chosen,) = decided(window, [0.0]).assignments
    # Then it stays on the edge: the money for the cloud is somebody's
    assert chosen.tier == EDGE.name
    # And if nobody waited for the cloud by wish, it would go there
    free = replace(behind, tier=None)
    (chosen,) = decided(
        work([(None, 1)], limit=CLOUD.price(1) + EDGE.price(1), behind=(free,)), [0.0]
    ).assignments
    assert chosen.tier == CLOUD.name


def test_a_wish_for_a_tier_that_is_gone_waits_and_says_so() -> None:
    decision = decided(work([("attic", 1), (None, 1)], limit=None), [0.2, 0.9])
    assert decision.deferred == (("j000", "tier_missing"),)
    assert [one.tier for one in decision.assignments] == [EDGE.name]


@pytest.mark.parametrize("deadline_ms", [1, 10_000])
def test_a_deadline_takes_nobody_off_the_tier_that_they_asked_for(deadline_ms: int) -> None:
    window = work([(CLOUD.name, 1)], limit=None)
    hurried = replace(window, jobs=(replace(window.jobs[0], deadline_ms=deadline_ms),))
    (chosen,) = decided(hurried, [0.9]).assignments
    assert (chosen.tier, chosen.reason) == (CLOUD.name, "requested")


def test_a_preview_promises_the_tier_that_its_lines_ask_for() -> None:
    # Given two lines that ask, against what is predicted, and one that does not
    lines = [
        GenerationRequest(line_no=k, custom_id=f"c{k}", prompt="p", seed=k, tier=tier)
        for k, tier in enumerate((CLOUD.name, EDGE.name, None), start=1)
    ]
    with Draft(tiers=TIERS, yardstick=None) as draft:
        draft.add(lines, [Prediction(prs=0.9), Prediction(prs=0.1), Prediction(prs=0.9)])
        # When they are planned, then the least that they can cost holds the wishes' prices
        assert draft.floor_micro_usd == CLOUD.price(1) + 2 * EDGE.price(1)
        made = plan(draft)
        promised = [(one.tier, one.reason) for one in preview_lines(made, draft)]
    # And each line is promised what it asked for
    assert promised == [
        (CLOUD.name, "requested"),
        (EDGE.name, "requested"),
        (EDGE.name, "predicted_better_on_edge"),
    ]
    assert made.preview.micro_usd == CLOUD.price(1) + 2 * EDGE.price(1)
