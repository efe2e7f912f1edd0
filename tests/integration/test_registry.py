"""A tiny fitted network with a real encoder on its way: folder, registry, promotion, scheduler."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from routet2i.errors import MissingModels, ModelError, NotFound, UsageError
from routet2i.pocket.world import sample_prompts
from routet2i.tiers import packaged, read_tiers
from scheduler.predictor import interface
from scheduler.predictor.artefact import MANIFEST, WEIGHTS, read_artefact
from scheduler.predictor.encoders import load_encoder
from scheduler.predictor.examples import Features, Labels
from scheduler.predictor.fitting import Recipe, Source, fit
from scheduler.predictor.interface import find_network, open_predictor, resolve
from scheduler.predictor.live import follow
from scheduler.predictor.network import NetworkConfig
from scheduler.predictor.registry import check_name, promote, register
from scheduler.predictor.trained import parse_trained, read_trained

TIERS = read_tiers(packaged("pocket"))
PROMPTS = [caption.text for caption in sample_prompts(seed=1, count=40)]
SMALL = NetworkConfig(members=1, inner=8, layers=0, heads=2, top_k=3, rank=2, gate_width=4, dropout=0.0)


@pytest.fixture(params=["sqlite"])
def engine(request, make_database):
    """These tests are about files and torch: one database will do (`test_predictors` has both)."""
    made = make_database(request.param)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two fitted networks that differ in their seed."""
    encoder = load_encoder("pocket:edge")
    tokens, offsets = encoder.encode(PROMPTS)
    rng = np.random.default_rng(0)
    labels = Labels(
        tiers=("edge", "cloud"),
        metrics=("detail", "alignment"),
        scores=rng.uniform(0.3, 0.7, size=(len(PROMPTS), 2, 2)),
        weights=np.array([0.5, 0.5]),
    )
    made = []
    for seed in (1, 2):
        trained = fit(
            Features(prompts=tuple(PROMPTS), tokens=tokens, offsets=offsets),
            labels,
            groups=np.arange(len(PROMPTS)),
            seed=seed,
            recipe=Recipe(network=SMALL, epochs=1, batch=16),
            source=Source(
                encoder=encoder.name,
                encoder_sha256=encoder.fingerprint,
                models={"edge": "pocket:edge", "cloud": "pocket:cloud"},
            ),
        )
        made.append(tmp_path_factory.mktemp("predictor"))
        trained.write(made[-1])
    return made


@pytest.fixture
def no_package(monkeypatch, tmp_path):
    """A package without fitted networks; returns where they would be."""
    monkeypatch.setattr(interface, "WEIGHTS_FOLDER", tmp_path / "weights")
    return tmp_path / "weights"


def test_a_folder_a_version_and_a_name_are_one_predictor(repository, folders):
    # Given a network in a folder and in the registry
    artefact = read_artefact(folders[0])
    assert register(repository, artefact, name="mine", figures={"share_50": 0.5}) is True
    # When it is opened by all its names
    opened = [
        open_predictor(name, tiers=TIERS, registry=repository)
        for name in (str(folders[0]), artefact.version, "mine")
    ]
    # Then all say the same of the same prompts
    said = [[one.prs for one in predictor.predict(PROMPTS[:5])] for predictor in opened]
    assert said[0] == said[1] == said[2]
    assert {one.version for one in opened} == {artefact.version}


def test_a_promotion_is_what_live_means(repository, folders, no_package):
    # Given two registered versions
    first, second = (read_artefact(folder) for folder in folders)
    for artefact in (first, second):
        register(repository, artefact, name="mine", figures={})
    # When one is promoted, and then the other
    for artefact in (first, second):
        made = promote(repository, artefact.version, tiers=TIERS, who="me@here", reason="try")
        # Then it is live, and a scheduler that starts now uses it
        assert made == (artefact.version, True)
        assert resolve("live", tiers=TIERS, registry=repository) == artefact.version
        assert follow("live", tiers=TIERS, registry=repository)().version == artefact.version


def test_promoting_a_packaged_predictor_registers_it(repository, folders, no_package):
    # Given a package with a network, and one of the user's own that is live
    mine, packaged_one = (read_artefact(folder) for folder in folders)
    no_package.mkdir()
    folders[1].rename(no_package / "pocket")
    register(repository, mine, name="mine", figures={})
    promote(repository, "mine", tiers=TIERS, who="me", reason="")
    # When the packaged one is promoted by its name
    promote(repository, "pocket", tiers=TIERS, who="me", reason="back to the shipped one")
    (no_package / "pocket").rename(folders[1])
    # Then it is a version like any other, even if the next package has another one
    assert repository.live_predictor() == packaged_one.version
    assert repository.find_predictor("pocket").weights == packaged_one.weights
    assert open_predictor("live", tiers=TIERS, registry=repository).version == packaged_one.version


def test_before_the_first_promotion_the_packaged_one_is_live(repository, folders, no_package):
    no_package.mkdir()
    (no_package / "pocket").symlink_to(folders[0])
    opened = open_predictor("live", tiers=TIERS, registry=repository)
    assert opened.version == read_artefact(folders[0]).version
    assert opened.name == "routet2i"


def test_a_missing_package_file_says_what_to_do(repository, no_package):
    with pytest.raises(ModelError, match=r"'pocket' is not in .*ROUTET2I_PREDICTOR=noun_count"):
        open_predictor("live", tiers=TIERS, registry=repository)


def test_without_torch_the_error_says_what_to_install(folders, monkeypatch):
    # Given an interpreter in which the torch side cannot be imported
    monkeypatch.setitem(sys.modules, "scheduler.predictor.routet2i", None)
    # When a network is opened
    with pytest.raises(MissingModels, match=r"pip install 'routet2i\[models\]'.*noun_count"):
        open_predictor(str(folders[0]), tiers=TIERS)
    # Then finding and checking it needed no torch
    assert find_network(str(folders[0]), registry=None).version == read_artefact(folders[0]).version


def test_what_cannot_be_loaded_is_not_promoted(repository, make_artefact, no_package):
    # Given a version whose files belong together but are no network
    artefact = make_artefact()
    register(repository, artefact, name="mine", figures={})
    # When it is promoted
    with pytest.raises(ModelError, match="is no routet2i predictor"):
        promote(repository, "mine", tiers=TIERS, who="me", reason="")
    # Then nothing is live
    assert repository.live_predictor() is None


def test_a_damaged_row_of_the_registry_is_refused(repository, folders):
    # Given weights that were swapped on their way into the database
    first, second = (read_artefact(folder) for folder in folders)
    repository.add_predictor(name="mine", manifest=first.manifest, weights=first.weights + b"!", figures={})
    # Then no scheduler uses them
    with pytest.raises(ModelError, match=r"is not the file predictor\.json was written with"):
        open_predictor("mine", tiers=TIERS, registry=repository)
    with pytest.raises(NotFound, match="no predictor"):
        promote(repository, second.version, tiers=TIERS, who="me", reason="")


def test_parsing_texts_and_reading_a_folder_give_the_same(folders):
    # Given the two files of a folder as text and bytes
    manifest = (folders[0] / MANIFEST).read_text()
    weights = (folders[0] / WEIGHTS).read_bytes()
    # Then both ways lead to one version
    assert parse_trained(manifest, weights, where="here").version == read_trained(folders[0]).version
    with pytest.raises(ModelError, match=r"here: weights\.safetensors is not the file"):
        parse_trained(manifest, weights[:-1], where="here")


@pytest.mark.parametrize("name", ["live", "pocket", "cold_start", "noun_count", "random", "0123456789ab"])
def test_a_name_that_means_something_else_is_refused(repository, make_artefact, name):
    with pytest.raises(UsageError, match="means something else"):
        register(repository, make_artefact(), name=name, figures={})


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65])
def test_a_name_of_other_signs_is_refused(name):
    with pytest.raises(UsageError, match="letters, digits"):
        check_name(name)


def test_a_rule_cannot_be_promoted(repository):
    with pytest.raises(NotFound, match="ROUTET2I_PREDICTOR=noun_count"):
        promote(repository, "noun_count", tiers=TIERS, who="me", reason="")


def test_for_other_models_a_promoted_network_still_ranks(repository, folders):
    # Given tiers whose models the network was not fitted on
    other = replace(TIERS, profiles={**TIERS.profiles, "cloud": replace(TIERS["cloud"], model="a/b")})
    register(repository, read_artefact(folders[0]), name="mine", figures={})
    # Then it ranks, and claims no scores
    prediction = open_predictor("mine", tiers=other, registry=repository).predict(["a red circle"])[0]
    assert 0 <= prediction.prs <= 1
    assert prediction.scores == {}
