from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_price_grows_with_pictures_pixels_and_steps_unless_a_size_is_listed(tmp_path: Path) -> None:
    # Given a tier of 4 steps that asks for 100 a picture, 3 a megapixel and step, and 7 for one listed size
    more = 'steps = 4\nmicro_usd_per_megapixel_step = 3\nprices = {"512x512" = 7}\nseconds_per_image = 2'
    edge = read_tiers(write(tmp_path, PAIR.replace("steps = 4", more, 1)))["edge"]
    # Then its own size, a larger one and the listed one cost what is written, a part of a unit counts whole
    assert edge.price(1) == 101
    assert edge.price(2, width=1000, height=1000) == 2 * (100 + 12)
    assert edge.price(3, width=512, height=512) == 3 * 7
    # And it takes time in proportion to its pixels; a tier that says nothing of time has no answer
    assert edge.seconds(3, width=128) == 3 * 2 * 2
    assert read_tiers(write(tmp_path, PAIR))["cloud"].seconds(1) is None


@given(
    fixed=st.integers(0, 10**6), added=st.integers(0, 10**6), n=st.integers(1, 16), steps=st.integers(1, 100)
)
def test_a_price_is_a_whole_number_never_below_the_exact_one_and_by_less_than_one_a_picture_above(
    fixed: int, added: int, n: int, steps: int
) -> None:
    tier = replace(
        read_tiers(packaged("pocket"))["edge"],
        micro_usd_per_image=fixed,
        micro_usd_per_megapixel_step=added,
        steps=steps,
    )
    price = tier.price(n, width=72, height=40)
    exact = n * (fixed + Fraction(added * 72 * 40 * steps, 10**6))
    assert exact <= price < exact + n


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


def test_the_pair_is_routed_or_every_tier_that_is_named(tmp_path: Path) -> None:
    three = PAIR + TIER.format(name="mid", kind="cloud")
    pair = '[routing]\ncloud = "cloud"\n'
    assert read_tiers(write(tmp_path, pair + three)).routed == ("edge", "cloud")
    named = pair + 'tiers = ["cloud", "mid", "edge"]\n'
    assert read_tiers(write(tmp_path, named + three)).routed == ("edge", "mid", "cloud")


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
        ('predicter = "pocket"', "unknown key 'predicter'; known: edge, cloud, tiers, predictor"),
        ('tiers = ["edge", "fog", "cloud"]', "no tier 'fog'; known: edge, cloud"),
        ('tiers = ["edge"]', "must name 'edge' and 'cloud' too"),
        ('tiers = ["edge", "edge", "cloud"]', "list of different names"),
        ('tiers = "edge"', "list of different names"),
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
        ("steps = 4", "steps = 4.0", "must be a whole number"),
        ("steps = 4", "steps = true", "must be a whole number"),
        ("width = 64", "width = 60", "multiple of 8"),
        ('kind = "edge"', 'kind = "fog"', "edge, cloud or http"),
        ("guidance = 1", "guidance = nan", "from 0 to 50"),
        ("steps = 4", 'steps = 4\ndtype = "float8"', "float32"),
        ("steps = 4", 'steps = 4\nspeed = "fast"', "unknown key 'speed'"),
        ("steps = 4", 'steps = 4\nqueue = "cloud"', "share queue"),
        ("steps = 4", 'steps = 4\nqueue = "a b"', "may hold"),
        ("pocket:edge", "./nowhere", "does not exist"),
        ("pocket:edge", "no slash", "OWNER/NAME"),
        ("steps = 4", "steps = 4\nmicro_usd_per_megapixel_step = -1", "from 0 to"),
        ("steps = 4", "steps = 4\nseconds_per_image = 0", "above 0"),
        ("steps = 4", "steps = 4\nmax_backlog = 0", "max_backlog = 0 must be from 1 to"),
        ("steps = 4", "steps = 4\nmax_backlog = 1.5", "whole number"),
        ("steps = 4", 'steps = 4\nprices = {"big" = 4}', "'big' is no size"),
        ("steps = 4", 'steps = 4\nprices = {"64x64" = 0.5}', "whole number from 0"),
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


HTTP = """
[tier.cloud]
kind = "http"
endpoint = "https://api.example.com/v1/"
model = "gpt-image-1"
idempotent = false
width = 1024
height = 1024
micro_usd_per_image = 70000
prices = { "1024x1536" = 66000 }
"""


def test_the_packaged_paid_tier_is_complete() -> None:
    cloud = read_tiers(packaged("pocket-openai"))["cloud"]
    assert cloud.kind is TierKind.CLOUD
    assert cloud.endpoint == "https://api.openai.com/v1"
    assert cloud.parameters["quality"] == "medium"
    assert not cloud.idempotent
    assert cloud.price(2, width=1536, height=1024) == 131_000


def test_a_paid_tier_needs_no_key_of_a_model_of_our_own(tmp_path: Path) -> None:
    cloud = read_tiers(write(tmp_path, TIER.format(name="edge", kind="edge") + HTTP))["cloud"]
    assert (cloud.kind, cloud.endpoint) == (TierKind.CLOUD, "https://api.example.com/v1")
    assert (cloud.timeout_seconds, cloud.requests_at_once, cloud.microbatch_size) == (120.0, 4, 8)
    assert (cloud.price(1), cloud.price(1, width=1024, height=1536)) == (70_000, 66_000)
    assert cloud.task_name == "routet2i.cloud.generate"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000"])
def test_plain_http_is_for_loopback(tmp_path: Path, host: str) -> None:
    text = HTTP.replace("https://api.example.com/v1/", f"http://{host}/v1")
    assert read_tiers(write(tmp_path, TIER.format(name="edge", kind="edge") + text))["cloud"].endpoint


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("https://api", "http://api", "https"),
        ("https://api.example.com/v1/", "ftp://127.0.0.1/v1", "https"),
        ("https://api", "https://me:secret@api", "neither a name"),
        ("v1/", "v1?key=secret", "neither a name"),
        ("https://api.example.com/v1/", "https:///v1", "https"),
        ("https://api.example.com/v1/", "https://api:port/v1", "is no address"),
        ("idempotent = false", "", "needs idempotent"),
        ("idempotent = false", 'idempotent = "no"', "true or false"),
        ("idempotent = false", "idempotent = false\nsteps = 4", "unknown key 'steps'"),
        ("idempotent = false", "idempotent = false\ntimeout_seconds = 0", "from 1 to 600"),
        ("idempotent = false", "idempotent = false\nrequests_at_once = 65", "from 1 to 64"),
        ("idempotent = false", "idempotent = false\nparameters = { n = 2 }", "leave it out"),
        ("idempotent = false", "idempotent = false\nparameters = { x = [1] }", "must be a text"),
        ("gpt-image-1", "gpt image", "provider's name"),
    ],
)
def test_a_wrong_value_of_a_paid_tier_is_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = TIER.format(name="edge", kind="edge") + HTTP.replace(old, new, 1)
    with pytest.raises(TierError, match=told):
        read_tiers(write(tmp_path, text))


def test_an_edge_tier_takes_no_endpoint(tmp_path: Path) -> None:
    with pytest.raises(TierError, match="unknown key 'endpoint'"):
        read_tiers(write(tmp_path, PAIR.replace("steps = 4", 'steps = 4\nendpoint = "https://a/v1"', 1)))
