"""Fitting: honest linear path, calibration, losses, learning a rule, artefacts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from routet2i.errors import ModelError
from routet2i.tiers import packaged, read_tiers
from scheduler.predictor.calibration import calibrate, fit_scores
from scheduler.predictor.examples import Features, Labels
from scheduler.predictor.fitting import Recipe, Source, fit, make_targets
from scheduler.predictor.linear import fit_linear
from scheduler.predictor.network import NetworkConfig
from scheduler.predictor.routet2i import RouteT2I, RouteT2IRouter
from scheduler.predictor.trained import MANIFEST, WEIGHTS, read_trained
from scheduler.prs import fit_scale, prs, superiority
from scheduler.routing.shipped import recipe_of

WORDS = [*"abcdefgh", "hard"]
WIDTH = 12
SMALL = NetworkConfig(members=2, inner=16, layers=0, heads=2, top_k=3, rank=4, gate_width=8, dropout=0.1)
QUICK = Recipe(network=SMALL, wording=False, epochs=12, learning_rate=5e-3, batch=16)  # words are letters
MODELS = {"edge": "pocket:edge", "cloud": "pocket:cloud"}


class WordEncoder:
    """A fake: a fixed random state per word."""

    name, fingerprint = "words", "1234"

    def __init__(self):
        rng = np.random.default_rng(0)
        self._states = {word: rng.normal(size=WIDTH).astype(np.float16) for word in WORDS}

    def tokens(self, prompt):
        return prompt.split()

    def encode(self, prompts):
        parts = [[self._states[word] for word in prompt.split()] for prompt in prompts]
        offsets = np.cumsum([0, *map(len, parts)])
        return np.array([state for part in parts for state in part], dtype=np.float16), offsets


def prompts_of(count, *, seed):
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, size=rng.integers(2, 8))) for _ in range(count))


def features_of(prompts):
    tokens, offsets = WordEncoder().encode(prompts)
    return Features(prompts=tuple(prompts), tokens=tokens, offsets=offsets)


def labels_of(prompts, *, tiers=("edge", "cloud"), noise=0.02, seed=3):
    """Where "hard" stands the edge fails at the first metric; at the second the cloud is a bit worse."""
    rng = np.random.default_rng(seed)
    hard = np.array(["hard" in prompt.split() for prompt in prompts])
    scores = np.full((len(prompts), len(tiers), 2), 0.6)
    scores[hard, 0, 0], scores[:, -1, 1] = 0.2, 0.5
    scores[:, 1:-1, 0] = 0.5  # tiers between the two
    scores += noise * rng.normal(size=scores.shape)
    return Labels(
        tiers=tiers, metrics=("detail", "colour"), scores=scores.clip(0, 1), weights=np.array([0.75, 0.25])
    )


def fitted(recipe=QUICK, *, count=200, tiers=("edge", "cloud"), seed=0, **options):
    prompts = prompts_of(count, seed=1)
    labels = labels_of(prompts, tiers=tiers)
    source = Source(encoder="words", encoder_sha256="1234", models=MODELS)
    return fit(
        features_of(prompts),
        labels,
        groups=np.arange(count),
        seed=seed,
        recipe=recipe,
        source=source,
        **options,
    )


@pytest.fixture(scope="module")
def trained():
    return fitted()


def test_a_rule_about_one_word_is_learnt_and_holds_for_new_prompts(trained):
    # Given a predictor fitted where one word decides, and prompts it never saw
    prompts = prompts_of(200, seed=2)
    labels = labels_of(prompts)
    # When it predicts
    z = trained.z(features_of(prompts))
    predicted = trained.d_hat(z) @ trained.weights
    # Then its error is a small part of a mean predictor's, for PRS and for the scores
    d = superiority(labels.scores[:, 0], labels.scores[:, 1], scale=trained.scale)
    truth = prs(d, weights=labels.weights)
    assert ((predicted - truth) ** 2).mean() < 0.15 * truth.var()
    errors = trained.scores(z)[:, 0, 0] - labels.scores[:, 0, 0]
    assert (errors**2).mean() < 0.25 * labels.scores[:, 0, 0].var()


def test_experts_learn_what_a_mean_of_tokens_cannot_say():
    # Given a rule that no mean of token states can tell: "a" and "b" are hard together, or not at all
    def exclusive(prompts):
        labels = labels_of(prompts, noise=0.0)
        hard = np.array([("a" in p.split()) == ("b" in p.split()) for p in prompts])
        labels.scores[:, 0, 0] = np.where(hard, 0.2, 0.6)
        return labels

    train, test = prompts_of(300, seed=1), prompts_of(200, seed=2)
    truth = exclusive(test).scores[:, 0, 0]
    recipe = replace(QUICK, network=replace(SMALL, layers=1, top_k=None), epochs=30, learning_rate=1e-2)
    # When the linear path alone, and the whole, are fitted
    errors = []
    for members in (0, 1):
        one = fit(
            features_of(train),
            exclusive(train),
            groups=np.arange(len(train)),
            seed=0,
            recipe=replace(recipe, network=replace(recipe.network, members=members)),
        )
        predicted = one.scores(one.z(features_of(test)))[:, 0, 0]
        errors.append(((predicted - truth) ** 2).mean() / truth.var())
    # Then the experts explain what the linear path leaves
    assert errors[0] > 0.8
    assert errors[1] < 0.7 * errors[0]


def test_the_same_arguments_give_the_same_predictor_and_another_seed_another():
    versions = [fitted(seed=seed).version for seed in (5, 5, 6)]
    assert versions[0] == versions[1] != versions[2]


def test_fitting_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fitted(replace(QUICK, epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_a_folder_gives_back_the_same_predictions(trained, tmp_path):
    # Given a predictor written to a folder
    trained.write(tmp_path / "p")
    # When it is read
    again = read_trained(tmp_path / "p")
    # Then everything is as it was
    features = features_of(prompts_of(70, seed=4))
    assert (again.z(features) == trained.z(features)).all()
    assert again.version == trained.version == json.loads((tmp_path / "p" / MANIFEST).read_text())["version"]
    assert (again.tiers, again.metrics, again.models) == (trained.tiers, trained.metrics, trained.models)
    assert again.history == trained.history
    assert again.scale.gamma == trained.scale.gamma
    assert (again.scores(again.z(features)) == trained.scores(trained.z(features))).all()


def damage_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1] + b"x")


def damage_manifest(folder):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "gamma": 2.0}))


def other_format(folder):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "format": 99}))


def no_json(folder):
    (folder / MANIFEST).write_text("weights")


def no_weights(folder):
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_weights, "is not the file"),
        (damage_manifest, "was changed"),
        (other_format, "format 1"),
        (no_json, "no JSON"),
        (no_weights, "cannot read"),
    ],
)
def test_a_folder_that_is_not_what_was_written_is_refused(trained, tmp_path, damage, words):
    trained.write(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=words):
        read_trained(tmp_path)


def test_the_history_tells_every_epoch_and_progress_is_called_for_each():
    seen = []
    trained = fitted(replace(QUICK, epochs=3, patience=3), progress=seen.append)
    assert [epoch for epoch in trained.history if epoch.epoch] == seen
    assert {epoch.member for epoch in seen} == {0, 1}
    assert all(epoch.validation > -1e-6 for epoch in trained.history)  # above the entropy


def test_how_much_a_prompt_says_counts_even_where_its_mean_state_does_not_tell(tmp_path):
    # Given prompts that repeat one word, so that all mean states are equal, and long ones are hard
    prompts = tuple(" ".join(["hard"] * count) for count in range(1, 41))
    scores = np.full((40, 2, 2), 0.6)
    scores[:, 0, 0] = np.linspace(0.6, 0.2, 40)
    labels = replace(labels_of(prompts), scores=scores)
    recipe = Recipe(network=replace(SMALL, members=0))
    # When a predictor is fitted with counts of words, and one without
    errors = []
    for wording in (True, False):
        one = fit(
            features_of(prompts),
            labels,
            groups=np.arange(40),
            seed=0,
            recipe=replace(recipe, wording=wording),
        )
        one.write(tmp_path)
        again = read_trained(tmp_path)
        predicted = again.scores(again.z(features_of(prompts)))[:, 0, 0]
        assert (again.network.beside > 0) == wording
        errors.append(((predicted - scores[:, 0, 0]) ** 2).mean() / scores[:, 0, 0].var())
    # Then only the first one knows, and its folder keeps that
    assert errors[0] < 0.3 < 0.9 < errors[1]


def test_an_explanation_leaves_a_word_out_of_the_counts_too():
    # Given a predictor that reads counts of words
    prompts = prompts_of(200, seed=1)
    one = fit(
        features_of(prompts),
        labels_of(prompts),
        groups=np.arange(200),
        seed=0,
        recipe=replace(QUICK, wording=True, epochs=2),
        source=Source(encoder="words", encoder_sha256="1234", models=MODELS),
    )
    predictor = RouteT2I(one, encoder=WordEncoder(), tiers=read_tiers(packaged("pocket")))
    # When a word is left out by the explanation, and by hand
    explained = predictor.explain("a hard b c")
    z = one.z(features_of(["a hard b c", "a b c"]))
    # Then both say the same pull
    by_hand = (z[0, 0] - z[0, 1]) - (z[1, 0] - z[1, 1])
    assert explained.pull[:, 1] == pytest.approx(by_hand, abs=1e-5)


def test_three_tiers_get_consistent_pairs(trained):
    # Given a predictor of three tiers
    three = fitted(tiers=("edge", "middle", "cloud"))
    z = three.z(features_of(prompts_of(50, seed=2)))
    # When each pair is asked
    arguments = {
        (a, b): np.log(d / (1 - d))
        for a, b in ((0, 1), (1, 2), (0, 2))
        for d in [three.d_hat(z, edge=a, cloud=b)]
    }
    # Then what two pairs say adds up to the third, and the edge loses where the word stands
    assert arguments[0, 1] + arguments[1, 2] == pytest.approx(arguments[0, 2], abs=1e-6)
    assert three.scores(z).shape == (50, 3, 2)


def test_one_expert_can_stand_for_all_metrics():
    single = fitted(replace(QUICK, single=True))
    d = single.d_hat(single.z(features_of(prompts_of(5, seed=2))))
    assert single.network.slopes.shape[2] == 1
    assert (d == d[:, :1]).all()


def test_going_on_from_a_predictor_needs_fewer_prompts(trained):
    # Given a predictor that knows the rule, and only ten new prompts of the same kind
    few, test = prompts_of(10, seed=7), prompts_of(200, seed=2)
    truth = labels_of(test).scores[:, 0, 0]
    recipe = replace(QUICK, epochs=1)
    # When one predictor is fitted from nothing, and one from what is known
    errors = []
    for start in (None, trained):
        one = fit(features_of(few), labels_of(few), groups=np.arange(10), seed=0, recipe=recipe, start=start)
        errors.append(((one.scores(one.z(features_of(test)))[:, 0, 0] - truth) ** 2).mean())
    # Then the second is much better
    assert errors[1] < 0.5 * errors[0]


def test_going_on_with_other_tiers_and_metrics_keeps_what_fits(trained):
    # Given labels of other tiers and one metric
    prompts = prompts_of(60, seed=7)
    labels = labels_of(prompts)
    other = Labels(tiers=("x", "y"), metrics=("mos",), scores=labels.scores[..., :1], weights=np.ones(1))
    # When training goes on from a predictor of two metrics
    one = fit(features_of(prompts), other, groups=np.arange(60), seed=0, recipe=QUICK, start=trained)
    # Then it works, in the new terms
    assert one.scores(one.z(features_of(prompts))).shape == (60, 2, 1)


def test_unequal_lengths_and_another_encoder_are_refused(trained):
    prompts = prompts_of(20, seed=1)
    features, labels = features_of(prompts), labels_of(prompts)
    with pytest.raises(ValueError, match="20 prompts"):
        fit(features, labels, groups=np.arange(19), seed=0)
    with pytest.raises(ValueError, match="two groups"):
        fit(features, labels, groups=np.zeros(20, dtype=np.int64), seed=0)
    narrow = Features(prompts=prompts, tokens=features.tokens[:, :5], offsets=features.offsets)
    with pytest.raises(ValueError, match="width 12"):
        fit(narrow, labels, groups=np.arange(20), seed=0, start=trained)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"learning_rate": 0.0}, {"bce_weight": 0.0, "prs_weight": 0.0}, {"noise": -1.0}]
)
def test_recipes_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        replace(QUICK, **wrong)


# --- the parts ---


@given(seed=st.integers(0, 1000), rows=st.integers(6, 30), width=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_held_out_predictions_are_those_of_a_fit_without_the_group(seed, rows, width):
    # Given rows, some in groups
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(rows, width)), rng.normal(size=(rows, 3, 2))
    groups = np.arange(rows) // 2
    fitted_line = fit_linear(x, y, groups=groups)
    # When one group is left out and both parts are solved by hand with the same penalties
    out = groups == groups[seed % rows]
    common = y.mean(axis=1, keepdims=True).repeat(3, axis=1)
    unit = ((x - x.mean(0)) ** 2).sum() / rows
    expected = np.zeros((out.sum(), 3, 2))
    for part, penalties in zip((common, y - common), fitted_line.penalties, strict=True):
        mean = x[~out].mean(axis=0)
        centred = x[~out] - mean
        for i, penalty in enumerate(penalties):
            target = part[~out][:, :, i]
            gram = centred.T @ centred + penalty * unit * np.eye(width)
            slopes = np.linalg.solve(gram, centred.T @ (target - target.mean(axis=0)))
            expected[..., i] += (x[out] - mean) @ slopes + target.mean(axis=0)
    # Then that is what the closed form said
    assert fitted_line.held_out[out] == pytest.approx(expected, abs=1e-8)


def test_noise_alone_gets_the_heaviest_penalty_and_hardly_any_slope():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 20)), rng.normal(size=(200, 2, 1))
    line = fit_linear(x, y, groups=np.arange(200))
    assert np.abs(line(x) - y.mean(axis=0)).max() < 0.3


def test_a_least_penalty_leaves_lighter_ones_out_and_keeps_the_direction():
    # Given rows that a light penalty predicts best
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    y = (x @ rng.normal(size=5))[:, None, None].repeat(2, axis=1) * np.array([1.0, 0.0])[:, None]
    # When a heavier one is asked for
    free, heavy = (fit_linear(x, y, groups=np.arange(200), least=least) for least in (0.0, 100.0))
    # Then none lighter is chosen, slopes shrink, a constant tier stays so, and the order hardly changes
    assert free.penalties.max() < 100 == heavy.penalties.min()
    assert np.abs(heavy.slopes).max() < np.abs(free.slopes).max()
    assert np.abs(heavy.slopes[:, 1]).max() < 1e-9
    assert np.corrcoef(heavy(x)[:, 0, 0], y[:, 0, 0])[0, 1] > 0.9


def test_a_penalty_beyond_the_heaviest_is_refused():
    with pytest.raises(ValueError, match="heaviest penalty"):
        fit_linear(np.eye(4), np.zeros((4, 2, 1)), groups=np.arange(4), least=1e9)
    with pytest.raises(ValueError, match="least_penalty"):
        Recipe(least_penalty=1e9)


def test_a_recipe_written_before_there_was_a_least_penalty_still_means_none():
    # Given a predictor whose recipe does not name it
    trained = fitted(QUICK)
    older = {key: value for key, value in trained.recipe.items() if key != "least_penalty"}
    # When its recipe is read
    # Then it is the same recipe
    assert recipe_of(replace(trained, recipe=older)) == QUICK


@given(seed=st.integers(0, 1000), factor=st.floats(0.2, 3.0), shift=st.floats(-1, 1))
@settings(max_examples=25, deadline=None)
def test_calibration_finds_factor_and_shift(seed, factor, shift):
    # Given D that comes from a part times a factor plus a shift
    rng = np.random.default_rng(seed)
    part, noise = rng.normal(size=(2, 60, 2, 1))
    argument = factor * (part[:, 0] - part[:, 1]) + shift
    d = 1 / (1 + np.exp(-argument))[:, None]
    # When calibrated together with noise
    factors, shifts = calibrate([part, noise], d, pairs=[(0, 1)])
    # Then factor and shift are found, and noise counts for nothing
    assert factors[:, 0] == pytest.approx([factor, 0.0], abs=1e-3)
    assert shifts[0, 0] - shifts[1, 0] == pytest.approx(shift, abs=1e-3)


def test_a_part_that_says_the_contrary_gets_no_vote():
    rng = np.random.default_rng(0)
    part = rng.normal(size=(60, 2, 1))
    d = 1 / (1 + np.exp(part[:, 0] - part[:, 1]))[:, None]
    factors, _ = calibrate([part], d, pairs=[(0, 1)])
    assert factors.tolist() == [[0.0]]


def test_scores_are_a_line_of_z():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 2, 3))
    slopes, offsets = fit_scores(z, 0.1 * z + np.array([0.4, 0.6])[:, None])
    assert slopes == pytest.approx([0.1] * 3)
    assert offsets == pytest.approx(np.array([[0.4] * 3, [0.6] * 3]))


def test_targets_of_the_pair_are_those_of_prs():
    prompts = prompts_of(30, seed=1)
    labels = labels_of(prompts)
    scale = fit_scale(labels.scores[:, 0], labels.scores[:, 1])
    targets = make_targets(labels, scale=scale)
    expected = superiority(labels.scores[:, 0], labels.scores[:, 1], scale=scale)
    assert targets.d[:, 0] == pytest.approx(expected)
    logits = targets.z[:, 0] - targets.z[:, 1]
    assert 1 / (1 + np.exp(-logits)) == pytest.approx(expected)
    alone = make_targets(labels, scale=scale, single=True)
    assert alone.d[:, 0, 0] == pytest.approx(prs(expected, weights=labels.weights))


# --- around it ---


@pytest.fixture
def predictor(trained):
    return RouteT2I(trained, encoder=WordEncoder(), tiers=read_tiers(packaged("pocket")))


def test_the_scheduler_gets_prs_and_scores_by_its_own_tier_names(predictor):
    # Given a predictor fitted on the deployment's models
    # When it is asked about prompts, one of them twice
    first, second, third = predictor.predict(["hard a b", "a b c d", "hard a b"])
    # Then hard prompts are predicted better on the cloud, with scores of both tiers
    assert first.prs < 0.5 < second.prs
    assert first == third
    assert set(first.scores) == {"edge", "cloud"}
    assert first.scores["edge"]["detail"] < first.scores["cloud"]["detail"]
    assert predictor.predict([]) == []


def test_a_prompt_gets_the_same_prediction_in_any_company(predictor):
    prompts = list(prompts_of(150, seed=8))
    together = predictor.predict(prompts)
    for prompt, prediction in list(zip(prompts, together, strict=True))[::30]:
        assert predictor.predict([prompt])[0].prs == pytest.approx(prediction.prs, abs=1e-6)


def test_a_deployment_with_other_models_gets_the_ranking_without_scores(trained):
    foreign = RouteT2I(
        replace(trained, models={"edge": "x", "cloud": "y"}),
        encoder=WordEncoder(),
        tiers=read_tiers(packaged("pocket")),
    )
    hard, easy = foreign.predict(["hard a b", "a b c d"])
    assert hard.prs < easy.prs
    assert hard.scores == {}


def test_pictures_are_measured_with_the_constants_of_the_training_rows(predictor, trained):
    # Given scores of one prompt on both tiers
    q_edge, q_cloud = np.array([[0.3, 0.6]]), np.array([[0.6, 0.5]])
    # When D is computed with the predictor's yardstick
    spans = np.array([predictor.yardstick.spans[metric] for metric in trained.metrics])
    weights = [predictor.yardstick.weights[metric] for metric in trained.metrics]
    measured = (1 / (1 + np.exp(-(q_edge - q_cloud) / spans))) @ weights
    # Then it is the PRS that the network was fitted to
    truth = prs(superiority(q_edge, q_cloud, scale=trained.scale), weights=trained.weights)
    assert measured == pytest.approx(truth)


def test_an_encoder_with_other_weights_is_refused(trained):
    encoder = WordEncoder()
    encoder.fingerprint = "other"
    with pytest.raises(ModelError, match="other weights"):
        RouteT2I(trained, encoder=encoder, tiers=read_tiers(packaged("pocket")))


def test_an_explanation_names_the_word_that_pulls_to_the_cloud(predictor):
    # Given a prompt with the word that decides
    explanation = predictor.explain("a hard b c")
    # When its pulls are compared
    detail = explanation.pull[explanation.metrics.index("detail")]
    # Then that word pulls most, towards the cloud, and what the experts kept sums to one per metric
    assert explanation.tokens == ("a", "hard", "b", "c")
    assert explanation.tokens[int(np.argmin(detail))] == "hard"
    assert detail.min() < 0
    assert explanation.kept.sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-6)
    assert (explanation.kept > 0).sum(axis=1).max() <= 4
    assert explanation.prs == pytest.approx(predictor.predict(["a hard b c"])[0].prs, abs=1e-6)


def test_a_prompt_of_one_token_can_be_explained(predictor):
    explanation = predictor.explain("hard")
    assert (explanation.pull == 0).all()
    assert explanation.kept == pytest.approx(np.ones((2, 1)))


def test_the_router_of_the_evaluation_says_what_the_predictor_says():
    # Given a router fitted by the evaluation
    prompts = prompts_of(60, seed=1)
    router = RouteT2IRouter(recipe=replace(QUICK, epochs=1))
    with pytest.raises(ValueError, match="fit the router"):
        router.predict(features_of(prompts))
    router.fit(features_of(prompts), labels_of(prompts), groups=np.arange(60), seed=0)
    # When it predicts
    prediction = router.predict(features_of(prompts))
    # Then PRS is the weighted sum of D
    assert prediction.d_hat is not None
    assert prediction.prs_hat == pytest.approx(prediction.d_hat @ np.array([0.75, 0.25]))
