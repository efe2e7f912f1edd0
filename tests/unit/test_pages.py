"""Shapes, words and numbers of the pages; and that templates and style sheet keep the house's rules."""

import io
import itertools
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from routet2i.errors import UsageError
from scheduler.api.headers import HEADERS
from scheduler.api.pages import charts, rendering
from scheduler.api.pages.amounts import micro_usd
from scheduler.api.pages.door import local
from scheduler.api.pages.thumbnails import SIDE, Thumbnails

API = Path(__file__).parents[2] / "scheduler" / "api"


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0, 1e6), max_size=6))
def test_a_stacked_bar_is_gapless_and_never_wider_than_itself(amounts: dict[str, float]) -> None:
    # When a bar is made of any amounts
    parts = charts.stacked(amounts)
    # Then its pieces follow each other and end within it
    for one, following in itertools.pairwise(parts):
        assert following.start == pytest.approx(one.start + one.width, abs=0.01)
    assert not parts or parts[-1].start + parts[-1].width <= 100.01


@given(st.lists(st.floats(-1, 2), min_size=3, max_size=12))
def test_a_radars_corners_lie_within_its_rim(values: list[float]) -> None:
    names = [f"m{number}" for number in range(len(values))]
    found = charts.radar(names, {"own": dict(zip(names, values, strict=True))})
    assert found is not None
    for (x, y), value in zip(found.dots["own"], values, strict=True):
        assert math.hypot(x, y) == pytest.approx(100 * min(1, max(0, value)), abs=0.02)


def test_two_scores_enclose_nothing() -> None:
    assert charts.radar(["a", "b"], {"own": {"a": 1.0}}) is None


def test_a_line_goes_from_left_to_right_with_the_greatest_on_top() -> None:
    assert charts.line([0, 2, 1], width=10, height=4) == "0,4 5,0 10,2"
    assert charts.line([], width=10, height=4) == ""
    assert charts.line([0, 0], width=10, height=4) == "0,4 10,4"


@pytest.mark.parametrize(
    ("told", "shown"),
    [(None, "no limit"), (0, "$0.00"), (65, "$0.000065"), (9_000, "$0.0090"), (13_280_000, "$13.28")],
)
def test_money_is_told_so_that_small_amounts_are_seen(told: int | None, shown: str) -> None:
    assert rendering.money(told) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "0 %"), (0.001, "<1 %"), (0.5, "50 %"), (0.9999, ">99 %"), (1, "100 %")]
)
def test_a_share_looks_like_all_or_nothing_only_if_it_is(share: float, shown: str) -> None:
    assert rendering.percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (0.42, "0.4 s"), (59, "59 s"), (3600, "1 h"), (10_740, "2 h 59 min")]
)
def test_a_time_has_two_units_at_most(seconds: float, shown: str) -> None:
    assert rendering.span(seconds) == shown


def test_ages_are_told_in_words() -> None:
    now = datetime.now(UTC)
    assert rendering.ago(now) == "just now"
    assert rendering.ago(now - timedelta(minutes=12)) == "12 min ago"
    assert rendering.ago(now - timedelta(days=3)) == "3 days ago"


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "", "/a\nb"])
def test_nobody_is_sent_to_another_site_after_signing_in(target: str) -> None:
    assert local(target) == "/"
    assert local("/batches/1?text=a") == "/batches/1?text=a"


@pytest.mark.parametrize("text", ["x", "-1", "1e400", "0.0000001", "nan"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write e\.g\. 2\.50"):
        micro_usd(text)


def test_an_amount_is_exact() -> None:
    assert micro_usd(" $2.50 ") == 2_500_000
    assert micro_usd("") is None


def test_templates_hold_no_inline_style_or_script_which_the_policy_would_forbid() -> None:
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    for path in API.glob("templates/*.j2"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:", text), path.name
        assert re.findall(r"<script(?![^>]*\ssrc=)", text) == [], path.name
        assert "|safe" not in text, path.name
        assert not re.search(r"(src|href)=\"https?:", text), path.name


def test_the_dark_theme_is_the_same_by_system_and_by_choice() -> None:
    sheet = (API / "static" / "pages.css").read_text(encoding="utf-8")
    by_system = re.search(r"not\(\[data-theme=light\]\) \{(.*?)\}", sheet, re.DOTALL)
    by_choice = re.search(r"root\[data-theme=dark\] \{(.*?)\}", sheet, re.DOTALL)
    assert by_system is not None
    assert by_choice is not None
    assert by_system[1].split() == by_choice[1].split()


def test_a_small_copy_is_made_once_and_a_small_picture_is_served_as_it_is() -> None:
    # Given a large and a small picture
    copies = Thumbnails()
    large, small = (_png(side) for side in (1024, 64))
    # When both are asked for, the large one twice
    made, kind = copies.of("large", large)
    # Then the large one was made smaller once, and the small one is itself
    assert (kind, max(Image.open(io.BytesIO(made)).size)) == ("image/webp", SIDE)
    assert copies.of("large", b"not read again")[0] == made
    assert copies.of("small", small) == (small, "image/png")


def _png(side: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (side, side), "navy").save(data, "PNG")
    return data.getvalue()
