from pathlib import Path

import pytest

from routet2i.contracts import TierKind
from routet2i.errors import TierError
from routet2i.tiers import packaged, read_tiers

TIER = """
[tier.{name}]
kind = "{kind}"
model = "pocket:{kind}"
steps = 4
guidance = 1
width = 64
height = 64
micro_usd_per_image = 100
"""
PAIR = TIER.format(name="edge", kind="edge") + TIER.format(name="cloud", kind="cloud")


def write(folder: Path, text: str) -> Path:
    path = folder / "tiers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_packaged_pair_is_complete() -> None:
    tiers = read_tiers(packaged("pocket"))
    assert (tiers.edge, tiers.cloud) == ("edge", "cloud")
    assert tiers["edge"].kind is TierKind.EDGE
    assert tiers["cloud"].price(3) == 3 * tiers["cloud"].micro_usd_per_image
    assert tiers["edge"].task_name == "routet2i.edge.generate"


@pytest.mark.parametrize("name", ["sd21-sd3", "turbo-sdxl"])
def test_the_profiles_of_real_models_pin_commits_and_price_the_cloud_higher(name: str) -> None:
    tiers = read_tiers(packaged(name))
    edge, cloud = tiers[tiers.edge], tiers[tiers.cloud]
    assert edge.revision is not None
    assert cloud.revision is not None
    assert 0 < edge.micro_usd_per_image < cloud.micro_usd_per_image


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    edge = read_tiers(write(tmp_path, PAIR))["edge"]
    assert (edge.queue, edge.dtype, edge.device, edge.guidance) == ("edge", "float32", "auto", 1.0)


def test_several_tiers_of_a_kind_need_to_say_which_is_routed(tmp_path: Path) -> None:
    three = PAIR + TIER.format(name="big", kind="cloud")
    with pytest.raises(TierError, match="which cloud tier is routed"):
        read_tiers(write(tmp_path, three))
    assert read_tiers(write(tmp_path, '[routing]\ncloud = "big"\n' + three)).cloud == "big"


@pytest.mark.parametrize(
    ("name", "predictor"), [("pocket", "pocket"), ("sd21-sd3", "cold_start"), ("turbo-sdxl", "cold_start")]
)
def test_the_packaged_profiles_say_what_predicts_before_the_first_promotion(
    name: str, predictor: str
) -> None:
    assert read_tiers(packaged(name)).predictor == predictor


def test_a_tier_file_names_a_predictor_or_gets_the_one_for_natural_prompts(tmp_path: Path) -> None:
    # Given files without a predictor, with a name, and with a folder beside the file
    (tmp_path / "mine").mkdir()
    written = ("", '[routing]\npredictor = "noun_count"\n', '[routing]\npredictor = "./mine"\n')
    # Then it is the default, the name, and the folder's own path
    found = [read_tiers(write(tmp_path, head + PAIR)).predictor for head in written]
    assert found == ["cold_start", "noun_count", str(tmp_path / "mine")]


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ('predictor = "live"', "before the first promotion"),
        ('predictor = ""', "before the first promotion"),
        ("predictor = 7", "before the first promotion"),
        ('predictor = "./nowhere"', "nowhere does not exist"),
        ('predicter = "pocket"', "unknown key 'predicter'; known: edge, cloud, predictor"),
    ],
)
def test_a_wrong_routing_table_is_refused(tmp_path: Path, head: str, words: str) -> None:
    with pytest.raises(TierError, match=words):
        read_tiers(write(tmp_path, f"[routing]\n{head}\n{PAIR}"))


def test_a_model_folder_is_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    tiers = read_tiers(write(tmp_path, PAIR.replace("pocket:edge", "./mine")))
    assert tiers["edge"].model == str(tmp_path / "mine")


def test_a_hub_model_needs_a_pinned_commit(tmp_path: Path) -> None:
    hub = PAIR.replace('model = "pocket:edge"', 'model = "owner/name"')
    with pytest.raises(TierError, match="40 hex digits"):
        read_tiers(write(tmp_path, hub))
    pinned = hub.replace('"owner/name"', '"owner/name"\nrevision = "' + "0123456789" * 4 + '"')
    assert read_tiers(write(tmp_path, pinned))["edge"].revision == "0123456789" * 4


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps = 4", "", "needs steps"),
        ("steps = 4", "steps = 0", "from 1 to 1000"),
        ("steps = 4", "steps = 4.0", "must be a int"),
        ("steps = 4", "steps = true", "must be a int"),
        ("width = 64", "width = 60", "multiple of 8"),
        ('kind = "edge"', 'kind = "fog"', "edge or cloud"),
        ("guidance = 1", "guidance = nan", "from 0 to 50"),
        ("steps = 4", 'steps = 4\ndtype = "float8"', "float32"),
        ("steps = 4", 'steps = 4\nspeed = "fast"', "unknown key 'speed'"),
        ("steps = 4", 'steps = 4\nqueue = "cloud"', "share queue"),
        ("steps = 4", 'steps = 4\nqueue = "a b"', "may hold"),
        ("pocket:edge", "./nowhere", "does not exist"),
        ("pocket:edge", "no slash", "OWNER/NAME"),
    ],
)
def test_a_wrong_value_is_refused_with_file_table_and_remedy(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    with pytest.raises(TierError, match=told):
        read_tiers(write(tmp_path, PAIR.replace(old, new, 1)))


def test_an_unknown_tier_names_the_known_ones() -> None:
    with pytest.raises(TierError, match="known: edge, cloud"):
        read_tiers(packaged("pocket"))["fog"]
