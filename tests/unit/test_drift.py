"""Predicted beside measured PRS: numbers by hand, an alarm that rings when it should, and not by chance."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.pairs import ShadowPair, Side
from routet2i.contracts import Yardstick
from routet2i.tiers import packaged, read_tiers
from scheduler.comparison import compare
from scheduler.drift import ERROR_LIMIT, LEAST_PAIRS, RULE, Pair, drift_of, measure, spearman

START = datetime(2026, 1, 2, tzinfo=UTC)
TIERS = read_tiers(packaged("pocket"))
UNIT = st.floats(0, 1)


def yardstick(**spans):
    return Yardstick(weights=dict.fromkeys(spans, 1 / len(spans)), spans=spans)


def pair(*, prs=0.5, edge=0.5, cloud=0.5, prompt="p", window=0, metric="detail"):
    return Pair(
        prompt=prompt,
        window_id=f"w{window}",
        committed_at=START + timedelta(seconds=window),
        prs=prs,
        edge={metric: edge},
        cloud={metric: cloud},
    )


def pairs_with(predicted, measured):
    """Pairs whose measured PRS, by a yardstick of span 1, is as wanted."""
    scores = [(0.5 + gap / 2, 0.5 - gap / 2) for gap in np.log(measured / (1 - measured))]
    return [
        pair(prs=float(p), edge=float(edge), cloud=float(cloud), prompt=f"prompt {i}")
        for i, (p, (edge, cloud)) in enumerate(zip(predicted, scores, strict=True))
    ]


def drift(predicted, measured):
    pairs = pairs_with(np.asarray(predicted), np.asarray(measured))
    return drift_of(pairs, yardstick=yardstick(detail=1.0), weights={"detail": 1.0})


# ---------------------------------------------------------------- measured PRS


def test_a_measured_prs_is_the_weighted_sigmoid_of_score_differences():
    # Given a pair that differs by one span in one metric, and by none in the other
    one = Pair(
        prompt="p",
        window_id="w",
        committed_at=START,
        prs=0.5,
        edge={"detail": 0.7, "clarity": 0.4},
        cloud={"detail": 0.5, "clarity": 0.4},
    )
    # When it is measured
    value = measure([one], yardstick=yardstick(detail=0.2, clarity=0.1), weights={})
    # Then it is the mean of sigmoid(1) and 1/2
    assert value == pytest.approx([(1 / (1 + np.exp(-1)) + 0.5) / 2])


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=20), st.floats(0.01, 2))
def test_swapping_the_tiers_mirrors_every_measured_prs(scores, span):
    there = [pair(edge=edge, cloud=cloud) for edge, cloud in scores]
    back = [pair(edge=cloud, cloud=edge) for edge, cloud in scores]
    known = yardstick(detail=span)
    forth = measure(there, yardstick=known, weights={})
    assert np.allclose(forth + measure(back, yardstick=known, weights={}), 1)


def test_without_constants_of_its_own_a_predictor_is_measured_with_those_of_the_pairs():
    # Given pairs and no yardstick
    pairs = [pair(edge=0.2, cloud=0.6, prompt="a"), pair(edge=0.4, cloud=0.5, prompt="b")]
    # When they are compared
    found = drift_of(pairs, yardstick=None, weights={"detail": 1.0, "unmeasured": 0.0})
    # Then the cloud is ahead in both, more in the first, and the report will say whose constants these are
    assert found.points[0][1] < found.points[1][1] < 0.5
    assert not found.own_constants


# ---------------------------------------------------------------- drift


def test_windows_are_told_apart_in_the_order_of_time():
    # Given pairs of two windows, the later one first
    pairs = [pair(prs=0.9, window=2), pair(prs=0.4, window=1), pair(prs=0.6, window=1, prompt="q")]
    # When they are compared
    found = drift_of(pairs, yardstick=yardstick(detail=1.0), weights={})
    # Then each window has its own means; equal pictures measure 1/2
    assert [(one.window_id, one.pairs, one.predicted, one.measured) for one in found.windows] == [
        ("w1", 2, 0.5, 0.5),
        ("w2", 1, 0.9, 0.5),
    ]
    assert found.windows[1].difference == pytest.approx(0.4)
    assert found.difference.value == pytest.approx((0.9 + 0.4 + 0.6) / 3 - 0.5)


def test_the_calibration_error_is_that_of_tenths():
    # Given two tenths that err by 0.2 in opposite directions
    found = drift([0.25] * 3 + [0.75] * 3, [0.45] * 3 + [0.55] * 3)
    # Then errors do not cancel, but differences do
    assert found.calibration_error.value == pytest.approx(0.2)
    assert found.difference.value == pytest.approx(0.0, abs=1e-12)
    assert found.spearman == pytest.approx(1.0)


def test_one_prompt_drawn_often_is_no_new_evidence():
    # Given one prompt, drawn again and again
    pairs = [pair(prs=0.9, prompt="same") for _ in range(LEAST_PAIRS)]
    found = drift_of(pairs, yardstick=yardstick(detail=1.0), weights={})
    # Then its interval is a point, for all we know is one prompt
    assert found.calibration_error.low == found.calibration_error.high == pytest.approx(0.4)


@settings(max_examples=25)
@given(st.lists(st.tuples(UNIT, st.floats(0.01, 0.99)), min_size=1, max_size=30))
def test_figures_stay_in_their_ranges(points):
    predicted, measured = zip(*points, strict=True)
    found = drift(predicted, measured)
    assert 0 <= found.calibration_error.value <= 1
    assert -1 <= found.difference.value <= 1
    assert abs(found.difference.value) <= found.calibration_error.value + 1e-9
    assert found.spearman is None or -1 - 1e-9 <= found.spearman <= 1 + 1e-9


def test_rank_correlation_has_no_value_without_spread():
    assert spearman(np.array([0.5, 0.5]), np.array([0.1, 0.9])) is None
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 5.0])) == pytest.approx(1)


# ---------------------------------------------------------------- the alarm


def noisy(seed, *, pairs=LEAST_PAIRS, shift=0.0):
    """A predictor that is right up to a shift, and pictures that scatter by 0.2 as the pocket pair's do."""
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(0.2, 0.6, pairs)
    return predicted, np.clip(predicted - shift + rng.normal(0, 0.2, pairs), 0.01, 0.99)


def test_the_alarm_does_not_ring_by_chance():
    # Given forty well calibrated predictors with as few pairs as the alarm allows
    # Then it rings for none
    assert not any(drift(*noisy(seed)).alarm for seed in range(40))


def test_the_alarm_rings_for_a_predictor_that_is_off_by_a_quarter():
    assert all(drift(*noisy(seed, shift=0.25)).alarm for seed in range(10))


def test_the_alarm_rings_for_a_predictor_that_mistakes_good_for_bad():
    # Given predictions whose mean is right, upside down
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0.1, 0.9, 100)
    found = drift(predicted, np.clip(1 - predicted + rng.normal(0, 0.1, 100), 0.01, 0.99))
    assert found.alarm
    assert found.spearman < -0.8


def test_a_few_pairs_ring_no_alarm_however_far_off():
    assert not drift([0.9] * (LEAST_PAIRS - 1), [0.1] * (LEAST_PAIRS - 1)).alarm
    assert drift([0.9] * LEAST_PAIRS, [0.1] * LEAST_PAIRS).alarm


def test_the_rule_in_words_has_the_numbers_of_the_rule():
    assert f"{LEAST_PAIRS} pairs" in RULE
    assert f"{ERROR_LIMIT:.2f}" in RULE


# ---------------------------------------------------------------- versions


def shadow_pair(
    *, tier="cloud", version="1", name="p", prs=0.3, edge=0.4, cloud=0.6, metric="detail", **changes
):
    values = {
        "job_id": "j",
        "shadow_job_id": "s",
        "prompt": "a red circle",
        "window_id": "w",
        "committed_at": START,
        "predictor_name": name,
        "predictor_version": version,
        "prs": prs,
        "propensity": 0.1,
        "tier": tier,
        "sides": {
            "edge": Side(model_id="pocket:edge", scores={metric: edge}),
            "cloud": Side(model_id="pocket:cloud", scores={metric: cloud}),
        },
    }
    return ShadowPair(**values | changes)


def compared(pairs, yardsticks=None):
    return compare(pairs, yardsticks=yardsticks or {}, tiers=TIERS, weights={"detail": 1.0})


def test_each_version_is_measured_with_its_own_constants():
    # Given pairs of two versions, one of which has constants, whichever tier the user's picture is from
    pairs = [shadow_pair(version="1"), shadow_pair(version="2"), shadow_pair(version="1", tier="edge")]
    # When they are compared
    first, second = compared(pairs, {("p", "1"): yardstick(detail=0.2)})
    # Then the first is measured by its own, the second by the pairs'
    assert (first.version, first.drift.pairs, first.drift.own_constants) == ("1", 2, True)
    assert first.drift.measured == pytest.approx(1 / (1 + np.exp(1)))
    assert (second.version, second.drift.pairs, second.drift.own_constants) == ("2", 1, False)


def test_a_predictor_of_metrics_that_nobody_measures_here_is_measured_by_the_pairs():
    (only,) = compared([shadow_pair()], {("p", "1"): yardstick(human=1.0)})
    assert not only.drift.own_constants


def test_pairs_that_tell_nothing_are_left_out():
    # Given a pair of tiers that are not routed any more, and one without the deployment's metric
    sides = {name: Side(model_id="m", scores={"detail": 0.5}) for name in ("edge", "huge")}
    assert compared([shadow_pair(sides=sides), shadow_pair(metric="other")]) == []
