"""Collecting: what is drawn, what is skipped, what goes on after a fault."""

import pytest

from routet2i.contracts import GenerationRequest
from routet2i.errors import GenerationFailed
from routet2i.fakes import FakeGenerator, FakeScorer
from routet2i.tiers import packaged, read_tiers
from scheduler.collection import draw, plan, sample
from scheduler.ratings import Ratings

METRICS = ("detail", "colour")
TIERS = read_tiers(packaged("pocket"))
SCORER = FakeScorer(METRICS)


class Moody(FakeGenerator):
    """Draws nothing for prompts with "poison", and is interrupted before its n-th group."""

    def __init__(self, *, groups=1000):
        super().__init__()
        self._groups = groups

    def generate(self, requests):
        if len(self.calls) == self._groups:
            raise KeyboardInterrupt
        made = super().generate(requests)
        return [
            GenerationFailed("too hard") if "poison" in one.prompt else picture
            for one, picture in zip(requests, made, strict=True)
        ]


def lines(prompts):
    return [
        GenerationRequest(line_no=n, custom_id=str(n), prompt=prompt, seed=n)
        for n, prompt in enumerate(prompts, 1)
    ]


def run(path, prompts, *, generator=None, log=None):
    table = Ratings(path)
    work = plan(sample(lines(prompts), limit=None, seed=0), tiers=TIERS, metrics=METRICS, table=table)
    return draw(
        work,
        load=lambda profile: generator or FakeGenerator(),
        scorer=SCORER,
        table=table,
        progress=lambda tier, pictures: None if log is None else log.append((tier, pictures)),
    )


def test_every_prompt_is_drawn_once_on_every_tier(tmp_path):
    # Given prompts, one of them twice
    log = []
    # When they are drawn
    run(tmp_path / "r.csv", ["a", "b", "a"], log=log)
    # Then each tier drew the two, and the table lacks nothing
    assert log == [("edge", 2), ("cloud", 2)]
    table = Ratings(tmp_path / "r.csv")
    assert not any(table.lacks(prompt, tier, metrics=METRICS) for prompt in "ab" for tier in TIERS.profiles)


def test_a_larger_sample_keeps_all_of_a_smaller_one():
    # Given one file
    requests = lines([f"prompt {k}" for k in range(50)])
    # When samples of it are drawn
    small, large = (sample(requests, limit=limit, seed=3) for limit in (10, 30))
    # Then they are nested, in file order, and another seed draws others
    assert len(small) == 10
    assert set(small) <= set(large)
    assert [one.seed for one in large] == sorted(one.seed for one in large)
    assert sample(requests, limit=10, seed=4) != small


def test_what_interrupts_costs_one_microbatch_and_the_rest_is_not_drawn_again(tmp_path):
    # Given a run that is interrupted in its third group of the edge tier
    prompts = [f"prompt {k}" for k in range(2 * TIERS["edge"].microbatch_size + 5)]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.csv", prompts, generator=Moody(groups=2))
    # When it runs again
    log = []
    run(tmp_path / "cut.csv", prompts, log=log)
    # Then only the rest is drawn, and the table is that of a run that nothing stopped
    assert sum(pictures for tier, pictures in log if tier == "edge") == 5
    run(tmp_path / "whole.csv", prompts)
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_picture_that_cannot_be_made_stops_nothing_but_itself(tmp_path):
    # Given a prompt that no tier can draw
    prompts = ["a", "poison", "b"]
    # When all are drawn
    undrawn = run(tmp_path / "r.csv", prompts, generator=Moody())
    # Then it is named for each tier, and its neighbours are in the table
    assert [(one.prompt, one.tier) for one in undrawn] == [("poison", "edge"), ("poison", "cloud")]
    assert "too hard" in undrawn[0].error
    table = Ratings(tmp_path / "r.csv")
    assert not table.lacks("b", "cloud", metrics=METRICS)
    assert table.lacks("poison", "edge", metrics=METRICS)


def test_a_table_that_lacks_nothing_loads_no_model(tmp_path):
    # Given a complete table
    run(tmp_path / "r.csv", ["a"])

    def refuse(profile):
        raise AssertionError(profile.name)

    # When it is gone on with
    table = Ratings(tmp_path / "r.csv")
    work = plan(sample(lines(["a"]), limit=None, seed=0), tiers=TIERS, metrics=METRICS, table=table)
    # Then no model is asked for, and nothing costs anything
    assert draw(work, load=refuse, scorer=SCORER, table=table, progress=lambda *_: None) == []
    assert sum(one.micro_usd for one in work) == 0
