"""The routers to beat: what each learns, and what none may do."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scheduler.folds import grouped_folds
from scheduler.predictor.baselines import BASELINES, Knn, Random, Ridge, TagOnly, prompt_length, ridge_path
from scheduler.predictor.baselines_neural import (
    NEURAL_BASELINES,
    Inputs,
    TokenPool,
    good_enough,
    three_outcomes,
    tier_shares,
    train,
    two_outcomes,
    zooter,
)
from scheduler.predictor.examples import Features, Labels
from scheduler.predictor.isotonic import Isotonic, isotonic_curve
from scheduler.predictor.oracles import cross_rater_gain, oracle
from scheduler.predictor.routers import RoutePrediction, Truth, fit_pair, truth_of, unit_means
from scheduler.predictor.validation import held_out_predictions, inner_folds, validation_losses

WIDTH = 6
WORDS = ("fox", "castle", "the", "boat", "of", "lamp")
UNIT = st.floats(0, 1, width=32)


def features_of(directions, *, tags=None, seed=0):
    """One prompt per row of `directions` (n, d): its token states scatter around that row."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 7, size=len(directions))
    states = np.repeat(directions, lengths, axis=0) + 0.05 * rng.normal(
        size=(lengths.sum(), len(directions.T))
    )
    prompts = tuple(" ".join(rng.choice(WORDS, size=length)) for length in lengths)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return Features(prompts=prompts, tokens=states.astype(np.float16), offsets=offsets, tags=tags)


def world(n=80, *, noise=0.05, tiers=2, metrics=2, seed=1):
    """Prompts whose first direction says by how much the last tier leads."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n, WIDTH))
    tags = tuple(("high",) if row[0] > 0 else ("low",) for row in directions)
    lead = 0.1 + 0.15 * np.tanh(directions[:, 0])
    steps = np.linspace(0, 1, tiers)
    scores = 0.5 + lead[:, None, None] * steps[None, :, None] + noise * rng.normal(size=(n, tiers, metrics))
    labels = Labels(
        tiers=tuple(f"tier {k}" for k in range(tiers)),
        metrics=tuple(f"metric {k}" for k in range(metrics)),
        scores=np.clip(scores, 0, 1),
        weights=np.full(metrics, 1 / metrics),
    )
    return features_of(directions, tags=tags, seed=seed), labels, np.arange(n)


def fitted(router, features, labels, groups, *, seed=0):
    router.fit(features, labels, groups=groups, seed=seed)
    return router


def correlation(router, features, labels):
    truth = truth_of(labels, scale=fit_pair(labels)).prs
    return float(np.corrcoef(router.predict(features).prs_hat, truth)[0, 1])


ALL = {**BASELINES, **NEURAL_BASELINES}
LEARNERS = ("tag_only", "knn", "ridge", *NEURAL_BASELINES)
DETERMINISTIC = ("all_edge", "all_cloud", "noun_count", "prompt_length", "tag_only", "knn", "ridge")


@pytest.mark.parametrize("name", ALL)
def test_each_router_bears_its_name_and_answers_in_range_and_in_order(name):
    # Given a router fitted on some prompts
    features, labels, groups = world()
    router = fitted(ALL[name](), features, labels, groups)
    # When it is asked about others
    asked, _, _ = world(7, seed=2)
    prediction = router.predict(asked)
    # Then there is one value per prompt, inside [0, 1]
    assert router.name == name
    assert prediction.prs_hat.shape == (7,)
    assert ((prediction.prs_hat >= 0) & (prediction.prs_hat <= 1)).all()
    assert prediction.d_hat is None or prediction.d_hat.shape == (7, 2)


@pytest.mark.parametrize("name", LEARNERS)
def test_each_learner_finds_a_rule_that_is_there(name):
    features, labels, groups = world(160)
    router = fitted(ALL[name](), features, labels, groups)
    asked, answers, _ = world(100, seed=5)
    assert correlation(router, asked, answers) > 0.6


@pytest.mark.parametrize("name", [*DETERMINISTIC, "random", "zooter"])
def test_the_same_seed_gives_the_same_router(name):
    features, labels, groups = world(40)
    first, second = (fitted(ALL[name](), features, labels, groups, seed=3) for _ in range(2))
    assert (first.predict(features).prs_hat == second.predict(features).prs_hat).all()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_order_of_the_training_rows_decides_nothing(name):
    # Given one training set in two orders, groups travelling along
    features, labels, _ = world(50)
    groups = np.arange(50) // 2
    order = np.random.default_rng(9).permutation(50)
    # When a router is fitted on each
    straight = fitted(ALL[name](), features, labels, groups)
    permuted = fitted(ALL[name](), features.take(order), labels.take(order), groups[order])
    # Then both say the same, up to the rounding of sums
    asked, _, _ = world(20, seed=4)
    assert permuted.predict(asked).prs_hat == pytest.approx(straight.predict(asked).prs_hat, abs=1e-9)


@pytest.mark.parametrize("name", [*DETERMINISTIC, *NEURAL_BASELINES])
def test_a_prompt_is_judged_the_same_alone_and_among_others(name):
    features, labels, groups = world(60)
    router = fitted(ALL[name](), features, labels, groups)
    together = router.predict(features).prs_hat
    alone = [router.predict(features.take(np.array([row]))).prs_hat[0] for row in range(5)]
    assert together[:5] == pytest.approx(alone, abs=1e-5)  # float32 sums in another order


@pytest.mark.parametrize("name", ["random", "all_edge", "tag_only", "knn", "ridge", "routellm_mf", "zooter"])
def test_calibrated_routers_say_so(name):
    assert ALL[name]().calibrated


@pytest.mark.parametrize("name", ["noun_count", "prompt_length", "routellm_bert", "hybrid_llm"])
def test_rankings_say_that_they_are_none(name):
    assert not ALL[name]().calibrated


def test_a_prediction_outside_zero_and_one_is_refused():
    for wrong in (1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="prs_hat"):
            RoutePrediction(prs_hat=np.array([0.5, wrong]))


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 5))
def test_random_meets_every_share_exactly(n, count, seed):
    features, labels, groups = world(n)
    values = fitted(Random(), features, labels, groups, seed=seed).predict(features).prs_hat
    count = min(count, n)
    alpha = np.sort(values)[count] if count < n else np.inf
    assert (values < alpha).sum() == count


def test_more_words_rank_lower():
    features, labels, groups = world(30)
    length = fitted(ALL["prompt_length"](), features, labels, groups).predict(features).prs_hat
    nouns = fitted(ALL["noun_count"](), features, labels, groups).predict(features).prs_hat
    counts = [sum(word not in ("the", "of") for word in prompt.split()) for prompt in features.prompts]
    assert (np.argsort(-length, kind="stable") == np.argsort(features.lengths, kind="stable")).all()
    assert nouns == pytest.approx([1 / (1 + count) for count in counts])


def test_one_tag_predicts_its_shrunken_mean():
    # Given one tag on 30 prompts and another on one
    features, labels, groups = world(31)
    tags = (*[("many",)] * 30, ("one",))
    features = Features(prompts=features.prompts, tokens=features.tokens, offsets=features.offsets, tags=tags)
    truth = truth_of(labels, scale=fit_pair(labels)).prs
    # When the tags are learned
    router = fitted(TagOnly(), features, labels, groups)
    # Then each tag has (n_t p_t + 10 p) / (n_t + 10), and an unknown tag the mean of all
    predicted = router.predict(features).prs_hat
    assert predicted[0] == pytest.approx((truth[:30].sum() + 10 * truth.mean()) / 40)
    assert predicted[30] == pytest.approx((truth[30] + 10 * truth.mean()) / 11)
    row = features.take(np.array([0]))
    strange = Features(prompts=row.prompts, tokens=row.tokens, offsets=row.offsets, tags=(("new",),))
    assert router.predict(strange).prs_hat[0] == pytest.approx(truth.mean())


def test_several_tags_add_up():
    # Given a lead that one of two independent tags decides
    n = 200
    rng = np.random.default_rng(3)
    flags = rng.random((n, 2)) < 0.5
    tags = tuple(tuple(name for name, there in zip("ab", own, strict=True) if there) for own in flags)
    features = features_of(rng.normal(size=(n, WIDTH)), tags=tags)
    cloud = 0.4 + 0.3 * flags[:, 0] + 0.02 * rng.normal(size=n)
    scores = np.stack([np.full(n, 0.5), cloud], axis=1)[..., None]
    labels = Labels(tiers=("e", "c"), metrics=("q",), scores=scores, weights=np.ones(1))
    # When the tags are learned, then the tag that decides is worth most
    router = fitted(TagOnly(), features, labels, np.arange(n))
    asked = features.take(np.arange(4))
    four = Features(
        prompts=asked.prompts,
        tokens=asked.tokens,
        offsets=asked.offsets,
        tags=((), ("a",), ("b",), ("a", "b")),
    )
    none, a, b, both = router.predict(four).prs_hat
    assert none - a > 0.2
    assert abs(none - b) < 0.05
    assert both == pytest.approx(a, abs=0.05)


def test_tags_are_asked_for_by_name():
    features, labels, groups = world(20)
    bare = Features(prompts=features.prompts, tokens=features.tokens, offsets=features.offsets)
    with pytest.raises(ValueError, match="leave it out"):
        TagOnly().fit(bare, labels, groups=groups, seed=0)


def test_neighbours_are_exact_where_enough_of_them_are_duplicates():
    # Given three prompts in a hundred copies each, every copy with its own score
    rng = np.random.default_rng(0)
    copies = np.repeat(np.eye(3, WIDTH), 100, axis=0)
    offsets = np.arange(301)
    features = Features(prompts=("p",) * 300, tokens=copies.astype(np.float16), offsets=offsets)
    scores = rng.uniform(size=(300, 2, 1))
    labels = Labels(tiers=("e", "c"), metrics=("q",), scores=scores, weights=np.ones(1))
    # When a copy is asked about
    router = fitted(Knn(), features, labels, np.arange(300))
    predicted = router.predict(features.take(np.array([0, 100, 200]))).prs_hat
    # Then the answer is the mean of all its copies, whatever k: all are as near as the last
    truth = truth_of(labels, scale=fit_pair(labels)).prs.reshape(3, 100).mean(axis=1)
    assert predicted == pytest.approx(truth, abs=1e-6)  # other prompts weigh exp(-20)


def test_more_neighbours_than_prompts_are_all_prompts():
    features, labels, groups = world(5)
    router = fitted(Knn(), features, labels, groups)
    assert np.isfinite(router.predict(features).prs_hat).all()


def test_ridge_recovers_a_linear_rule():
    # Given arguments of D that are linear in the embedding
    rng = np.random.default_rng(2)
    features = features_of(rng.normal(size=(200, WIDTH)))
    lead = 0.1 + unit_means(features) @ rng.uniform(-0.1, 0.1, size=WIDTH)
    scores = np.stack([np.full(200, 0.5), 0.5 + lead], axis=1)[..., None]
    labels = Labels(tiers=("e", "c"), metrics=("q",), scores=scores, weights=np.ones(1))
    # When ridge learns half of the prompts
    train, test = np.arange(100), np.arange(100, 200)
    router = fitted(Ridge(), features.take(train), labels.take(train), train)
    # Then it knows the other half
    truth = truth_of(labels.take(test), scale=fit_pair(labels.take(train))).prs
    assert router.predict(features.take(test)).prs_hat == pytest.approx(truth, abs=0.02)


@given(arrays(np.float64, (7, 3), elements=st.floats(-2, 2)), st.sampled_from([0.1, 1.0, 100.0]))
def test_ridge_is_at_the_minimum_of_its_loss(x, penalty):
    # Given any design
    y = np.sin(np.arange(7.0))[:, None]
    [(mean, slopes)] = ridge_path(x, y, penalties=(penalty,))

    def loss(mean, slopes):
        return float(((y - mean - x @ slopes) ** 2).sum() + penalty * (slopes**2).sum())

    # When intercept or slopes are moved, then the loss does not fall
    best = loss(mean, slopes)
    for step in (1e-3, -1e-3):
        assert loss(mean + step, slopes) >= best - 1e-12
        for row in range(3):
            moved = slopes.copy()
            moved[row] += step
            assert loss(mean, moved) >= best - 1e-12


def test_no_group_is_validated_by_a_fit_that_saw_it():
    # Given groups of three
    groups = np.repeat(np.arange(10), 3)
    folds = inner_folds(groups, seed=0)
    seen = []

    def predict(train, held):
        seen.append((set(groups[train]), set(groups[held])))
        return np.stack([groups[held] / 10.0, np.zeros(len(held))])

    # When a setting is validated
    held_out = held_out_predictions(predict, folds=folds)
    # Then no group stands on both sides, and each row got its own prediction
    assert all(not train & held for train, held in seen)
    assert (held_out[0] == groups / 10.0).all()


def test_a_ranking_is_validated_by_its_order_and_a_prediction_by_its_error():
    truth = np.array([0.1, 0.4, 0.8])
    settings = np.array([[0.8, 0.4, 0.1], [0.01, 0.04, 0.08], [0.2, 0.35, 0.7], [0.5, 0.5, 0.5]])
    assert validation_losses(settings, truth=truth, calibrated=True).argmin() == 2
    ranking = validation_losses(settings, truth=truth, calibrated=False)
    assert ranking.argmin() == 1
    assert ranking[3] == 1
    assert ranking[0] > 1


def test_one_group_alone_cannot_be_validated():
    features, labels, _ = world(10)
    with pytest.raises(ValueError, match="1 groups"):
        Ridge().fit(features, labels, groups=np.zeros(10, dtype=np.int64), seed=0)


@pytest.mark.parametrize("name", ALL)
def test_nothing_beats_the_oracle_at_any_share(name):
    # Given a router and the oracle
    features, labels, groups = world(60, noise=0.1)
    guess = fitted(ALL[name](), features, labels, groups).predict(features).prs_hat
    truth = oracle(labels, scale=fit_pair(labels)).prs_hat
    # When each sends its k lowest to the cloud
    costs_of_guess, costs_of_oracle = (np.cumsum(truth[np.argsort(rank)]) for rank in (guess, truth))
    # Then the oracle has given up least, for every k
    assert (costs_of_oracle <= costs_of_guess + 1e-12).all()


@given(arrays(np.float64, (8, 2, 3), elements=UNIT), st.floats(0, 1))
def test_the_plain_oracle_gains_and_gains_most(ratings, share):
    everybody = cross_rater_gain(ratings, choosers=3, share=share)
    assert everybody >= -1e-12
    # and equals what one rater gains who always gives everybody's mean
    assert cross_rater_gain(ratings.mean(axis=2, keepdims=True), choosers=1, share=share) == pytest.approx(
        everybody, abs=1e-9
    )


def test_raters_who_agree_gain_what_the_oracle_gains():
    ratings = np.repeat(np.random.default_rng(0).uniform(size=(20, 2, 1)), 3, axis=2)
    assert cross_rater_gain(ratings, choosers=1) == pytest.approx(cross_rater_gain(ratings, choosers=3))


def test_raters_who_answer_by_chance_gain_nothing():
    ratings = np.random.default_rng(0).uniform(size=(4000, 2, 3))
    assert abs(cross_rater_gain(ratings, choosers=1)) < 0.02  # standard error about .005
    assert cross_rater_gain(ratings, choosers=3) > 0.05


def test_ties_are_drawn_by_lot():
    # Given a rater who sees no difference among three prompts, one of which is worth the cloud
    ratings = np.zeros((3, 2, 2))
    ratings[0, 1, 1] = 0.9
    # When he chooses one of them, then he gets a third of its worth: as much as chance
    assert cross_rater_gain(ratings[..., :1], choosers=1, share=1 / 3) == 0
    assert cross_rater_gain(ratings, choosers=1, share=1 / 3) == pytest.approx(0)


@pytest.mark.parametrize(("shape", "choosers"), [((3, 2), 1), ((3, 3, 2), 1), ((3, 2, 2), 0), ((3, 2, 2), 3)])
def test_raters_who_are_not_there_cannot_choose(shape, choosers):
    with pytest.raises(ValueError, match="cannot choose"):
        cross_rater_gain(np.zeros(shape), choosers=choosers)


def test_a_calibrated_ranking_keeps_its_order_and_means_what_it_says():
    # Given a ranking by length where longer prompts gain from the cloud
    n = 400
    rng = np.random.default_rng(8)
    lengths = rng.integers(1, 12, size=n)
    tokens = np.ones((lengths.sum(), 2), dtype=np.float16)
    features = Features(prompts=("p",) * n, tokens=tokens, offsets=np.concatenate(([0], np.cumsum(lengths))))
    lead = 0.03 * (lengths - 6) + 0.02 * rng.normal(size=n)
    scores = np.stack([np.full(n, 0.5), 0.5 + lead], axis=1)[..., None]
    labels = Labels(tiers=("e", "c"), metrics=("q",), scores=scores, weights=np.ones(1))
    # When it is calibrated
    router = fitted(Isotonic(prompt_length()), features, labels, np.arange(n))
    # Then prompts at the point of equality are called equal, and longer ones lower, strictly
    assert router.name == "prompt_length+isotonic"
    assert router.calibrated
    by_length = [router.predict(features).prs_hat[lengths == length][0] for length in range(1, 12)]
    assert (np.diff(by_length) < 0).all()
    assert by_length[5] == pytest.approx(0.5, abs=0.1)
    assert by_length[0] > 0.8
    assert by_length[-1] < 0.2


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=30))
def test_a_calibration_never_falls_and_keeps_the_mean_of_the_truth(points):
    values, truth = (np.array(side, dtype=np.float64) for side in zip(*points, strict=True))
    knots, levels = isotonic_curve(values, truth)
    assert (np.diff(knots) > 0).all()
    assert (np.diff(levels) > 0).all()
    assert truth.min() - 1e-12 <= levels.min()
    assert levels.max() <= truth.max() + 1e-12


@pytest.mark.parametrize("name", ["routellm_bert", "hybrid_llm"])
def test_a_learned_ranking_is_calibrated_by_prompts_it_did_not_see(name):
    features, labels, groups = world(160)
    router = fitted(Isotonic(NEURAL_BASELINES[name]()), features, labels, groups)
    asked, answers, _ = world(200, seed=5)
    truth = truth_of(answers, scale=fit_pair(labels)).prs
    predicted = router.predict(asked).prs_hat
    assert ((predicted - truth) ** 2).mean() < truth.var()
    assert abs(predicted.mean() - truth.mean()) < 0.1


def test_zooter_predicts_a_share_for_each_of_three_tiers():
    features, labels, groups = world(80, tiers=3)
    router = fitted(zooter(), features, labels, groups)
    shares = router.probabilities(features)
    assert shares.shape == (80, 3)
    assert shares.sum(axis=1) == pytest.approx(np.ones(80))
    expected = shares[:, 0] / (shares[:, 0] + shares[:, 2])
    assert router.predict(features).prs_hat == pytest.approx(expected)


def truth_with(lead):
    """The truth of prompts whose cloud picture leads by `lead` (n,) units of scalar quality."""
    utility = np.stack([np.zeros(len(lead)), np.asarray(lead, dtype=np.float64)], axis=1)
    nothing = np.zeros((len(lead), 1))
    return Truth(arguments=nothing, d=nothing, prs=nothing[:, 0], utility=utility)


def test_the_published_routers_are_taught_what_their_authors_say():
    truth = truth_with([-3.0, -1.0, 0.0, 1.0, 2.0, 4.0])
    # a third lies in the tie band, one class per prompt
    assert three_outcomes(truth).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 0],
        [0, 1, 0],
        [0, 0, 1],
        [0, 0, 1],
    ]
    # a tie is half a win
    assert two_outcomes(truth)[:, 0].tolist() == [1, 1, 0.5, 0, 0, 0]
    # labels balance at the median lead
    assert good_enough(truth)[:, 0].tolist() == [1, 1, 1, 0, 0, 0]
    # and zooter's shares are a softmax
    assert tier_shares(truth)[:, 0] == pytest.approx(1 / (1 + np.exp([-3, -1, 0, 1, 2, 4])))


def inputs_of(features):
    return Inputs(
        tokens=torch.tensor(features.tokens),
        offsets=torch.tensor(features.offsets),
        lengths=torch.tensor(features.lengths),
        centre=torch.zeros(WIDTH),
        size=1.0,
        means=torch.tensor(features.means()),
    )


def test_padding_does_not_reach_the_token_pool():
    # Given a pool with a query of its own, and prompts of one to six tokens
    rng = np.random.default_rng(0)
    features, _, _ = world(20)
    inputs = inputs_of(features)
    shapes = {"query": (1, WIDTH), "out": (1, WIDTH, 3), "bias": (1, 1, 3)}
    weights = {
        name: torch.tensor(rng.normal(size=shape), dtype=torch.float32) for name, shape in shapes.items()
    }
    # When they are read together and one by one, then each gets the same
    pool = TokenPool()
    together = pool.logits(weights, inputs, torch.arange(20))
    alone = torch.cat([pool.logits(weights, inputs, torch.tensor([row])) for row in range(20)], dim=1)
    assert torch.allclose(together, alone, atol=1e-5)  # float32, sums in another order


def test_models_of_one_stack_do_not_influence_each_other():
    # Given two models that learn from different halves, side by side and alone
    features, labels, _ = world(40)
    inputs = inputs_of(features)
    targets = torch.tensor(tier_shares(truth_of(labels, scale=fit_pair(labels))), dtype=torch.float32)
    start = TokenPool().init(WIDTH, targets.mean(dim=0), generator=torch.Generator().manual_seed(0))
    halves = torch.stack([torch.arange(40) < 20, torch.arange(40) >= 20])

    def trained(included, penalties):
        repeated = {
            name: tensor.repeat(len(included), *[1] * (tensor.dim() - 1)) for name, tensor in start.items()
        }
        stack = train(
            TokenPool(),
            inputs,
            targets,
            parameters=repeated,
            included=included,
            penalties=torch.tensor(penalties),
            seed=1,
        )
        return next(islice(stack, 2, None))

    # When both are trained, then neither way differs
    both = trained(halves, [0.1, 1.0])
    for number, penalty in enumerate((0.1, 1.0)):
        alone = trained(halves[[number]], [penalty])
        for name, tensor in alone.items():
            assert torch.allclose(tensor[0], both[name][number], atol=1e-5)  # float32


def test_grouped_folds_do_not_depend_on_the_order_of_rows():
    groups = np.random.default_rng(0).integers(0, 12, size=50)
    order = np.random.default_rng(1).permutation(50)
    folds = grouped_folds(groups, folds=4, seed=2)
    assert (grouped_folds(groups[order], folds=4, seed=2) == folds[order]).all()
