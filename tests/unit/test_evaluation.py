"""Figures of the routing reports: routing.md section 6 as examples by hand and as properties."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from scheduler.curves import blocks, cloud_curve, cloud_probability, envelope_area, first_share, upper_hull
from scheduler.evaluation import Answer, aiq, evaluate
from scheduler.intervals import figure, group_counts, seed_means, shuffled_control, standard_error
from scheduler.outcomes import (
    delta_p,
    judged,
    mean_scores,
    oracle_prs_hat,
    pooled,
    realised_share,
    regret,
    reliability,
    robust_metrics,
    share_curves,
    utility,
    win_rate,
)
from scheduler.prs import Scale, fit_scale

PROPERTY = settings(max_examples=30, deadline=None)  # a busy machine is no error
COARSE = st.integers(0, 8).map(lambda value: value / 8)  # exact in binary, with many ties


def outcomes_of(edge, cloud, *, groups=None, weights=None):
    width = edge.shape[1]
    return judged(
        edge,
        cloud,
        metrics=[f"m{i}" for i in range(width)],
        weights=weights or [1.0] * width,
        scale=fit_scale(edge, cloud),
        groups=groups,
    )


def one_metric(edge, cloud, *, groups=None):
    """Gains in the unit of the scores: u = q."""
    edge, cloud = np.array(edge, dtype=float)[:, None], np.array(cloud, dtype=float)[:, None]
    scale = Scale(gamma=1.0, gaps=np.ones(1), floored=())
    return judged(edge, cloud, metrics=["m"], weights=[1.0], scale=scale, groups=groups)


def noisy_pair(n=60, width=3, *, seed=0, gap=0.05):
    rng = np.random.default_rng(seed)
    edge = rng.uniform(0.2, 0.8, (n, width))
    cloud = np.clip(edge + rng.normal(gap, 0.1, (n, width)), 0, 1)
    return outcomes_of(edge, cloud, groups=rng.integers(0, n, n))


@st.composite
def judged_rankings(draw, *, most=12, width=2):
    n = draw(st.integers(2, most))
    edge, cloud = (draw(arrays(np.float64, (n, width), elements=COARSE)) for _ in range(2))
    return outcomes_of(edge, cloud), draw(arrays(np.float64, n, elements=COARSE))


def ten_with_one_reversed(n=40):
    edge = np.random.default_rng(3).uniform(0.3, 0.7, (n, 10))
    gaps = np.array([0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.01, 0.02, -0.03])
    return outcomes_of(edge, edge + gaps)


# --- delta-P -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.5, 40), (1.0, 80)])
def test_with_one_of_ten_metrics_reversed_random_gets_40_and_all_cloud_80(share, expected):
    outcomes = ten_with_one_reversed()
    assert delta_p(outcomes, np.full(40, share)) == pytest.approx(expected)
    assert share_curves(outcomes, np.zeros(40)).delta_p[int(40 * share)] == pytest.approx(expected)


def test_random_has_the_middle_of_each_published_column():
    # Given the published means of three metrics, the same for every prompt
    edge, cloud = np.tile([[0.6251, 0.6685, 0.4690]], (4, 1)), np.tile([[0.6337, 0.6847, 0.4972]], (4, 1))
    # When half of the jobs go to the cloud at random
    scores = mean_scores(outcomes_of(edge, cloud), np.full(4, 0.5))
    # Then the published row of random appears
    assert np.round(scores, 4) == pytest.approx([0.6294, 0.6766, 0.4831])


def test_a_metric_without_a_sure_gap_is_left_out_by_name_and_explodes_no_more():
    # Given one metric with a gap and one that is noise around none
    rng = np.random.default_rng(5)
    edge = np.full((200, 2), 0.5)
    noise = rng.normal(0, 0.1, 100)
    cloud = edge + np.column_stack([np.full(200, 0.1), np.concatenate([noise, -noise]) + 1e-5])
    outcomes = outcomes_of(edge, cloud)
    # When a router is evaluated that picks the noise
    ranking = -cloud[:, 1]
    result = evaluate(outcomes, {"r": ranking}, resamples=0)
    # Then delta-P is absurd, and the robust one is that of the metric that is left
    assert result.left_out == ("m1",)
    assert result.values["r"]["delta_p@50"] > 10_000
    assert result.values["r"]["delta_p_robust@50"] == pytest.approx(50)


def test_without_any_gap_delta_p_has_an_answer_instead_of_a_number():
    outcomes = one_metric([0.2, 0.4], [0.4, 0.2])
    result = evaluate(outcomes, {"r": np.array([0.1, 0.9])}, resamples=0)
    for name in ("delta_p@50", "delta_p_robust@50"):
        assert result.figure("r", name).value is None
        assert result.figure("r", name).note == Answer.UNDEFINED_NO_GAP
    assert robust_metrics(outcomes) == ()


# --- cost saving -------------------------------------------------------------------------------------------


def test_random_saves_nothing_and_a_good_router_what_it_leaves_out():
    # Given ten jobs of which two carry the whole gain
    outcomes = one_metric([0.0] * 10, [0.5, 0.5] + [0.0] * 8)
    # When they are ranked first, or not ranked at all
    result = evaluate(outcomes, {"good": np.arange(10) / 10, "random": np.full(10, 0.3)}, resamples=0)
    # Then delta-P 50 costs one job in ten instead of five
    assert result.values["good"]["saving@50"] == pytest.approx(80)
    assert [result.values["random"][f"saving@{t}"] for t in (40, 50, 60)] == pytest.approx(
        [0, 0, 0], abs=1e-9
    )


def test_a_target_above_all_cloud_is_out_of_reach_for_random():
    # Given two metrics, one of them reversed: all-cloud has delta-P 0
    edge = np.array([[0.2, 0.6], [0.2, 0.6]])
    outcomes = outcomes_of(edge, edge + np.array([0.2, -0.2]))
    saving = evaluate(outcomes, {"r": np.array([0.1, 0.2])}, resamples=0).figure("r", "saving@40")
    assert (saving.value, saving.note) == (None, Answer.RANDOM_CANNOT_REACH)


def test_a_capped_router_that_keeps_all_on_the_edge_never_reaches_a_target():
    outcomes = one_metric([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    result = evaluate(outcomes, {"r": np.full(3, 0.9)}, capped=True, resamples=50)
    saving = result.figure("r", "saving@50")
    assert (saving.value, saving.low, saving.high, saving.note) == (None, None, None, Answer.NOT_REACHED)
    assert result.figure("r", "win_rate@50").note == Answer.NOTHING_ROUTED
    assert result.values["r"]["realised@50"] == 0


def test_the_first_crossing_counts_even_if_the_curve_falls_again():
    # Given a curve 0, 2, -1, 3 (thirds)
    curve = cloud_curve(blocks(np.arange(3.0), counts=np.ones((1, 3))), np.array([6.0, -9.0, 12.0]))
    # When 1, 2.5 and 4 are looked for
    found = [first_share(curve, np.array([target]))[0] for target in (1.0, 2.5, 4.0, 0.0, -1.0)]
    # Then the crossing lies on the first segment that reaches it, or nowhere
    assert found == pytest.approx([1 / 6, (2 + 3.5 / 4) / 3, np.inf, 0, 0])


# --- win rate ----------------------------------------------------------------------------------------------


def test_ties_count_in_the_denominator_of_the_win_rate_only():
    outcomes = one_metric([0.1, 0.5, 0.5, 0.9], [0.5, 0.5, 0.5, 0.5])
    assert win_rate(outcomes, np.array([1.0, 1.0, 0.0, 0.0])) == 50
    assert win_rate(outcomes, np.ones(4)) == 0
    assert win_rate(outcomes, np.zeros(4)) is None


def test_a_prs_of_one_half_up_to_rounding_is_a_tie():
    outcomes = replace(one_metric([0.3, 0.3], [0.3, 0.3]), prs=np.array([0.5 - 1e-16, 0.5 + 1e-15]))
    assert win_rate(outcomes, np.ones(2)) == 0


# --- curves, ties, the random router -----------------------------------------------------------------------


@PROPERTY
@given(judged_rankings(most=4))
def test_a_constant_ranking_is_the_mean_over_all_orders(case):
    outcomes, _ = case
    n = len(outcomes.prs)
    # Given every strict order of the jobs
    runs = [share_curves(outcomes, np.array(order, dtype=float)) for order in permutations(range(n))]
    # When nothing is ranked
    random = share_curves(outcomes, np.zeros(n))
    # Then its curve is their mean, a straight line
    assert random.utility == pytest.approx(np.mean([run.utility for run in runs], axis=0))
    assert random.scores == pytest.approx(np.mean([run.scores for run in runs], axis=0))
    ends = outcomes.u_edge.mean(), outcomes.u_cloud.mean()
    assert random.utility == pytest.approx(np.linspace(*ends, n + 1))


@PROPERTY
@given(judged_rankings(most=4))
def test_a_tie_is_the_mean_over_its_orders(case):
    outcomes, ranking = case
    tied = share_curves(outcomes, ranking)
    tie_breaks = [np.array(order) * 1e-6 for order in permutations(range(len(ranking)))]
    broken = [share_curves(outcomes, ranking + tie_break).utility for tie_break in tie_breaks]
    assert tied.utility == pytest.approx(np.mean(broken, axis=0))


@PROPERTY
@given(judged_rankings(), st.integers(0, 12))
def test_the_curve_is_what_the_decisions_of_that_share_deliver(case, job):
    outcomes, ranking = case
    n = len(ranking)
    share = min(job, n) / n
    for cap in (None, 0.5):
        curves = share_curves(outcomes, ranking, capped=cap is not None)
        cloud = cloud_probability(ranking, share=share, cap=cap)
        gain = cloud @ (outcomes.u_cloud - outcomes.u_edge) / n
        assert curves.utility[min(job, n)] == pytest.approx(outcomes.u_edge.mean() + gain)
        assert curves.realised[min(job, n)] == pytest.approx(cloud.mean())
        assert curves.scores[min(job, n)] == pytest.approx(mean_scores(outcomes, cloud))


@PROPERTY
@given(judged_rankings())
def test_the_cap_keeps_the_start_of_the_curve_and_flattens_the_rest(case):
    outcomes, ranking = case
    free, capped = share_curves(outcomes, ranking), share_curves(outcomes, ranking, capped=True)
    routed = int((ranking < 0.5).sum())
    assert capped.utility[: routed + 1] == pytest.approx(free.utility[: routed + 1])
    assert capped.utility[routed:] == pytest.approx(free.utility[routed])


@PROPERTY
@given(judged_rankings())
def test_the_oracle_is_never_beaten_at_any_share(case):
    outcomes, ranking = case
    oracle = oracle_prs_hat(outcomes)
    for capped in (False, True):
        best = share_curves(outcomes, oracle, capped=capped).utility
        assert (share_curves(outcomes, ranking, capped=capped).utility <= best + 1e-9).all()
    assert (
        share_curves(outcomes, oracle).utility <= share_curves(outcomes, oracle, capped=True).utility + 1e-9
    ).all()


@PROPERTY
@given(judged_rankings(most=30), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_figure_and_no_resample(case, random):
    outcomes, ranking = case
    # Given the same rows in another order, groups included
    rows = np.array(random.sample(range(len(ranking)), len(ranking)))
    labels = np.arange(len(ranking)) // 2
    first = outcomes_of(outcomes.q_edge, outcomes.q_cloud, groups=labels)
    second = outcomes_of(outcomes.q_edge[rows], outcomes.q_cloud[rows], groups=labels[rows])
    # When both are evaluated
    one = evaluate(first, {"r": ranking}, resamples=5)
    other = evaluate(second, {"r": ranking[rows]}, resamples=5)
    # Then all numbers agree; a gap that is zero up to rounding may be seen on either side
    sure = np.abs(first.u_cloud.mean() - first.u_edge.mean()) > 1e-9
    for name in one.values["r"] if sure else ["oracle_share@50", "spearman", "brier"]:
        assert other.values["r"][name] == pytest.approx(one.values["r"][name], nan_ok=True, abs=1e-6)
    for name in ("gain_over_random@50", "win_rate@50", "spearman", "auc", "brier", "calibration_error"):
        assert other.samples["r"][name] == pytest.approx(one.samples["r"][name], nan_ok=True, abs=1e-6)


# --- AIQ ---------------------------------------------------------------------------------------------------


def chain(points):
    """Andrew's monotone chain, upper half, one point after the other."""
    hull = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if hull and hull[-1][0] == x:
            continue
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x1) > (y - y1) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return np.array(hull).T


POINTS = st.lists(st.tuples(st.integers(0, 64), st.integers(-64, 64)), min_size=1, max_size=40)


@PROPERTY
@given(POINTS)
def test_the_hull_is_that_of_the_monotone_chain_concave_and_above_the_points(points):
    costs, values = np.array(points, dtype=float).T
    x, y = upper_hull(costs, values)
    assert np.array([x, y]).tolist() == chain(points).tolist()
    assert (np.interp(costs, x, y) >= values - 1e-9).all()
    assert (np.diff(np.diff(y) / np.diff(x)) < 0).all()


@PROPERTY
@given(st.lists(arrays(np.float64, 9, elements=COARSE), min_size=1, max_size=5))
def test_many_hulls_at_once_have_the_areas_of_each_alone(rows):
    values, costs = np.array(rows), np.tile(np.arange(9) / 8, (len(rows), 1))
    alone = [aiq(costs[0], row, edge=(0.0, row[0]), cloud=(1.0, row[-1])) for row in values]
    assert envelope_area(costs, values) == pytest.approx(alone)


def test_aiq_cuts_the_hull_at_its_maximum_and_goes_on_flat():
    # Given a point above both tiers, at a quarter of the spread
    result = aiq(np.array([3.0]), np.array([8.0]), edge=(1.0, 4.0), cloud=(9.0, 6.0))
    # Then the height is 6 on the first quarter and 8 on the rest
    assert result == pytest.approx(0.25 * 6 + 0.75 * 8)


@pytest.mark.parametrize(("edge", "cloud", "zero"), [(4.0, 6.0, 5.0), (6.0, 4.0, 6.0)])
def test_without_a_router_aiq_is_that_of_the_zero_router(edge, cloud, zero):
    assert aiq(np.zeros(0), np.zeros(0), edge=(1.0, edge), cloud=(2.0, cloud)) == pytest.approx(zero)


def test_equal_prices_leave_nothing_to_integrate():
    assert aiq(np.zeros(0), np.zeros(0), edge=(1.0, 4.0), cloud=(1.0, 6.0)) is Answer.NO_COST_SPREAD
    result = evaluate(noisy_pair(), {"r": np.arange(60.0)}, unit_costs=(2.0, 2.0), resamples=0)
    assert result.figure("r", "aiq").note == Answer.NO_COST_SPREAD


def test_a_point_outside_the_two_tiers_is_refused():
    with pytest.raises(ValueError, match="between"):
        aiq(np.array([3.0]), np.array([1.0]), edge=(0.0, 0.0), cloud=(1.0, 1.0))


@PROPERTY
@given(judged_rankings())
def test_random_has_the_aiq_of_the_zero_router_and_no_router_less(case):
    outcomes, ranking = case
    values = evaluate(outcomes, {"random": np.full(len(ranking), 0.5), "r": ranking}, resamples=0).values
    assert values["random"]["aiq_minus_zero"] == pytest.approx(0, abs=1e-9)
    assert values["r"]["aiq_minus_zero"] >= -1e-9
    assert values["r"]["aiq"] >= values["r"]["area"] - 1e-9
    zero = (outcomes.u_edge.mean() + max(outcomes.u_edge.mean(), outcomes.u_cloud.mean())) / 2
    assert values["r"]["aiq_zero"] == pytest.approx(zero)


@PROPERTY
@given(judged_rankings(), st.booleans())
def test_the_aiq_of_a_ranking_is_that_of_its_points(case, capped):
    outcomes, ranking = case
    curves = share_curves(outcomes, ranking, capped=capped)
    ends = {"edge": (0.0, float(outcomes.u_edge.mean())), "cloud": (1.0, float(outcomes.u_cloud.mean()))}
    points = aiq(curves.realised, curves.utility, **ends)
    result = evaluate(outcomes, {"r": ranking}, capped=capped, resamples=0)
    assert result.values["r"]["aiq"] == pytest.approx(points)


def test_a_capped_router_may_still_be_replaced_by_all_cloud():
    # Given a router that sends one of four jobs, though all gain alike
    outcomes = one_metric([0.0] * 4, [0.5] * 4)
    result = evaluate(outcomes, {"r": np.array([0.1, 0.6, 0.7, 0.8])}, capped=True, resamples=0)
    # Then all-cloud is a point of its hull, as it is for everybody
    assert result.values["r"]["aiq"] == pytest.approx(0.25)
    assert result.values["r"]["aiq_minus_zero"] == pytest.approx(0)


# --- APGR and CPT ------------------------------------------------------------------------------------------


def test_random_has_apgr_one_half_and_cpt_equal_to_its_target():
    outcomes = one_metric(np.linspace(0.1, 0.3, 20), np.linspace(0.5, 0.6, 20))
    values = evaluate(outcomes, {"random": np.zeros(20)}, resamples=0).values["random"]
    assert [values[name] for name in ("apgr", "apgr_ten", "cpt@50", "cpt@80")] == pytest.approx(
        [0.5, 0.5, 0.5, 0.8]
    )


def test_apgr_is_the_area_of_the_recovered_gap():
    # Given two jobs, the whole gap in the first
    outcomes = one_metric([0.0, 0.0], [1.0, 0.0])
    values = evaluate(outcomes, {"r": np.array([0.1, 0.2])}, resamples=0).values["r"]
    # Then the gap is recovered linearly until one half, and kept
    assert values["apgr"] == pytest.approx(0.75)
    assert values["gain_area"] == pytest.approx(0.375)
    assert (values["cpt@50"], values["cpt@80"]) == pytest.approx((0.25, 0.4))


def test_a_cloud_that_is_not_better_leaves_apgr_undefined_and_costs_nothing_to_match():
    outcomes = one_metric([0.5, 0.6, 0.7], [0.6, 0.4, 0.3])
    result = evaluate(outcomes, {"r": np.array([0.1, 0.7, 0.9])}, resamples=0)
    assert result.figure("r", "apgr").note == result.figure("r", "apgr_ten").note == Answer.UNDEFINED_NO_GAP
    assert result.values["r"]["cpt@50"] == result.values["r"]["cpt@80"] == 0
    assert np.isfinite(result.values["r"]["gain_area"])


def test_a_gap_within_two_standard_errors_is_called_weak():
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.1, 50)
    for shift, note in [(0.001, Answer.WEAK_GAP), (0.2, "")]:
        outcomes = one_metric(np.full(50, 0.5), 0.5 + noise - noise.mean() + shift)
        result = evaluate(outcomes, {"r": noise}, resamples=0)
        assert {result.figure("r", name).note for name in ("apgr", "apgr_ten", "cpt@50")} == {note}


# --- oracle gap, share of oracle gain, regret --------------------------------------------------------------


@PROPERTY
@given(judged_rankings())
def test_the_oracle_takes_all_of_its_gain_and_random_none(case):
    outcomes, ranking = case
    rankings = {"oracle": oracle_prs_hat(outcomes), "random": np.full(len(ranking), 0.5), "r": ranking}
    result = evaluate(outcomes, rankings, resamples=0)
    for share in range(10, 100, 10):
        room = result.values["oracle"][f"gain_over_random@{share}"]
        if result.figure("oracle", f"oracle_share@{share}").note:
            assert room == pytest.approx(0, abs=1e-9)
            continue
        assert result.values["oracle"][f"oracle_share@{share}"] == pytest.approx(1)
        assert result.values["random"][f"oracle_share@{share}"] == pytest.approx(0, abs=1e-6)
        assert result.values["r"][f"oracle_share@{share}"] <= 1 + 1e-6
        assert result.values["r"][f"regret@{share}"] >= -1e-9


def test_gap_and_share_of_oracle_gain_by_hand():
    # Given four jobs on which the cloud gains 3, 1, 0, -2, and a router that misses the best
    outcomes = one_metric([1.0, 1.0, 1.0, 3.0], [4.0, 2.0, 1.0, 1.0])
    values = evaluate(outcomes, {"r": np.array([0.4, 0.1, 0.2, 0.9])}, resamples=0).values["r"]
    # Then at 50 %: oracle 1.5 + 4/4, router 1.5 + 1/4, random 1.5 + 0.5 * 2/4
    assert values["gap_at_oracle@50"] == pytest.approx(100 * (2.5 - 1.75) / 2.5)
    assert values["oracle_share@50"] == pytest.approx(0, abs=1e-12)
    assert values["gain_over_random@50"] == pytest.approx(0, abs=1e-12)
    assert values["regret@50"] == pytest.approx(0.75)
    # And at 90 %, hindsight keeps the last job on the edge, and the router sends six tenths of it
    assert values["regret@90"] == pytest.approx(1.0 - (1 + 0 + 3 - 0.6 * 2) / 4)


def test_if_all_jobs_gain_alike_there_is_nothing_for_an_oracle_to_gain():
    result = evaluate(one_metric([0.1, 0.2], [0.3, 0.4]), {"r": np.array([0.1, 0.2])}, resamples=0)
    assert result.figure("r", "oracle_share@50").note == Answer.NO_ORACLE_GAIN


def test_regret_splits_into_wrong_predictions_and_wrong_allocation():
    outcomes = one_metric([1.0, 1.0, 1.0, 3.0], [4.0, 2.0, 1.0, 1.0])
    # Given predictions that put the third job first, and decisions that waste the budget on the last
    parts = regret(outcomes, np.array([0.2, 0.4, 0.1, 0.9]), share=0.5, online=np.array([0.0, 0.0, 1.0, 1.0]))
    # Then the optimum (3 + 1)/4, what the predictions allow 3/4 and what was done -2/4 lie that far apart
    assert (parts.prediction, parts.allocation, parts.total) == pytest.approx((0.25, 1.25, 1.5))


def test_the_hindsight_optimum_has_no_regret_and_overspending_no_regret_at_all():
    outcomes = noisy_pair()
    oracle = oracle_prs_hat(outcomes)
    best = cloud_probability(oracle, share=0.3, cap=0.5)
    assert regret(outcomes, oracle, share=0.3, online=best).total == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="budget"):
        regret(outcomes, oracle, share=0.3, online=np.ones(60))


# --- agreement with the true PRS ---------------------------------------------------------------------------


@PROPERTY
@given(judged_rankings(most=20))
def test_spearman_and_auc_are_those_of_the_textbook(case):
    outcomes, ranking = case
    values = evaluate(outcomes, {"r": ranking}, resamples=0).values["r"]
    if np.ptp(ranking) and np.ptp(outcomes.prs):
        assert values["spearman"] == pytest.approx(spearmanr(ranking, outcomes.prs).statistic)
    edge, cloud = ranking[outcomes.prs > 0.5 + 1e-9], ranking[outcomes.prs < 0.5 - 1e-9]
    if edge.size and cloud.size:
        higher = np.subtract.outer(edge, cloud)
        assert values["auc"] == pytest.approx(((higher > 0) + (higher == 0) / 2).mean())
    else:
        assert np.isnan(values["auc"])


def test_calibration_is_measured_in_bins_against_the_true_prs():
    # Given three jobs of true PRS 1/2, predicted .1, .15 and 1
    outcomes = one_metric([0.5] * 3, [0.5] * 3)
    predicted = np.array([0.1, 0.15, 1.0])
    values = evaluate(outcomes, {"r": predicted}, resamples=0).values["r"]
    bins = reliability(outcomes, predicted)
    assert [(b.count, b.measured) for b in bins] == [(2, 0.5), (1, 0.5)]
    assert [b.predicted for b in bins] == pytest.approx([0.125, 1.0])
    assert values["calibration_error"] == pytest.approx((2 * 0.375 + 0.5) / 3)
    assert values["brier"] == pytest.approx((0.16 + 0.1225 + 0.25) / 3)


def test_a_mere_ranking_has_no_calibration_and_cannot_be_capped():
    outcomes = noisy_pair()
    result = evaluate(outcomes, {"r": -np.arange(60.0)}, resamples=3)
    assert (
        result.figure("r", "brier").note == result.figure("r", "calibration_error").note == Answer.NOT_A_PRS
    )
    with pytest.raises(ValueError, match="isotonic"):
        evaluate(outcomes, {"r": -np.arange(60.0)}, capped=True)


def test_a_constant_ranking_correlates_with_nothing():
    assert (
        evaluate(noisy_pair(), {"r": np.zeros(60)}, resamples=0).figure("r", "spearman").note
        == Answer.NO_SPREAD
    )


def test_the_realised_share_is_that_of_the_calibrated_alpha():
    calibration = np.arange(10) / 20
    assert realised_share(calibration, calibration=calibration, share=0.3) == pytest.approx(0.3)
    assert realised_share(np.full(4, 0.1), calibration=calibration, share=0.3) == 1


# --- resamples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capped", [False, True])
def test_a_resample_has_the_figures_of_the_rows_it_drew(capped):
    # Given groups of prompts, and rankings with ties
    outcomes = noisy_pair()
    rankings = {"r": np.round(outcomes.prs, 1), "s": np.random.default_rng(1).uniform(size=60)}
    result = evaluate(outcomes, rankings, capped=capped, resamples=4, seed=11)
    counts = group_counts(outcomes.groups, resamples=4, seed=11)
    scale = fit_scale(outcomes.q_edge, outcomes.q_cloud)
    for b in range(4):
        # When the rows that were drawn are written out and evaluated as they are
        rows = np.repeat(np.arange(60), counts[b])
        drawn = judged(
            outcomes.q_edge[rows],
            outcomes.q_cloud[rows],
            metrics=outcomes.metrics,
            weights=[1.0] * 3,
            scale=scale,
        )
        written = evaluate(
            drawn, {name: row[rows] for name, row in rankings.items()}, capped=capped, resamples=0
        )
        # Then each figure agrees, but for the choice of sure metrics, which is made once
        for router in rankings:
            for name in result.samples[router]:
                if not name.startswith("delta_p_robust"):
                    expected = written.values[router][name]
                    assert result.samples[router][name][b] == pytest.approx(expected, nan_ok=True), name


def test_whole_groups_are_drawn_by_label_and_nothing_else():
    groups = np.array([7, 7, 3, 3, 3, 9])
    counts = group_counts(groups, resamples=200, seed=1)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 2] == counts[:, 4]).all()
    assert (counts[:, [0, 2, 5]].sum(axis=1) == 3).all()
    assert (group_counts(groups[::-1], resamples=200, seed=1) == counts[:, ::-1]).all()


def test_the_spread_of_the_resamples_is_the_standard_error_of_groups():
    # Given 200 groups of four equal prompts: the error is that of 200 numbers, not of 800
    values = np.repeat(np.random.default_rng(4).normal(size=200), 4)
    groups = np.arange(800) // 4
    error = standard_error(values, groups)
    assert error == pytest.approx(values.std() / np.sqrt(199))
    counts = group_counts(groups, resamples=2000, seed=0)
    means = counts @ values / counts.sum(axis=1)
    assert means.std() == pytest.approx(error, rel=0.06)  # 2000 resamples know a deviation to 1.6 %
    assert standard_error(values, np.zeros(800, dtype=np.int64)) == np.inf


def test_a_router_differs_from_itself_by_exactly_nothing_and_from_noise_for_sure():
    outcomes = noisy_pair(n=300)
    rankings = {
        "oracle": oracle_prs_hat(outcomes),
        "again": oracle_prs_hat(outcomes),
        "random": np.zeros(300),
    }
    result = evaluate(outcomes, rankings, resamples=200)
    same = result.difference("oracle", "again", "oracle_share@50")
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = result.difference("oracle", "random", "gain_over_random@50")
    assert 0 < better.low < better.value < better.high
    unbounded = evaluate(outcomes, rankings, capped=True, resamples=10).difference(
        "random", "random", "saving@50"
    )
    assert unbounded.value == pytest.approx(0)


def test_two_routers_that_never_arrive_have_no_difference():
    outcomes = one_metric([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    result = evaluate(outcomes, {"a": np.full(3, 0.9), "b": np.full(3, 0.8)}, capped=True, resamples=10)
    difference = result.difference("a", "b", "saving@50")
    assert (difference.value, difference.note, difference.defined) == (None, Answer.NOT_REACHED, 0)


def test_seeds_are_averaged_and_their_spread_widens_the_interval():
    outcomes = noisy_pair(n=100)
    rng = np.random.default_rng(8)
    seeds = outcomes.prs + rng.normal(0, [[0.01], [0.3], [0.05]], (3, 100))
    result = evaluate(outcomes, {"all": seeds, "first": seeds[0], "third": seeds[2]}, resamples=100)
    alone = [evaluate(outcomes, {"r": row}, resamples=0).values["r"]["spearman"] for row in seeds]
    assert result.values["all"]["spearman"] == pytest.approx(np.mean(alone))
    widths = {name: result.figure(name, "spearman") for name in ("all", "first", "third")}
    width = {name: entry.high - entry.low for name, entry in widths.items()}
    assert width["all"] > max(width["first"], width["third"])


def test_routers_with_as_many_seeds_get_the_same_draws_of_seeds():
    samples = np.array([[0.0] * 50, [1.0] * 50])
    means = seed_means(samples, seed=3)
    assert (means == seed_means(samples, seed=3)).all()
    assert set(means) == {0.0, 0.5, 1.0}
    assert (seed_means(samples[:1], seed=3) == 0).all()


def test_an_interval_says_how_often_the_number_exists_and_where_it_has_no_bound():
    entry = figure(
        float("nan"), np.array([np.nan] * 20 + [-np.inf] * 8 + [float(i) for i in range(72)]), note="why"
    )
    assert (entry.value, entry.low, entry.high, entry.defined, entry.note) == (None, None, 69.0, 0.8, "why")
    bare = figure(1.5, np.zeros(0))
    assert (bare.value, bare.low, bare.high, bare.defined) == (1.5, None, None, 1.0)


# --- the shuffled control ----------------------------------------------------------------------------------


def test_decisions_that_know_the_gains_beat_their_shuffle_and_blind_ones_do_not():
    outcomes = noisy_pair(n=200)
    gains = outcomes.u_cloud - outcomes.u_edge
    one_class = np.zeros(200, dtype=np.int64)
    for ranking, expected in [(-gains, 1 / 1001), (np.zeros(200), 1.0), (gains, 1.0)]:
        cloud = cloud_probability(ranking, share=0.5)
        control = shuffled_control(gains, cloud, strata=one_class, seed=0)
        assert control.p_value == pytest.approx(expected)
        assert control.shuffled == pytest.approx(
            gains.mean() / 2, abs=5 * gains.std() / np.sqrt(4 * 199 * 1000)
        )


def test_a_shuffle_stays_inside_its_cost_class():
    # Given decisions that send exactly one class, in which all jobs gain alike
    gains, strata = np.array([1.0, 0.0, 1.0, 0.0, 0.0]), np.array([4, 2, 4, 2, 2])
    cloud = (strata == 4).astype(float)
    # When they are shuffled inside the classes
    control = shuffled_control(gains, cloud, strata=strata, seed=1, permutations=50)
    # Then nothing changes, and nothing is proved
    assert (control.observed, control.shuffled, control.p_value) == pytest.approx((0.4, 0.4, 1.0))


def test_the_same_sum_in_another_order_counts_as_equally_good():
    gains, strata = np.full(23, 0.1), np.zeros(23, dtype=np.int64)
    control = shuffled_control(gains, (np.arange(23) < 11).astype(float), strata=strata, seed=0)
    assert control.p_value == 1


def test_the_p_value_is_uniform_for_a_router_without_knowledge():
    rng = np.random.default_rng(9)
    strata = np.zeros(40, dtype=np.int64)
    found = []
    for seed in range(200):
        gains, cloud = rng.normal(size=40), (rng.permutation(40) < 20).astype(float)
        found.append(shuffled_control(gains, cloud, strata=strata, seed=seed, permutations=99).p_value)
    assert np.mean(found) == pytest.approx(0.5, abs=4 * 0.29 / np.sqrt(200))


# --- what is refused, and folds ----------------------------------------------------------------------------


@pytest.mark.parametrize("ranking", [np.zeros(59), np.full(60, np.nan), np.zeros((2, 3, 60))])
def test_a_ranking_that_does_not_fit_is_refused(ranking):
    with pytest.raises(ValueError, match="60 finite numbers"):
        evaluate(noisy_pair(), {"r": ranking}, resamples=0)


def test_names_and_weights_that_do_not_fit_the_scores_are_refused():
    q = np.full((3, 2), 0.5)
    with pytest.raises(ValueError, match="as many metrics"):
        judged(q, q, metrics=["m"], weights=[1.0, 1.0], scale=fit_scale(q, q))


def test_folds_are_pooled_with_the_utilities_of_their_own_scale():
    first, second = noisy_pair(n=10, seed=1), noisy_pair(n=20, seed=2)
    both = pooled([first, second])
    assert len(both.prs) == 30
    assert both.u_edge[:10].tolist() == first.u_edge.tolist()
    assert both.groups[10:].tolist() == second.groups.tolist()
    with pytest.raises(ValueError, match="same metrics"):
        pooled([first, noisy_pair(width=2)])


def test_a_gain_in_utility_is_the_weighted_argument_of_the_superiority():
    scale = Scale(gamma=2.0, gaps=np.array([0.1, 0.2]), floored=())
    assert utility(np.array([[0.4, 0.8]]), scale=scale, weights=[3.0, 1.0]) == pytest.approx(
        [0.75 * 2 + 0.25 * 2]
    )
