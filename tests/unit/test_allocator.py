"""Tier choice under an allowance, and packing: money in exact integers, every job exactly once."""

from collections import Counter
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import Prediction, TierKind, WindowJob
from routet2i.tiers import packaged, read_tiers
from scheduler.allocator import REASONS, alpha, assign, pack, share_alpha

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


def gain(decision, jobs):
    pictures = {job.job_id: job.n for job in jobs}
    return sum(pictures[a.job_id] * (0.5 - a.prs) for a in decision.assignments if a.tier == "cloud")


@st.composite
def windows(draw):
    ns = draw(st.lists(st.integers(1, 16), min_size=1, max_size=30))
    values = draw(st.lists(PRS, min_size=len(ns), max_size=len(ns)))
    return make_jobs(ns), make_predictions(values), make_tiers(draw(PRICE), draw(PRICE))


ALLOWANCE = st.one_of(st.none(), st.integers(0, 300_000))


@given(windows(), ALLOWANCE)
def test_the_allowance_is_never_exceeded(window, allowance):
    jobs, predictions, tiers = window
    decision = assign(jobs, predictions, tiers=tiers, allowance=allowance)
    assert allowance is None or decision.micro_usd <= allowance


@given(windows(), ALLOWANCE)
def test_every_job_is_assigned_or_deferred_exactly_once(window, allowance):
    jobs, predictions, tiers = window
    decision = assign(jobs, predictions, tiers=tiers, allowance=allowance)
    decided = [a.job_id for a in decision.assignments] + [job_id for job_id, _ in decision.deferred]
    assert sorted(decided) == sorted(job.job_id for job in jobs)
    assert {reason for _, reason in decision.deferred} <= {"budget"}


@given(windows(), ALLOWANCE)
def test_a_job_is_on_the_cloud_iff_its_prs_is_below_the_stored_threshold(window, allowance):
    jobs, predictions, tiers = window
    decision = assign(jobs, predictions, tiers=tiers, allowance=allowance)
    assert 0 <= decision.threshold <= 0.5
    for a in decision.assignments:
        assert a.threshold == decision.threshold
        assert (a.tier == "cloud") == (a.prs < a.threshold)


@given(windows(), ALLOWANCE)
def test_the_reason_tells_why(window, allowance):
    jobs, predictions, tiers = window
    for a in assign(jobs, predictions, tiers=tiers, allowance=allowance).assignments:
        if a.tier == "cloud":
            assert a.reason == "predicted_better_on_cloud"
        else:
            assert a.reason == ("predicted_better_on_edge" if a.prs >= 0.5 else "cloud_money_short")
        assert a.reason in REASONS


@given(windows(), st.integers(0, 300_000), st.integers(0, 300_000))
def test_more_money_never_lowers_the_predicted_gain(window, one, other):
    jobs, predictions, tiers = window
    low, high = (
        gain(assign(jobs, predictions, tiers=tiers, allowance=amount), jobs)
        for amount in sorted((one, other))
    )
    if tiers["cloud"].micro_usd_per_image >= tiers["edge"].micro_usd_per_image:
        assert high >= low - 1e-9


@given(windows(), ALLOWANCE, st.randoms(use_true_random=False))
def test_the_order_of_jobs_that_can_all_be_paid_changes_nothing(window, allowance, random):
    # Given an allowance that covers the edge price of all
    jobs, predictions, tiers = window
    if allowance is not None:
        allowance += sum(tiers["edge"].price(job.n) for job in jobs)
    # When the jobs come in another order
    pairs = list(zip(jobs, predictions, strict=True))
    random.shuffle(pairs)
    before = assign(jobs, predictions, tiers=tiers, allowance=allowance)
    after = assign([j for j, _ in pairs], [p for _, p in pairs], tiers=tiers, allowance=allowance)
    # Then each gets the same assignment
    assert {a.job_id: a for a in before.assignments} == {a.job_id: a for a in after.assignments}
    assert before.threshold == after.threshold


@given(windows(), ALLOWANCE)
def test_permuting_equal_jobs_changes_no_count(window, allowance):
    jobs, predictions, tiers = window
    same = [replace(job, n=jobs[0].n) for job in jobs]
    equal = [predictions[0]] * len(jobs)
    before = assign(same, equal, tiers=tiers, allowance=allowance)
    after = assign(same[::-1], equal, tiers=tiers, allowance=allowance)
    assert Counter(a.tier for a in before.assignments) == Counter(a.tier for a in after.assignments)
    assert len(before.deferred) == len(after.deferred)


def test_equal_prs_that_cannot_all_be_paid_stay_on_the_edge():
    # Given money for one cloud picture and two jobs that deserve it alike
    jobs, tiers = make_jobs([1, 1, 1]), make_tiers(10, 60)
    decision = assign(jobs, make_predictions([0.2, 0.3, 0.3]), tiers=tiers, allowance=30 + 100)
    # Then only the job below them is upgraded, and 50 are left for the next window
    assert [a.tier for a in decision.assignments] == ["cloud", "edge", "edge"]
    assert decision.threshold == 0.3
    assert decision.micro_usd == 80


def test_without_a_limit_every_job_goes_where_it_is_predicted_better():
    decision = assign(
        make_jobs([1, 2, 3]), make_predictions([0.1, 0.5, 0.49]), tiers=make_tiers(), allowance=None
    )
    assert [a.tier for a in decision.assignments] == ["cloud", "edge", "cloud"]
    assert decision.threshold == 0.5


def test_jobs_predicted_better_on_the_edge_stay_there_even_if_money_is_left():
    decision = assign(make_jobs([1]), make_predictions([0.5]), tiers=make_tiers(), allowance=10**9)
    assert [a.tier for a in decision.assignments] == ["edge"]


def test_too_little_money_for_the_edge_pays_as_many_as_fit_in_order_and_defers_the_rest():
    # Given 35 for jobs of 20, 30, 10 and 10
    jobs = make_jobs([2, 3, 1, 1])
    decision = assign(jobs, make_predictions([0.1] * 4), tiers=make_tiers(10, 60), allowance=35)
    # Then the first fits, the second does not, the third does
    assert [a.job_id for a in decision.assignments] == ["j0", "j2"]
    assert decision.deferred == (("j1", "budget"), ("j3", "budget"))


def test_nobody_is_upgraded_while_somebody_waits_for_the_edge():
    # Given 75 for a job of 10 and one of 100, where an upgrade of the first would cost 50
    decision = assign(
        make_jobs([1, 10]), make_predictions([0.1, 0.1]), tiers=make_tiers(10, 60), allowance=75
    )
    # Then what is left is kept for the job that waits
    assert [(a.tier, a.reason) for a in decision.assignments] == [("edge", "cloud_money_short")]
    assert decision.deferred == (("j1", "budget"),)


def test_no_money_defers_everything():
    decision = assign(make_jobs([1, 1]), make_predictions([0.1, 0.9]), tiers=make_tiers(), allowance=0)
    assert decision.assignments == ()
    assert len(decision.deferred) == 2


def test_a_cloud_that_costs_no_more_is_used_up_to_the_cap():
    decision = assign(make_jobs([1, 1]), make_predictions([0.1, 0.9]), tiers=make_tiers(10, 10), allowance=20)
    assert [a.tier for a in decision.assignments] == ["cloud", "edge"]


def test_an_empty_window_is_decided():
    decision = assign([], [], tiers=make_tiers(), allowance=0)
    assert (decision.assignments, decision.deferred, decision.micro_usd) == ((), (), 0)


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


@given(st.lists(st.tuples(PRS, st.integers(0, 100)), max_size=30), st.integers(0, 2000))
def test_what_lies_below_alpha_can_be_paid_and_the_next_value_could_not(jobs, spare):
    values, extra = [prs for prs, _ in jobs], [cost for _, cost in jobs]
    threshold = alpha(values, extra=extra, spare=spare)
    assert sum(cost for prs, cost in jobs if prs < threshold) <= spare
    if threshold < 0.5:
        assert sum(cost for prs, cost in jobs if prs <= threshold) > spare


# --- packing ---------------------------------------------------------------------------------------------


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
    assignments = assign(jobs, predictions, tiers=tiers, allowance=None).assignments
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
    assignments = assign(jobs, predictions, tiers=tiers, allowance=None).assignments
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


def test_microbatches_come_in_the_order_of_their_first_jobs():
    jobs = make_jobs([1] * 6)
    tiers, ids = make_tiers(), count()
    assignments = assign(jobs, make_predictions([0.1, 0.9] * 3), tiers=tiers, allowance=None).assignments
    packed = pack(assignments, jobs, tiers=tiers, microbatch_jobs=2, new_id=lambda: f"m{next(ids)}")
    assert [(m.microbatch_id, [a.job_id for a in m.assignments]) for m in packed] == [
        ("m0", ["j0", "j2"]),
        ("m1", ["j1", "j3"]),
        ("m2", ["j4"]),
        ("m3", ["j5"]),
    ]


def test_a_job_with_more_pictures_than_the_limit_travels_alone():
    jobs = make_jobs([1, 16, 1])
    assignments = assign(jobs, make_predictions([0.9] * 3), tiers=make_tiers(), allowance=None).assignments
    packed = pack(assignments, jobs, tiers=make_tiers(), microbatch_jobs=4)
    assert [[a.job_id for a in m.assignments] for m in packed] == [["j0"], ["j1"], ["j2"]]


@pytest.mark.parametrize("code", ["predicted_better_on_cloud", "budget_guard", "budget"])
def test_every_reason_has_its_sentence(code):
    assert REASONS[code]
