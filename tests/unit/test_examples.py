"""Features and labels: what routers see, and what was measured."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.predictor.examples import Features, Labels

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=8)


def features_of(lengths, *, tags=None, width=3):
    rng = np.random.default_rng(sum(lengths))
    return Features(
        prompts=tuple(f"prompt {i}" for i in range(len(lengths))),
        tokens=rng.normal(size=(sum(lengths), width)).astype(np.float16),
        offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        tags=tags,
    )


def labels_of(n, *, tiers=("edge", "cloud"), metrics=("a",)):
    scores = np.random.default_rng(n).uniform(size=(n, len(tiers), len(metrics)))
    weights = np.full(len(metrics), 1 / len(metrics))
    return Labels(tiers=tiers, metrics=metrics, scores=scores, weights=weights)


@given(LENGTHS)
def test_a_prompts_mean_is_the_mean_of_its_own_tokens(lengths):
    features = features_of(lengths)
    for i, mean in enumerate(features.means()):
        own = features.tokens[features.offsets[i] : features.offsets[i + 1]].astype(np.float32)
        assert mean == pytest.approx(own.mean(axis=0), abs=1e-5)  # float32 sums of a few numbers near 1


@given(LENGTHS, st.data())
def test_taking_rows_keeps_each_prompt_with_its_tokens_and_tags(lengths, data):
    # Given prompts with tags
    tags = tuple((f"tag {i}",) for i in range(len(lengths)))
    features = features_of(lengths, tags=tags)
    # When rows are taken, in any order, some twice
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=12)), dtype=np.int64)
    taken = features.take(rows)
    # Then each row is what it was
    assert len(taken) == len(rows)
    assert taken.means() == pytest.approx(features.means()[rows])
    for new, old in enumerate(rows):
        assert taken.prompts[new] == features.prompts[old]
        assert taken.tags is not None
        assert taken.tags[new] == tags[old]
        own = features.tokens[features.offsets[old] : features.offsets[old + 1]]
        assert (taken.tokens[taken.offsets[new] : taken.offsets[new + 1]] == own).all()


def test_no_prompts_have_no_means():
    empty = features_of([2, 3]).take(np.array([], dtype=np.int64))
    assert empty.means().shape == (0, 3)
    assert len(empty) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 5], dtype=np.int64)}, "offsets"),
        ({"offsets": np.array([0, 2, 4], dtype=np.int64)}, "offsets"),
        ({"offsets": np.array([0, 5, 5], dtype=np.int64)}, "at least one row"),
        ({"offsets": np.array([1, 2, 5], dtype=np.int64)}, "from 0"),
        ({"tokens": np.zeros(5, dtype=np.float16)}, "tokens"),
        ({"tags": (("one",),)}, "tags"),
    ],
)
def test_features_that_contradict_themselves_are_refused(change, message):
    good = {"prompts": ("x", "y"), "tokens": np.zeros((5, 3), dtype=np.float16), "tags": None}
    good |= {"offsets": np.array([0, 2, 5], dtype=np.int64)}
    with pytest.raises(ValueError, match=message):
        Features(**(good | change))


def test_a_mask_is_not_mistaken_for_row_numbers():
    mask = np.array([True, True])
    with pytest.raises(ValueError, match="flatnonzero"):
        features_of([1, 1]).take(mask)
    with pytest.raises(ValueError, match="flatnonzero"):
        labels_of(2).take(mask)


def test_a_pair_holds_the_named_tiers_edge_first():
    # Given labels of three tiers
    labels = labels_of(4, tiers=("small", "middle", "large"), metrics=("a", "b"))
    # When a pair is asked for, in an order of its own
    pair = labels.pair("large", "small")
    # Then its columns are those tiers'
    assert pair.tiers == ("large", "small")
    assert (pair.scores == labels.scores[:, [2, 0]]).all()
    with pytest.raises(ValueError, match=r"'huge'.*small, middle, large"):
        labels.pair("small", "huge")


def test_taking_rows_of_labels_keeps_scores_in_order():
    labels = labels_of(5)
    assert (labels.take(np.array([3, 0, 3])).scores == labels.scores[[3, 0, 3]]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros((2, 2))}, "scores must be"),
        ({"scores": np.zeros((2, 3, 1))}, "scores must be"),
        ({"scores": np.full((2, 2, 1), np.nan)}, "lie in"),
        ({"scores": np.full((2, 2, 1), 1.5)}, "lie in"),
        ({"weights": np.array([0.5, 0.5])}, "weights"),
        ({"weights": np.array([-1.0])}, "weights"),
        ({"weights": np.array([2.0])}, "normalised"),
    ],
)
def test_labels_that_are_no_scores_are_refused(change, message):
    good = {"tiers": ("e", "c"), "metrics": ("a",), "scores": np.zeros((2, 2, 1)), "weights": np.ones(1)}
    with pytest.raises(ValueError, match=message):
        Labels(**(good | change))
