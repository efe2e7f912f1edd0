"""The alpha of a share, packing, and reasons: every assignment in exactly one microbatch."""

from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import Assignment, Prediction, TierKind, WindowJob
from routet2i.tiers import packaged, read_tiers
from scheduler.allocator import REASONS, pack, share_alpha

PRS = st.one_of(st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.75, 1.0]), st.floats(0, 1))  # with many ties
PRICE = st.integers(0, 1000)


def make_tiers(edge=9, cloud=65):
    tiers = read_tiers(packaged("pocket"))
    profiles = {
        "edge": replace(tiers["edge"], micro_usd_per_image=edge, width=64, height=64),
        "cloud": replace(tiers["cloud"], micro_usd_per_image=cloud, width=96, height=128),
    }
    return replace(tiers, profiles=profiles)


def make_jobs(ns, *, batch="b", sizes=None):
    sizes = sizes or [(None, None)] * len(ns)
    return [
        WindowJob(job_id=f"j{i}", batch_id=batch, prompt="p", width=width, height=height, n=n)
        for i, (n, (width, height)) in enumerate(zip(ns, sizes, strict=True))
    ]


def make_predictions(values):
    return [Prediction(prs=value) for value in values]


def assign(jobs, predictions, *, tiers):
    """The better tier for each job, whatever it costs."""
    chosen = [tiers["cloud" if one.prs < 0.5 else "edge"] for one in predictions]
    return [
        Assignment(
            job_id=job.job_id,
            tier=tier.name,
            reason="r",
            prs=one.prs,
            threshold=0.5,
            micro_usd=tier.price(job.n, width=job.width, height=job.height),
        )
        for job, one, tier in zip(jobs, predictions, chosen, strict=True)
    ]


@given(st.lists(PRS, max_size=40), st.floats(0, 1))
def test_the_alpha_of_a_share_lets_at_most_that_share_pass(values, share):
    threshold = share_alpha(values, share=share)
    assert threshold <= 0.5
    assert sum(value < threshold for value in values) <= share * len(values)


def test_the_alpha_of_share_zero_selects_none_and_of_share_one_is_the_cap():
    values = [0.1, 0.1, 0.3, 0.9]
    assert not any(value < share_alpha(values, share=0.0) for value in values)
    assert share_alpha(values, share=1.0) == 0.5
    assert share_alpha(values, share=0.5) == 0.3


@st.composite
def packings(draw):
    ns = draw(st.lists(st.integers(1, 16), min_size=1, max_size=40))
    sizes = [draw(st.sampled_from([(None, None), (64, 64), (96, 128)])) for _ in ns]
    jobs = [replace(job, batch_id=draw(st.sampled_from("ab"))) for job in make_jobs(ns, sizes=sizes)]
    predictions = make_predictions(draw(st.lists(PRS, min_size=len(ns), max_size=len(ns))))
    return jobs, predictions, draw(st.integers(1, 20))


@given(packings())
def test_every_assignment_is_in_exactly_one_microbatch_of_its_batch_tier_and_size(packing):
    jobs, predictions, limit = packing
    tiers = make_tiers()
    assignments = assign(jobs, predictions, tiers=tiers)
    known = {job.job_id: job for job in jobs}
    packed = pack(assignments, jobs, tiers=tiers, microbatch_jobs=limit)
    assert sorted(a.job_id for m in packed for a in m.assignments) == sorted(a.job_id for a in assignments)
    for microbatch in packed:
        own = [known[a.job_id] for a in microbatch.assignments]
        tier = tiers[microbatch.tier]
        assert {job.batch_id for job in own} == {microbatch.batch_id}
        assert {a.tier for a in microbatch.assignments} == {microbatch.tier}
        assert {(job.width or tier.width, job.height or tier.height) for job in own} == {
            (microbatch.width, microbatch.height)
        }
        assert microbatch.kind is tier.kind
        assert sum(job.n for job in own) <= limit or len(own) == 1


@given(packings())
def test_cloud_microbatches_carry_the_same_jobs_on_the_edge_at_the_edge_price(packing):
    jobs, predictions, limit = packing
    tiers = make_tiers()
    known = {job.job_id: job for job in jobs}
    assignments = assign(jobs, predictions, tiers=tiers)
    for microbatch in pack(assignments, jobs, tiers=tiers, microbatch_jobs=limit):
        if microbatch.kind is TierKind.EDGE:
            assert microbatch.fallback == ()
            assert microbatch.fallback_tier is None
            continue
        assert microbatch.fallback_tier == "edge"
        first = known[microbatch.assignments[0].job_id]
        assert (microbatch.fallback_width, microbatch.fallback_height) == (
            first.width or 64,
            first.height or 64,
        )
        for a, cheap in zip(microbatch.assignments, microbatch.fallback, strict=True):
            assert cheap == replace(a, tier="edge", reason="budget_guard", micro_usd=9 * known[a.job_id].n)


@pytest.mark.parametrize(("resting", "fallback"), [({"edge"}, None), ({"cloud"}, "edge")])
def test_no_job_falls_back_to_a_paused_edge(resting, fallback):
    jobs = make_jobs([1])
    assignments = assign(jobs, make_predictions([0.1]), tiers=make_tiers())
    (found,) = pack(assignments, jobs, tiers=make_tiers(), microbatch_jobs=2, resting=resting)
    assert (found.fallback_tier, bool(found.fallback)) == (fallback, fallback is not None)


def test_microbatches_come_in_the_order_of_their_first_jobs():
    jobs = make_jobs([1] * 6)
    tiers, ids = make_tiers(), count()
    assignments = assign(jobs, make_predictions([0.1, 0.9] * 3), tiers=tiers)
    packed = pack(assignments, jobs, tiers=tiers, microbatch_jobs=2, new_id=lambda: f"m{next(ids)}")
    assert [(m.microbatch_id, [a.job_id for a in m.assignments]) for m in packed] == [
        ("m0", ["j0", "j2"]),
        ("m1", ["j1", "j3"]),
        ("m2", ["j4"]),
        ("m3", ["j5"]),
    ]


def test_a_job_with_more_pictures_than_the_limit_travels_alone():
    jobs = make_jobs([1, 16, 1])
    assignments = assign(jobs, make_predictions([0.9] * 3), tiers=make_tiers())
    packed = pack(assignments, jobs, tiers=make_tiers(), microbatch_jobs=4)
    assert [[a.job_id for a in m.assignments] for m in packed] == [["j0"], ["j1"], ["j2"]]


@pytest.mark.parametrize("code", ["predicted_better_on_cloud", "budget_guard", "budget"])
def test_every_reason_has_its_sentence(code):
    assert REASONS[code]
