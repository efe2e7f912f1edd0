"""Following promotions, with a clock of our own and predictors that need no torch."""

import pytest

from routet2i.contracts import Prediction
from routet2i.errors import ModelError, ServiceUnavailable
from routet2i.tiers import packaged, read_tiers
from scheduler.predictor.interface import LIVE
from scheduler.predictor.live import LOOK_SECONDS, LivePredictor, follow

TIERS = read_tiers(packaged("pocket"))


class Named:
    """A predictor that says nothing but its version."""

    name = "named"

    def __init__(self, version):
        self.version = version

    def predict(self, prompts):
        return [Prediction(prs=0.5)] * len(prompts)


class Desk:
    """A fake registry and its loader: what is live, what is broken, and what was asked for."""

    def __init__(self, live=None):
        self.version, self.now = live, 0.0
        self.broken, self.silent = set(), False
        self.looks, self.loads = 0, []

    def live(self):
        self.looks += 1
        if self.silent:
            raise ServiceUnavailable("the database does not answer")
        return self.version

    def load(self, version):
        self.loads.append(version)
        if version in self.broken:
            raise ModelError(f"{version} is broken")
        if version == "gone":
            raise ServiceUnavailable("the database does not answer")
        return Named(version or "default")

    def clock(self):
        return self.now

    def follow(self):
        return LivePredictor(live=self.live, load=self.load, clock=self.clock)


def test_before_the_first_promotion_the_default_decides():
    assert Desk().follow().current().version == "default"


def test_a_promotion_is_followed_at_the_next_look_and_not_before():
    # Given a predictor that follows
    desk = Desk("a")
    predictor = desk.follow()
    desk.version = "b"
    # When it is asked again before and after the pause
    desk.now = LOOK_SECONDS - 0.01
    before = predictor.current().version
    desk.now = LOOK_SECONDS
    after = predictor.current().version
    # Then it looks once per pause, and loads only what is new
    assert (before, after) == ("a", "b")
    assert desk.looks == 2
    desk.now = 2 * LOOK_SECONDS
    assert predictor.current() is predictor.current()
    assert desk.loads == ["a", "b"]


def test_what_a_window_holds_stays_as_it_was():
    # Given the predictor of a window
    desk = Desk("a")
    predictor = desk.follow()
    held = predictor.current()
    # When another version is promoted while the window is decided
    desk.version, desk.now = "b", LOOK_SECONDS
    predictor.current()
    # Then the window's own still says its version
    assert held.version == "a"


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_and_is_tried_once(capsys):
    # Given a promoted version that is broken
    desk = Desk("a")
    predictor = desk.follow()
    desk.version, desk.broken = "b", {"b"}
    # When windows go on
    seen = []
    for look in range(1, 4):
        desk.now = look * LOOK_SECONDS
        seen.append(predictor.current().version)
    # Then the old one decides, an error was logged once, and the next good one is taken
    assert seen == ["a"] * 3
    assert desk.loads == ["a", "b"]
    logged = capsys.readouterr().out
    assert logged.count("predictor_not_loaded") == 1
    assert "b is broken" in logged
    desk.version, desk.now = "c", 4 * LOOK_SECONDS
    assert predictor.current().version == "c"


def test_going_back_to_the_version_that_still_decides_ends_the_trouble():
    # Given a broken promotion
    desk = Desk("a")
    predictor = desk.follow()
    desk.version, desk.broken, desk.now = "b", {"b"}, LOOK_SECONDS
    predictor.current()
    # When the old version is promoted again, and then one more
    desk.version, desk.now = "a", 2 * LOOK_SECONDS
    back = predictor.current().version
    desk.version, desk.now = "c", 3 * LOOK_SECONDS
    # Then both are followed
    assert (back, predictor.current().version) == ("a", "c")


def test_at_the_start_what_cannot_be_loaded_is_an_error():
    desk = Desk("a")
    desk.broken = {"a"}
    with pytest.raises(ModelError, match="a is broken"):
        desk.follow()


def test_a_silent_database_is_the_schedulers_to_wait_for():
    # Given a database that goes away, at the look and between look and load
    desk = Desk("a")
    predictor = desk.follow()
    desk.silent, desk.now = True, LOOK_SECONDS
    with pytest.raises(ServiceUnavailable):
        predictor.current()
    desk.silent, desk.version, desk.now = False, "gone", 2 * LOOK_SECONDS
    with pytest.raises(ServiceUnavailable):
        predictor.current()
    # When it is back
    desk.now = 3 * LOOK_SECONDS
    with pytest.raises(ServiceUnavailable):
        predictor.current()
    # Then the version was not given up: it is tried at each look
    assert desk.loads == ["a", "gone", "gone"]


def test_a_named_predictor_is_not_changed_by_promotions():
    # Given a registry that must not be asked
    class Silent:
        def live_predictor(self):
            raise AssertionError("nobody asked")

        def find_predictor(self, name_or_version):
            raise AssertionError("nobody asked")

    # When a rule is followed
    current = follow("constant", tiers=TIERS, registry=Silent())
    # Then it is one object for ever
    assert current() is current()
    assert current().name == "constant"


def test_live_without_promotions_is_what_the_tier_file_says(tmp_path):
    # Given a tier file that names a rule, and an empty registry
    text = packaged("pocket").read_text().replace('predictor = "pocket"', 'predictor = "prompt_length"')
    file = tmp_path / "tiers.toml"
    file.write_text(text)

    class Empty:
        def live_predictor(self):
            return None

        def find_predictor(self, name_or_version):
            raise AssertionError("nothing is there")

    # Then it is that rule
    assert follow(LIVE, tiers=read_tiers(file), registry=Empty())().name == "prompt_length"
