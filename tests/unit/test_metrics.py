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
    assert metrics.weights["detail"] == pytest.approx(0.05)
    assert metrics.weights["alignment"] == pytest.approx(0.5)
    assert metrics.sha256 == hashlib.sha256(packaged("metrics").read_bytes()).hexdigest()


def test_weights_sum_to_one_with_alignment_among_them(tmp_path: Path) -> None:
    metrics = read_metrics(write(tmp_path, "[alignment]\nweight = 3\n" + PAIR))
    assert metrics.weights == {"detail": 0.25, "alignment": 0.75}


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
        (PAIR + "weight = -1", "weight = -1"),
        (PAIR + "weight = true", "weight = True"),
        (PAIR + "weight = nan", "weight = nan"),
        (PAIR + "weight = 0", "every weight is 0"),
        ("scale = 0\n" + PAIR, "scale = 0"),
        ("alignment = 1\n" + PAIR, r"\[alignment\]"),
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
