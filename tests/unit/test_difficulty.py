"""Pooling rated sets: labels that mean the same in all of them."""

import numpy as np
import pytest

from scheduler.datasets import RatedSet
from scheduler.folds import near_duplicates
from scheduler.predictor.cold_start import LIGHT, ROUTERS, card, left_out_rows, train
from scheduler.predictor.difficulty import LEAD, MIDDLE, UNIT, difficulty_pool, pair_pool
from scheduler.predictor.examples import Labels

WORDS = ["castle", "river", "lamp", "horse", "piano", "bridge", "violin", "desert", "kitchen", "robot"]
MODELS = {
    "genai_bench_1600": ("SDXL_Turbo", "DALLE_3"),
    "agiqa3k": ("sd1.5", "midjourney"),
    "tifa160": ("mini_dalle", "stable_diffusion_v2_1"),
}


class WordEncoder:
    """A fake: a fixed random state per word."""

    name, fingerprint = "words", "1234"

    def __init__(self):
        rng = np.random.default_rng(0)
        self._states = {word: rng.normal(size=8).astype(np.float16) for word in WORDS}

    def tokens(self, prompt):
        return prompt.split()

    def encode(self, prompts):
        parts = [[self._states[word] for word in prompt.split()] for prompt in prompts]
        return np.array([one for part in parts for one in part]), np.cumsum([0, *map(len, parts)])


def rated(name="agiqa3k", *, count=60, stretch=1.0, seed=0):
    """Prompts with "robot" are hard for the light model, and a bit for the large one."""
    rng = np.random.default_rng(seed)
    prompts = tuple(" ".join(rng.choice(WORDS, size=5, replace=False)) for _ in range(count))
    hard = np.array(["robot" in prompt for prompt in prompts])
    scores = np.stack([np.where(hard, 0.3, 0.6), np.where(hard, 0.6, 0.7)], axis=1)
    scores = 0.2 + stretch * (scores + 0.02 * rng.normal(size=scores.shape) - 0.2)
    return RatedSet(
        name=name,
        prompts=prompts,
        labels=Labels(tiers=MODELS[name], metrics=("human",), scores=scores[..., None], weights=np.ones(1)),
        groups=near_duplicates(prompts),
        ranges=((0.0, 1.0),),
    )


def test_sets_of_different_scales_say_the_same_about_difficulty():
    # Given a set, and the same on half the scale
    pools = [difficulty_pool([rated(stretch=stretch)]) for stretch in (1.0, 0.5)]
    # When both are pooled, then their labels are the same
    assert pools[0].labels.scores == pytest.approx(pools[1].labels.scores)


def test_the_edge_score_is_the_mean_of_all_models_and_the_cloud_score_a_constant():
    # Given two sets
    sets = [rated(), rated("tifa160", seed=1, stretch=0.7)]
    # When they are pooled
    pool = difficulty_pool(sets)
    # Then each set's edge scores have the same mean and spread, and hard prompts the lowest
    edge, cloud = pool.labels.scores[:, 0, 0], pool.labels.scores[:, 1, 0]
    assert cloud == pytest.approx(MIDDLE + UNIT * LEAD)
    for part in (edge[:60], edge[60:]):
        assert (part.mean(), part.std()) == pytest.approx((MIDDLE, UNIT))
    hard = np.array(["robot" in prompt for prompt in pool.prompts])
    assert edge[hard].max() < edge[~hard].min()


def test_a_prompt_that_two_sets_share_is_one_group():
    pool = difficulty_pool([rated(), rated("tifa160")])
    assert (pool.groups[:60] == pool.groups[60:]).all()


def test_pairs_keep_the_gap_between_light_and_large_models():
    pool = pair_pool([rated()], light=LIGHT)
    gap = pool.labels.scores[:, 1, 0] - pool.labels.scores[:, 0, 0]
    hard = np.array(["robot" in prompt for prompt in pool.prompts])
    assert gap[hard].min() > gap[~hard].max()


@pytest.fixture(scope="module")
def sets():
    return [rated(name, seed=seed) for seed, name in enumerate(MODELS)]


def test_a_set_that_was_left_out_is_ranked_by_what_the_others_taught(sets):
    # Given three sets that agree which word is hard
    # When each is left out in turn
    rows = left_out_rows(sets, encoder=WordEncoder())
    # Then its one pair has a row, and the predictor is far better than random
    assert [(row.left_out, row.edge, row.cloud) for row in rows] == [(name, *MODELS[name]) for name in MODELS]
    assert all(set(row.shares) == set(ROUTERS) for row in rows)
    assert min(row.shares["cold_start"].value for row in rows) > 0.7


def test_the_card_names_data_licences_and_figures(sets):
    encoder = WordEncoder()
    trained = train(sets, encoder=encoder)
    text = card(trained, sets=sets, rows=left_out_rows(sets, encoder=encoder))
    assert trained.version in text
    for word in ("Apache-2.0", "MIT", "GenAI-Bench", "AGIQA-3K", "TIFA160", "mean of agiqa3k"):
        assert word in text
    assert trained.models == {}
