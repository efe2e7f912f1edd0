import hashlib
from pathlib import Path

import pytest

from routet2i.errors import MetricError
from routet2i.metrics import read_metrics
from routet2i.tiers import packaged

PAIR = '[[metric]]\nname = "detail"\npositive = "Highly detailed photo"\nnegative = "Photo lacking detail"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "metrics.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_packaged_file_has_the_ten_of_the_paper_in_order_and_alignment_as_heavy_as_they() -> None:
    metrics = read_metrics(packaged("metrics"))
    assert metrics.names == (
        *("definition", "detail", "clarity", "sharpness", "harmony"),
        *("realism", "color", "consistency", "layout", "integrity", "alignment"),
    )
    assert (metrics.metrics[0].positive, metrics.metrics[0].negative) == (
        "High definition photo",
        "Low definition photo",
    )
    assert metrics.scale == 100.0
    assert metrics.profile == "aligned"
    assert metrics.weights["detail"] == pytest.approx(0.05)
    assert metrics.weights["alignment"] == pytest.approx(0.5)
    assert metrics.profiles["paper"]["detail"] == pytest.approx(0.1)
    assert metrics.profiles["paper"]["alignment"] == 0
    assert metrics.sha256 == hashlib.sha256(packaged("metrics").read_bytes()).hexdigest()


def test_each_profile_sums_to_one_and_the_first_decides_unless_one_is_named(tmp_path: Path) -> None:
    profiles = "[profiles.both]\ndetail = 1\nalignment = 3\n[profiles.picture]\ndetail = 2\n"
    both = {"detail": 0.25, "alignment": 0.75}
    assert read_metrics(write(tmp_path, PAIR + profiles)).weights == both
    named = read_metrics(write(tmp_path, 'profile = "picture"\n' + PAIR + profiles))
    assert named.weights == {"detail": 1.0, "alignment": 0.0}
    assert named.profiles["both"] == both


def test_without_profiles_all_pairs_of_texts_weigh_alike(tmp_path: Path) -> None:
    metrics = read_metrics(write(tmp_path, PAIR + PAIR.replace('"detail"', '"clarity"', 1)))
    assert metrics.weights == {"detail": 0.5, "clarity": 0.5, "alignment": 0.0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no metric"),
        ("[[metric", "not valid TOML"),
        ("metric = 3", "no metric"),
        ("metric = [3]", "must be a table"),
        ("speed = 1\n" + PAIR, "unknown key 'speed'"),
        (PAIR + PAIR, "twice"),
        (PAIR + "colour = 1", "unknown key 'colour'"),
        (PAIR + "[profiles.a]\ndetail = -1", r"\[profiles.a\] detail = -1"),
        (PAIR + "[profiles.a]\ndetail = true", "detail = True"),
        (PAIR + "[profiles.a]\ndetail = nan", "detail = nan"),
        (PAIR + "[profiles.a]\ndetail = 0", "every weight is 0"),
        (PAIR + "[profiles.a]\nspeed = 1", "'speed' is no metric"),
        (PAIR + "[profiles.A]\ndetail = 1", r"\[profiles.A\]"),
        (PAIR + "[profiles]\na = 1", r"\[profiles.a\] must be a table"),
        ("profiles = 1\n" + PAIR, "at least one table"),
        ('profile = "b"\n' + PAIR + "[profiles.a]\ndetail = 1", "profile = 'b' is none of"),
        ("scale = 0\n" + PAIR, "scale = 0"),
        (PAIR.replace("detail", "Detail", 1), "name = 'Detail'"),
        (PAIR.replace('"detail"', '"alignment"'), "alignment"),
        (PAIR.replace("Photo lacking detail", ""), "negative = ''"),
        (PAIR.replace("Photo lacking detail", "Highly detailed photo"), "the same text"),
    ],
)
def test_a_wrong_file_is_refused_with_the_value_and_what_to_write(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(MetricError, match=told):
        read_metrics(write(tmp_path, text))


def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="ROUTET2I_METRICS"):
        read_metrics(tmp_path / "none.toml")
