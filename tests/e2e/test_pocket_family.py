"""The shipped models, and the whole main job with them: real pictures, real scores, real processes."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import spearmanr

from db.audit import check_invariants
from routet2i import pocket
from routet2i.metrics import read_metrics
from routet2i.models.generation import as_png
from routet2i.models.quality import load_scorer
from routet2i.pocket import data, degradations, networks, world
from routet2i.pocket.evaluate import generate, inspections, share
from routet2i.pocket.train import load_packaged_, make_tokenizer
from routet2i.tiers import packaged, read_tiers
from tests.e2e.conftest import Home, wait_for

ONE_OBJECT = 24  # prompts: enough to tell a model that draws from one that does not


@pytest.fixture(scope="module")
def captions() -> list[world.Caption]:
    rng = np.random.default_rng(3)
    scenes = [data.sample_scene(rng, held_out=True, objects=1) for _ in range(ONE_OBJECT)]
    return [world.write_caption(scene, rng=rng) for scene in scenes]


def test_the_family_is_small_and_its_manifest_is_true() -> None:
    # Given the packaged weights
    root = pocket.folder("edge").parent
    manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    files = {str(path.relative_to(root)): path for path in root.rglob("*.safetensors")}
    # Then they are at most 30 MB, safetensors only, and the manifest knows each
    assert sum(path.stat().st_size for path in files.values()) <= 30e6
    assert not [path for path in root.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]
    assert {name: pocket.sha256(path) for name, path in files.items()} == manifest["sha256"]
    assert set(manifest["runs"]) == {"text", "autoencoder", "vision", "edge", "cloud"}


def test_training_can_go_on_from_the_packaged_weights() -> None:
    # Given untrained networks of each kind
    made = {
        "vision": networks.build_clip(len(make_tokenizer())),
        "autoencoder": networks.build_autoencoder(),
        "edge": networks.build_unet("edge"),
        "cloud": networks.build_unet("cloud"),
    }
    for name, module in made.items():
        before = next(module.parameters()).clone()
        # When the packaged weights are loaded, strictly
        load_packaged_(module, name)
        # Then they have changed and are numbers
        after = next(module.parameters())
        assert not before.equal(after)
        assert after.isfinite().all()


@pytest.mark.parametrize("tier", ["edge", "cloud"])
def test_pictures_show_their_one_object_prompts(tier: str, captions: list[world.Caption]) -> None:
    # When a tier draws held-out prompts of one object
    pictures = generate(read_tiers(packaged("pocket"))[tier], captions, device="cpu")
    # Then the inspector sees what they say; pictures of other prompts hold a fifth of it. (A guard against
    # broken weights, a little below the targets, which are measured on 500 prompts: see the model card.)
    seen = share(inspections(pictures, captions))
    assert seen >= 0.8
    assert seen >= share(inspections(pictures, captions[1:] + captions[:1])) + 0.4


@pytest.mark.parametrize("name", list(degradations.DEGRADATIONS))
def test_a_metric_falls_as_its_own_damage_grows(name: str) -> None:
    # Given held-out scenes with growing damage of the metric's own kind
    scorer = load_scorer(read_metrics(packaged("metrics")), model="pocket:clip", device="cpu")
    rng = np.random.default_rng(11)
    levels = np.linspace(0.0, 1.0, 8)
    falls = []
    for _ in range(12):
        scene, seed = data.sample_scene(rng, held_out=True), int(rng.integers(2**31))
        pictures = [
            as_png(degradations.degrade(name, scene, float(s), rng=np.random.default_rng(seed)))
            for s in levels
        ]
        # When they are scored
        scores = [row[name] for row in scorer.score(pictures, ["a picture"] * len(pictures))]
        falls.append(-spearmanr(levels, scores).statistic)
    # Then the score falls with it (the target, 0.8 on 40 scenes, is in the model card; this is a guard)
    assert np.mean(falls) >= 0.72


def test_the_demonstration_is_real_from_the_first_line_to_the_last(
    fresh_home: Callable[..., Home],
) -> None:
    # Given a home without fakes
    home = fresh_home(fake_models="0", predictor="noun_count")
    # When the demonstration runs
    done = home.routet2i("demo", timeout=500)
    # Then it ends well, and every accepted line has a picture from one of both tiers, with all scores
    assert done.returncode == 0, done.stdout + done.stderr
    printed = home.routet2i("results", "last", "--format", "jsonl").stdout
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["state"] for row in rows] == ["succeeded"] * 96
    assert {row["tier"] for row in rows} == {"edge", "cloud"}
    assert all(0 <= row[name] <= 1 for row in rows for name in row if name.startswith("q_"))
    assert 0 < sum(row["cost_charged_usd"] for row in rows) <= 3.5
    assert all((home.path / row["image_uri"]).stat().st_size > 200 for row in rows)
    assert len({row["image_sha256"] for row in rows}) == 96
    # And the report stands by itself, and no process is left
    page = (home.path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") >= 96
    wait_for(lambda: not home.processes(), seconds=60, what="no process is left")
    engine = home.engine()
    assert check_invariants(engine) == []
    engine.dispose()
