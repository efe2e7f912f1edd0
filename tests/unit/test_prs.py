"""Pareto relative superiority: routing.md section 2 as properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scheduler.prs import fit_scale, isotonic_decreasing, normalised, prs, superiority

SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 6))
UNIT = st.floats(0, 1, allow_nan=False, width=32)


@st.composite
def score_pairs(draw):
    shape = draw(SHAPES)
    edge, cloud = (draw(arrays(np.float64, shape, elements=UNIT)) for _ in range(2))
    return edge, cloud


def prs_of(edge, cloud, weights=None):
    scale = fit_scale(edge, cloud)
    return prs(superiority(edge, cloud, scale=scale), weights=weights or [1.0] * edge.shape[1])


@given(score_pairs())
def test_swapping_the_tiers_gives_one_minus_prs(pair):
    edge, cloud = pair
    assert prs_of(cloud, edge) == pytest.approx(1 - prs_of(edge, cloud), abs=1e-12)


@given(arrays(np.float64, SHAPES, elements=UNIT))
def test_equal_pictures_give_exactly_one_half(q):
    assert (superiority(q, q, scale=fit_scale(q, q)) == 0.5).all()


@given(score_pairs())
def test_prs_lies_between_zero_and_one(pair):
    values = prs_of(*pair)
    assert ((values >= 0) & (values <= 1)).all()


@given(score_pairs(), st.data())
def test_prs_does_not_fall_when_an_edge_score_rises(pair, data):
    # Given a scale that is frozen
    edge, cloud = pair
    scale = fit_scale(edge, cloud)
    weights = [1.0] * edge.shape[1]
    before = prs(superiority(edge, cloud, scale=scale), weights=weights)
    # When one edge score rises
    row, column = (data.draw(st.integers(0, size - 1)) for size in edge.shape)
    better = edge.copy()
    better[row, column] = data.draw(st.floats(float(edge[row, column]), 1))
    # Then no PRS falls
    assert (prs(superiority(better, cloud, scale=scale), weights=weights) >= before - 1e-12).all()


def test_a_large_gamma_makes_everything_equal():
    edge, cloud = np.array([[0.1, 0.9]]), np.array([[0.8, 0.2]])
    scale = fit_scale(edge, cloud)
    wide = type(scale)(gamma=1e12, gaps=scale.gaps, floored=())
    assert superiority(edge, cloud, scale=wide) == pytest.approx(0.5)


def test_the_median_argument_of_the_sigmoid_is_one_on_the_training_split():
    rng = np.random.default_rng(7)
    edge, cloud = rng.uniform(size=(500, 10)), rng.uniform(0.02, 1, size=(500, 10))
    scale = fit_scale(edge, cloud)
    arguments = np.abs(edge - cloud) / (scale.gamma * scale.gaps)
    assert np.median(arguments) == pytest.approx(1.0)


def test_a_metric_on_which_the_tiers_agree_is_floored_and_named():
    # Given three metrics, of which the second has the same mean on both tiers
    edge = np.array([[0.2, 0.4, 0.3], [0.4, 0.6, 0.5]])
    cloud = np.array([[0.4, 0.6, 0.5], [0.6, 0.4, 0.7]])
    # When the scale is fitted
    scale = fit_scale(edge, cloud)
    # Then its gap is a tenth of the median gap
    assert scale.floored == (1,)
    assert scale.gaps == pytest.approx([0.2, 0.02, 0.2])


def test_a_metric_of_weight_zero_does_not_decide():
    d = np.array([[0.2, 0.9]])
    assert prs(d, weights=[3.0, 0.0]) == pytest.approx([0.2])


@pytest.mark.parametrize("weights", [[0.0, 0.0], [-1.0, 2.0], [], [float("nan")]])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        normalised(weights)


@pytest.mark.parametrize(
    ("edge", "cloud"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(3), np.zeros(3)),
        (np.full((1, 1), np.nan), np.zeros((1, 1))),
    ],
)
def test_scores_that_are_no_pair_of_tables_are_refused(edge, cloud):
    with pytest.raises(ValueError, match="scores must be"):
        fit_scale(edge, cloud)


@given(st.lists(st.tuples(UNIT, st.integers(1, 50)), min_size=1, max_size=20))
def test_the_isotonic_fit_never_rises_and_keeps_the_weighted_mean(points):
    values = np.array([value for value, _ in points])
    weights = np.array([float(weight) for _, weight in points])
    fit = isotonic_decreasing(values, weights=weights)
    assert (np.diff(fit) <= 1e-12).all()
    assert np.average(fit, weights=weights) == pytest.approx(np.average(values, weights=weights), abs=1e-9)


@given(st.lists(UNIT, min_size=1, max_size=20))
def test_the_isotonic_fit_leaves_a_falling_sequence_alone(values):
    falling = np.array(sorted(values, reverse=True))
    assert isotonic_decreasing(falling, weights=np.ones(len(falling))) == pytest.approx(falling)
