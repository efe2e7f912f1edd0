"""Seconds per picture from measurements and the tier file, and how long work takes with so many workers."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import Speed, Work
from routet2i.tiers import Tiers, packaged, read_tiers
from scheduler.cli.durations import told
from scheduler.cli.show import span
from scheduler.duration import Duration, device_seconds, duration
from scheduler.speeds import ENOUGH, Speeds

PAIR = read_tiers(packaged("pocket"))  # both of 64x64
SIDES = st.integers(8, 4096)
SECONDS = st.floats(1e-3, 1e3)


def speed(tier: str = "cloud", side: int = 64, seconds: float = 0.5, pictures: int = 100) -> Speed:
    return Speed(tier=tier, width=side, height=side, seconds=seconds, pictures=pictures)


def with_told(**seconds: float) -> Tiers:
    """The pair, with seconds per image in its file."""
    changed = {name: replace(PAIR[name], seconds_per_image=each) for name, each in seconds.items()}
    return replace(PAIR, profiles={**PAIR.profiles, **changed})


# ---------------------------------------------------------------- seconds per picture


def test_measurements_come_before_the_file_and_the_file_before_nothing() -> None:
    # Given a measured cloud and an edge that only the file knows
    speeds = Speeds.of(with_told(edge=0.1, cloud=9.0), [speed(seconds=0.5)])
    # Then each figure has its source
    assert speeds.seconds("cloud", 3, None, None) == pytest.approx(1.5)
    assert speeds.seconds("edge", 3, None, None) == pytest.approx(0.3)
    assert speeds.source("cloud") == "measured on 100 pictures"
    assert speeds.source("edge") == "as the tier file says"
    assert speeds.sources(["edge", "cloud"]) == "edge as the tier file says, cloud measured on 100 pictures"
    # And where neither says anything, nothing is known
    nothing = Speeds.of(PAIR, [])
    assert nothing.seconds("cloud", 1, None, None) is nothing.source("cloud") is None
    assert nothing.sources(["edge", "cloud"]) == "unknown"


def test_pictures_of_several_sizes_and_tiers_are_counted_together() -> None:
    speeds = Speeds.of(PAIR, [speed(), speed(side=128, pictures=20), speed("edge", pictures=3)])
    assert speeds.sources(["edge", "cloud"]) == "measured on 123 pictures"
    assert speeds.sources(["edge"]) == "measured on 3 pictures"


def test_a_size_that_was_not_measured_is_in_proportion_to_the_nearest_one() -> None:
    # Given measurements of a small and of a large size
    speeds = Speeds.of(with_told(cloud=77.0), [speed(side=64, seconds=1.0), speed(side=512, seconds=10.0)])
    # Then four times the pixels take four times as long, by the nearest of the two
    assert speeds.seconds("cloud", 1, 128, 128) == pytest.approx(4.0)
    assert speeds.seconds("cloud", 1, 1024, 1024) == pytest.approx(40.0)


def test_a_tier_that_left_the_file_is_known_by_its_measurements() -> None:
    speeds = Speeds.of(PAIR, [speed("gone", seconds=2.0)])
    assert speeds.seconds("gone", 2, 64, 64) == 4.0
    assert speeds.seconds("gone", 2, None, None) is None
    assert speeds.seconds("never", 1, 64, 64) is None


@given(
    sizes=st.lists(st.tuples(SIDES, SECONDS), min_size=1, max_size=5, unique_by=lambda one: one[0]),
    n=st.integers(1, 50),
    width=SIDES,
    height=SIDES,
)
def test_time_is_positive_and_in_proportion_to_the_pictures(
    sizes: Sequence[tuple[int, float]], n: int, width: int, height: int
) -> None:
    # Given any measurements
    speeds = Speeds.of(PAIR, [speed(side=side, seconds=seconds) for side, seconds in sizes])
    # Then any size is known, n pictures take n times as long, and a measured size is as measured
    one, many = (speeds.seconds("cloud", count, width, height) for count in (1, n))
    assert one is not None
    assert one > 0
    assert many == pytest.approx(n * one)
    for side, seconds in sizes:
        assert speeds.seconds("cloud", 1, side, side) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("measured", "pictures", "apart"),
    [(1.0, 100, False), (1.19, 100, False), (1.3, 100, True), (0.7, 100, True), (9.0, ENOUGH - 1, False)],
)
def test_a_file_that_is_off_by_more_than_a_fifth_is_told(measured: float, pictures: int, apart: bool) -> None:
    # Given a tier file that says one second
    speeds = Speeds.of(with_told(cloud=1.0), [speed(seconds=measured, pictures=pictures)])
    # Then it is told, with what to type, if enough pictures took another time
    found = speeds.disagreements()
    assert bool(found) == apart
    for one in found:
        assert one.sentence("tiers.toml") == (
            f"a picture of tier cloud took {measured} s (measured on 100 pictures), tiers.toml says 1"
        )
        assert one.remedy == f"write seconds_per_image = {measured} under [tier.cloud]"


def test_another_size_than_the_tiers_own_contradicts_nobody() -> None:
    assert Speeds.of(with_told(cloud=1.0), [speed(side=128, seconds=50.0)]).disagreements() == ()


# ---------------------------------------------------------------- how long work takes


def test_the_slowest_tier_decides_and_workers_share_its_work() -> None:
    found = duration({"edge": 30.0, "cloud": 200.0, "mid": 0.0}, live={"edge": 1, "cloud": 4})
    assert found == Duration(seconds=50.0, workers={"edge": 1, "cloud": 4}, absent=(), unknown=())


def test_a_tier_without_a_worker_is_reckoned_with_one_and_named() -> None:
    found = duration({"edge": 30.0, "cloud": None}, live={})
    assert found == Duration(
        seconds=30.0, workers={"edge": 1, "cloud": 1}, absent=("edge", "cloud"), unknown=("cloud",)
    )
    assert duration({"cloud": None}, live={}).seconds is None
    assert duration({}, live={}).seconds == 0.0


def test_work_without_a_tier_is_split_as_expected() -> None:
    # Given decided and undecided pictures
    speeds = Speeds.of(PAIR, [speed("edge", seconds=1.0), speed(seconds=10.0)])
    work = [
        Work(tier="cloud", width=64, height=64, pictures=2),
        Work(tier=None, width=None, height=None, pictures=8),
    ]
    # Then three quarters of the undecided ones are the edge's
    assert device_seconds(work, speeds=speeds, split={"edge": 0.75, "cloud": 0.25}) == {
        "edge": 6.0,
        "cloud": 40.0,
    }
    # And one tier that nobody knows makes only itself unknown
    half = Speeds.of(PAIR, [speed(seconds=10.0)])
    assert device_seconds(work, speeds=half, split={"edge": 0.75, "cloud": 0.25}) == {
        "edge": None,
        "cloud": 40.0,
    }


@given(
    device=st.dictionaries(st.sampled_from(["edge", "mid", "cloud"]), st.floats(0, 1e6)),
    live=st.dictionaries(st.sampled_from(["edge", "mid", "cloud"]), st.integers(0, 9)),
)
def test_another_worker_never_makes_it_longer(device: dict[str, float], live: dict[str, int]) -> None:
    now = duration(device, live=live).seconds
    assert now is not None
    for tier in device:
        later = duration(device, live={**live, tier: live.get(tier, 0) + 1}).seconds
        assert later is not None
        assert later <= now


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (7200, "2 h"), (2e5, "2 days")],
)
def test_a_time_is_as_coarse_as_it_is_known(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_a_duration_says_workers_and_source() -> None:
    speeds = Speeds.of(PAIR, [speed("edge", seconds=1.0, pictures=12), speed(seconds=10.0, pictures=400)])
    both = {"edge": 60.0, "cloud": 180.0}
    assert told(duration(both, live={"edge": 1, "cloud": 1}), speeds=speeds) == (
        "about 3 min with 1 edge and 1 cloud worker (measured on 412 pictures)"
    )
    assert told(duration(both, live={"edge": 1, "cloud": 2}), speeds=speeds) == (
        "about 2 min with 1 edge and 2 cloud workers (measured on 412 pictures)"
    )
    assert "cloud worker, once alive (" in told(duration(both, live={}), speeds=speeds)
    assert "cloud worker, once edge is alive (" in told(duration(both, live={"cloud": 1}), speeds=speeds)
    # And what nobody knows is said
    assert told(duration({"edge": 60.0, "cloud": None}, live={"edge": 1, "cloud": 1}), speeds=speeds) == (
        "at least 60 s with 1 edge and 1 cloud worker (measured on 12 pictures); "
        "nobody knows how long a picture takes on tier cloud"
    )
    assert told(duration({"cloud": None}, live={}), speeds=speeds).startswith("-, as nobody knows")
