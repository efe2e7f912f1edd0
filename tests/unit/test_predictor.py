"""The predictors' common contract, the baselines, and the door to them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.errors import ModelError, UsageError
from routet2i.tiers import packaged, read_tiers
from scheduler.predictor import interface
from scheduler.predictor.interface import Constant, PromptLength, Random, open_predictor
from scheduler.predictor.noun_count import fit_noun_count, write_artefact

TIERS = read_tiers(packaged("pocket"))
PROMPTS = st.lists(st.text(max_size=60), max_size=10)


@pytest.fixture
def folder(tmp_path):
    """A folder with an artefact fitted on a few made-up scores."""
    prompts = ["cat", "cat dog", "cat dog tree"] * 4
    rng = np.random.default_rng(3)
    artefact = fit_noun_count(
        prompts,
        q_edge=rng.uniform(size=(12, 2)),
        q_cloud=rng.uniform(size=(12, 2)),
        metrics=["detail", "clarity"],
        weights=[1, 1],
        pair={"edge": "pocket:edge", "cloud": "pocket:cloud"},
        metrics_sha256="0" * 64,
    )
    write_artefact(artefact, tmp_path / "noun_count.json")
    return tmp_path


@pytest.mark.parametrize("name", ["constant", "prompt_length", "random", "folder"])
@given(prompts=PROMPTS)
@pytest.mark.filterwarnings("error")
def test_every_predictor_gives_one_prediction_per_prompt_and_the_same_one_again(name, prompts, made_folder):
    predictor = open_predictor(str(made_folder) if name == "folder" else name, tiers=TIERS)
    first, second = predictor.predict(prompts), predictor.predict(prompts[::-1])
    assert list(first) == list(second)[::-1]
    assert all(0 <= one.prs <= 1 for one in first)
    assert len(first) == len(prompts)
    assert predictor.name
    assert predictor.version


@pytest.fixture(scope="module")
def made_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("artefact")
    artefact = fit_noun_count(
        ["cat", "cat dog"],
        q_edge=np.array([[0.6], [0.2]]),
        q_cloud=np.array([[0.5], [0.5]]),
        metrics=["detail"],
        weights=[1],
        pair={"edge": "pocket:edge", "cloud": "pocket:cloud"},
        metrics_sha256="0" * 64,
    )
    write_artefact(artefact, path / "noun_count.json")
    return path


def test_constant_says_that_the_tiers_are_equal():
    assert [one.prs for one in Constant().predict(["a", "b"])] == [0.5, 0.5]


@given(st.lists(st.integers(0, 300), min_size=2, max_size=5, unique=True))
def test_a_longer_prompt_has_a_lower_prs_by_length(lengths):
    values = [one.prs for one in PromptLength().predict(["w " * n for n in sorted(lengths)])]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)
    assert max(values) <= 0.5


def test_random_is_uniform_over_prompts():
    values = np.array([one.prs for one in Random().predict([f"prompt {i}" for i in range(4000)])])
    # 4,000 uniform draws: the standard deviation of the mean is 0.0046, of a decile's count 19
    assert abs(values.mean() - 0.5) < 0.02
    assert np.histogram(values, bins=10, range=(0, 1))[0].min() > 320


def test_a_folder_with_an_artefact_is_a_predictor(folder):
    predictor = open_predictor(str(folder), tiers=TIERS)
    assert predictor.version == json.loads((folder / "noun_count.json").read_text())["version"]
    assert set(predictor.predict(["cat"])[0].scores) == {"edge", "cloud"}


def test_scores_are_named_by_the_routed_tiers(folder):
    # Given the same models under other names
    tiers = replace(
        TIERS,
        profiles={
            "small": replace(TIERS["edge"], name="small"),
            "big": replace(TIERS["cloud"], name="big"),
        },
        edge="small",
        cloud="big",
    )
    assert set(open_predictor(str(folder), tiers=tiers).predict(["cat"])[0].scores) == {"small", "big"}


def test_for_other_models_only_the_ranking_is_kept(folder):
    # Given a pair of other models than those the artefact was fitted on
    other = replace(TIERS["cloud"], model="someone/else")
    tiers = replace(TIERS, profiles={"edge": TIERS["edge"], "cloud": other})
    own = open_predictor(str(folder), tiers=TIERS).predict(["cat dog"])[0]
    strange = open_predictor(str(folder), tiers=tiers).predict(["cat dog"])[0]
    # Then no scores are claimed for them
    assert strange.prs == own.prs
    assert strange.scores == {}


def test_before_the_first_promotion_live_is_what_the_tier_file_says():
    tiers = replace(TIERS, predictor="prompt_length")
    assert open_predictor("live", tiers=tiers).name == "prompt_length"


@pytest.mark.parametrize("name", ["pocket", "cold_start"])
def test_a_packaged_network_that_is_not_there_is_refused_with_a_remedy(name, tmp_path, monkeypatch):
    monkeypatch.setattr(interface, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(ModelError, match=f"{name}.*ROUTET2I_PREDICTOR=noun_count"):
        open_predictor(name, tiers=TIERS)


def test_an_unknown_predictor_is_refused_with_the_known_ones():
    with pytest.raises(
        UsageError, match=r"no predictor 'nouns'.*live, pocket, cold_start, noun_count, prompt_length"
    ):
        open_predictor("nouns", tiers=TIERS)


def test_a_folder_without_an_artefact_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(ModelError, match=r"no predictor artefact.*ROUTET2I_PREDICTOR=prompt_length"):
        open_predictor(str(tmp_path), tiers=TIERS)
