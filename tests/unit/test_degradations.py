import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from routet2i.pocket.degradations import DEGRADATIONS, degrade
from routet2i.pocket.inspector import inspect
from routet2i.pocket.world import all_facts, render, sample_scene

NAMES = list(DEGRADATIONS)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_there_is_one_degradation_per_quality_metric() -> None:
    # Given the table, when its names are read, then the ten metrics are there
    assert set(NAMES) == {
        "definition",
        "detail",
        "clarity",
        "sharpness",
        "harmony",
        "realism",
        "color",
        "consistency",
        "layout",
        "integrity",
    }


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=6, deadline=None)
def test_severity_zero_is_the_clean_rendering(name: str, seed: int) -> None:
    # Given a scene
    scene = sample_scene(rng(seed))
    # When it is degraded with severity 0
    picture = degrade(name, scene, 0, rng=rng(seed))
    # Then it is what `render` paints
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, render(scene, rng=rng(seed)))


@pytest.mark.parametrize("name", NAMES)
def test_damage_grows_with_severity(name: str) -> None:
    # Given scenes and rising severities
    severities = np.linspace(0, 1, 11)
    curves = []
    for seed in range(6):
        scene = sample_scene(rng(seed))
        clean = render(scene, rng=rng(seed)).astype(float)
        # When the same damage is done in all strengths
        pictures = [degrade(name, scene, float(severity), rng=rng(seed)) for severity in severities]
        curve = [float(np.abs(picture - clean).mean()) for picture in pictures]
        # Then the pixels drift away from the clean picture, scene by scene
        assert spearmanr(severities, curve)[0] >= 0.9
        curves.append(curve)
    # And on average strictly, with a visible beginning
    mean = np.mean(curves, axis=0)
    assert (np.diff(mean) > 0).all()
    assert mean[1] > 0.4


@pytest.mark.parametrize("name", NAMES)
def test_degradation_is_deterministic_for_a_seed(name: str) -> None:
    # Given equal generators, when degrading twice, then the pictures are equal
    scene = sample_scene(rng(4))
    assert np.array_equal(degrade(name, scene, 0.6, rng=rng(4)), degrade(name, scene, 0.6, rng=rng(4)))


def test_the_degradations_differ_from_each_other() -> None:
    # Given one scene, when damaged in all ways, then no two pictures are alike
    scene = sample_scene(rng(8), objects=4)
    pictures = [degrade(name, scene, 0.6, rng=rng(8)).astype(float) for name in NAMES]
    for index, one in enumerate(pictures):
        for other in pictures[:index]:
            assert np.abs(one - other).mean() > 1


@pytest.mark.parametrize("name", ["layout", "integrity", "color", "consistency"])
def test_gross_damage_breaks_facts(name: str) -> None:
    # Given scenes whose facts all hold when clean
    shares = []
    for seed in range(10):
        scene = sample_scene(rng(seed), objects=3)
        # When damaged to the full
        shares.append(inspect(degrade(name, scene, 1, rng=rng(seed)), facts=all_facts(scene)).share)
    # Then the inspector misses many of them
    assert np.mean(shares) < 0.75


def test_unknown_names_and_severities_are_refused() -> None:
    # Given a wrong name or severity, when degrading, then an error tells the choices
    with pytest.raises(ValueError, match="choose one of"):
        degrade("beauty", sample_scene(rng(0)), 0.5, rng=rng(0))
    with pytest.raises(ValueError, match="0 to 1"):
        degrade("detail", sample_scene(rng(0)), 1.5, rng=rng(0))
