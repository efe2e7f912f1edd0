"""Counting nouns, fitting the table, and refusing a damaged artefact."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.errors import ModelError
from routet2i.tiers import packaged, read_tiers
from scheduler.predictor.noun_count import (
    TIE_BREAK,
    NounCount,
    count_nouns,
    fit_noun_count,
    read_artefact,
    write_artefact,
)

TIERS = read_tiers(packaged("pocket"))
PAIR = {"edge": "pocket:edge", "cloud": "pocket:cloud"}
THINGS = ("cat", "dog", "tree", "house", "boat", "lamp")


def sample(seed=0, size=400, metrics=3, fall=0.05):
    """Prompts of 1 to 6 things; the edge scores fall with the number of things, the cloud's do not."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 7, size)
    prompts = [f"a picture of {' and '.join(THINGS[:k])} number {i}" for i, k in enumerate(counts)]
    noise = rng.normal(0, 0.05, (2, size, metrics))
    q_edge = np.clip(0.7 - fall * counts[:, None] + noise[0], 0, 1)
    q_cloud = np.clip(0.6 + noise[1], 0, 1)
    return prompts, q_edge, q_cloud


def fit(prompts, q_edge, q_cloud, **changes):
    names = [f"m{i}" for i in range(q_edge.shape[1])]
    options = {"metrics": names, "weights": [1.0] * len(names), "pair": PAIR, "metrics_sha256": "0" * 64}
    return fit_noun_count(prompts, q_edge=q_edge, q_cloud=q_cloud, **(options | changes))


@pytest.mark.parametrize(
    ("prompt", "nouns"),
    [
        ("", 0),
        ("a picture of", 0),
        ("a large red circle in the top left on a white background", 1),
        ("A RED CIRCLE, a blue square; and two small stars!", 3),
        ("circle circle circle", 3),
        ("a cat's close-up", 1),
        ("ein Hund und eine Katze", 5),
        ("日本 café", 2),
        ("123 456", 0),
    ],
)
def test_words_outside_the_stop_list_are_counted(prompt, nouns):
    assert count_nouns(prompt) == nouns


def test_the_fit_falls_where_the_edge_gets_worse_with_every_thing():
    artefact = fit(*sample())
    values = [row["prs"] for row in artefact["table"]]
    assert values == sorted(values, reverse=True)
    # six things cost the edge 0.30 of quality against a noise of 0.07: the ends lie on either side of 1/2
    assert values[2] > 0.5 > values[-1]
    assert artefact["table"][-1]["scores"]["edge"]["m0"] < artefact["table"][-1]["scores"]["cloud"]["m0"]


@given(st.integers(0, 10_000), st.floats(-0.1, 0.1))
def test_the_table_never_rises_and_stays_in_range(seed, fall):
    artefact = fit(*sample(seed=seed, size=30, fall=fall))
    values = [row["prs"] for row in artefact["table"]]
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= 1 for value in values)
    assert [row["nouns"] for row in artefact["table"]] == list(range(len(values)))
    assert sum(row["n"] for row in artefact["table"]) == 30


def test_the_order_of_the_prompts_does_not_matter_and_the_version_is_of_the_content():
    prompts, q_edge, q_cloud = sample()
    one = fit(prompts, q_edge, q_cloud)
    other = fit(prompts[::-1], q_edge[::-1], q_cloud[::-1])
    assert one["version"] == other["version"]
    assert fit(prompts, q_edge, q_cloud, weights=[2.0, 1.0, 1.0])["version"] != one["version"]


def test_counts_nobody_saw_are_filled_between_their_neighbours():
    prompts = ["cat"] * 5 + ["cat dog tree"] * 5
    rng = np.random.default_rng(1)
    q_cloud = rng.uniform(0.4, 0.6, (10, 2))
    q_edge = q_cloud + np.repeat([[0.1], [-0.1]], 5, axis=0)
    table = fit(prompts, q_edge, q_cloud)["table"]
    assert [row["n"] for row in table] == [0, 5, 0, 5]
    assert table[0]["prs"] == table[1]["prs"]
    assert table[2]["prs"] == pytest.approx((table[1]["prs"] + table[3]["prs"]) / 2, abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"metrics": ["m0"]}, {"weights": [1.0]}, {"weights": [0.0, 0.0, 0.0]}, {"pair": {"edge": "x"}}],
)
def test_arguments_that_do_not_fit_together_are_refused(changes):
    with pytest.raises(ValueError, match=r"do not fit|weights|pair must name"):
        fit(*sample(), **changes)


def test_an_artefact_survives_being_written_and_read(tmp_path):
    artefact = fit(*sample())
    write_artefact(artefact, tmp_path / "a.json")
    read = read_artefact(tmp_path / "a.json")
    assert read.version == artefact["version"]
    assert [row.prs for row in read.rows] == [row["prs"] for row in artefact["table"]]
    assert read.pair == PAIR


@pytest.fixture
def predictor(tmp_path):
    write_artefact(fit(*sample()), tmp_path / "a.json")
    return NounCount(read_artefact(tmp_path / "a.json"), tiers=TIERS)


def test_more_things_never_raise_the_prs_by_more_than_the_tie_break(predictor):
    values = [one.prs for one in predictor.predict([" ".join(["cat"] * k) for k in range(60)])]
    assert all(after <= before + TIE_BREAK for before, after in pairwise(values))


def test_prompts_with_equal_counts_differ_by_less_than_the_tie_break(predictor):
    values = {one.prs for one in predictor.predict([f"cat {i}" for i in range(1000)])}
    assert len(values) > 990  # a budget can be cut almost anywhere inside one count
    assert max(values) - min(values) < TIE_BREAK


def test_the_same_prompt_always_has_the_same_prediction(predictor):
    assert predictor.predict(["cat", "cat"])[0] == predictor.predict(["cat"])[0]


def edited(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "there is no predictor artefact"),
        (lambda p: (p.unlink(), p.mkdir()), "cannot read"),
        (lambda p: p.write_text("{"), "is no noun_count artefact"),
        (lambda p: p.write_text("[]"), "is no noun_count artefact"),
        (lambda p: p.write_bytes(b"\xff"), "is no noun_count artefact"),
        (lambda p: edited(p, table=[]), "is no noun_count artefact of format 1"),
        (lambda p: edited(p, name="other"), "is no noun_count artefact of format 1"),
        (lambda p: edited(p, format=2), "is no noun_count artefact of format 1"),
        (lambda p: edited(p, table=[{"nouns": 1, "prs": 0.5, "scores": {}}]), "row 0 is for 1 nouns"),
        (
            lambda p: edited(p, table=[{"nouns": 0, "prs": 1.5, "scores": {"edge": {}, "cloud": {}}}]),
            "not in",
        ),
        (lambda p: edited(p, gamma=7.0), "changed after it was fitted"),
    ],
)
def test_a_damaged_artefact_is_refused_with_a_remedy(tmp_path, damage, message):
    path = tmp_path / "a.json"
    write_artefact(fit(*sample(size=40)), path)
    damage(path)
    with pytest.raises(ModelError, match=message) as refused:
        read_artefact(path)
    assert "fit" in str(refused.value) or "cannot read" in str(refused.value)
