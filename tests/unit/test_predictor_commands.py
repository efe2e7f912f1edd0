"""`predictor train`, `evaluate`, `explain` and `score` with a tiny real encoder, and what they refuse."""

import csv
import io
import json
import re
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from scheduler.cli import make_app
from scheduler.cli.exits import Exit
from scheduler.cli.predictor_explain import bar, show, verdict, write_page
from scheduler.cli.show import console
from scheduler.predictor.artefact import read_artefact
from tests.vocabulary import WORDS

METRICS = ("detail", "colour")
TABLE = ("prompt", "group", "tier", "metric", "value")
HOSTILE = '<script>alert("x")</script> & [bold]red star'


def prompts_of(count, *, seed):
    rng = np.random.default_rng(seed)
    drawn = (" ".join(rng.choice(WORDS, size=rng.integers(3, 8), replace=False)) for _ in range(3 * count))
    return list(dict.fromkeys(drawn))[:count]


def write_table(path, prompts, *, seed=0, chance=False, tiers=("cloud", "edge")):
    """Scores that fall on the edge tier with "star" and rise with "cube"; by chance alone, if so asked."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(TABLE)
        for prompt in prompts:
            hard = ("star" in prompt.split()) - ("cube" in prompt.split())
            for tier in tiers:
                for metric in METRICS:
                    value = 0.6 if tier == tiers[0] else 0.5 - 0.3 * hard * (not chance)
                    writer.writerow(
                        [prompt, "", tier, metric, float(np.clip(value + rng.normal(0, 0.05), 0, 1))]
                    )
    return path


def routet2i(home, *arguments, text=None):
    return CliRunner().invoke(make_app(), ["--home", str(home), *map(str, arguments)], input=text)


@pytest.fixture(scope="module")
def school(tmp_path_factory, bert_folder):
    """A home in which a predictor was trained: folder, home, what was printed."""
    folder = tmp_path_factory.mktemp("school")
    table = write_table(folder / "my ratings.csv", prompts_of(120, seed=1))
    with table.open("a") as file:
        file.write("a lonely ring,,edge,detail,0.5\n")
    done = routet2i(
        folder / "home",
        "predictor",
        "train",
        table,
        "--encoder",
        bert_folder,
        "--output",
        folder / "mine",
        "--json",
    )
    assert done.exit_code == 0, done.output
    return folder, folder / "home", json.loads(done.stdout)


def test_training_registers_a_version_and_says_what_it_is_worth(school):
    _, home, told = school
    # Given a predictor trained on a rule about two words
    # Then its own figures, on held-out prompts, have intervals and are high
    share = told["figures"]["routet2i"]["oracle_share"]
    assert share["low"] < share["value"] < share["high"]
    assert share["value"] > 0.6
    assert told["beats_shuffled"]
    assert set(told["figures"]) == {"routet2i", "ridge", "noun_count", "prompt_length"}
    assert told["figures"]["noun_count"]["calibration_error"]["value"] is None
    # And it learnt from whole prompts, edge first by the tier file's price, by equal weights
    assert (told["prompts"], told["left_out"]) == (120, 1)
    assert told["tiers"] == ["edge", "cloud"]
    assert told["weights"] == {"detail": 0.5, "colour": 0.5}
    # And the registry has it under the table's name
    (row,) = [
        one
        for one in json.loads(routet2i(home, "predictor", "list", "--json").stdout)
        if one["prompts"] == 120
    ]
    assert (row["version"], row["name"], row["live"]) == (told["version"], "my-ratings", False)
    assert row["figures"]["oracle_share"] == share["value"]


def test_the_folder_holds_artefact_card_and_plot(school):
    folder, _, told = school
    # Given the folder of --output
    # Then the artefact is whole and names the models of the tier file
    artefact = read_artefact(folder / "mine")
    assert artefact.version == told["version"]
    assert artefact.content["models"] == {"edge": "pocket:edge", "cloud": "pocket:cloud"}
    # And the card has the figures, and the plot is a picture
    card = (folder / "mine" / "README.md").read_text()
    assert f"{told['figures']['routet2i']['oracle_share']['value']:.3f}" in card
    assert "beats the cost-matched shuffle" in card
    assert (folder / "mine" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("of", ["folder", "version", "name"])
def test_scores_are_printed_without_drawing_anything(school, of):
    folder, home, told = school
    # Given prompts that need quotes, and a bad line between them
    file = folder / "prompts.jsonl"
    prompts = ['a "red" star, big', "=a blue cube", "a\nring"]
    lines = [json.dumps({"prompt": prompt}) for prompt in prompts]
    file.write_text("\n".join([lines[0], '{"prompt": 7}', *lines[1:]]))
    # When they are scored by any name of the predictor
    name = {"folder": folder / "mine", "version": told["version"], "name": "my-ratings"}[of]
    scored = routet2i(home, "predictor", "score", file, "--predictor", name)
    # Then the CSV has every prompt, behind an apostrophe where a sheet would run it, and all predictions
    rows = list(csv.DictReader(io.StringIO(scored.stdout, newline=""), strict=True))
    assert [row["prompt"] for row in rows] == [prompts[0], f"'{prompts[1]}", prompts[2]]
    parts = ("d", "edge", "cloud")
    assert list(rows[0]) == ["prompt", "prs", *(f"{part}_{metric}" for part in parts for metric in METRICS)]
    for row in rows:
        assert float(row["prs"]) == pytest.approx((float(row["d_detail"]) + float(row["d_colour"])) / 2)
    # And the bad line is reported apart, with the exit code of `submit`
    assert "line 2: prompt = 7 is not text" in scored.stderr
    assert scored.exit_code == Exit.REJECTED


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_has_the_same_rows_as_csv(school, form, tmp_path):
    folder, home, _ = school
    # Given more prompts than are asked about at once
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(prompts_of(300, seed=5)))
    ask = ("predictor", "score", file, "--predictor", folder / "mine")
    # When they are scored as CSV and as JSON
    table = list(csv.DictReader(io.StringIO(routet2i(home, *ask).stdout)))
    done = routet2i(home, *ask, "--format", form, "--output", tmp_path / "scored")
    # Then both say the same
    text = (tmp_path / "scored").read_text()
    rows = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
    assert (done.exit_code, done.stdout) == (0, "")
    assert [{key: str(value) for key, value in row.items()} for row in rows] == table
    assert len(rows) == 300


def test_a_rule_scores_without_database_and_without_prompts(tmp_path):
    # Given no home, and a file in which nothing is a prompt
    (tmp_path / "prompts.txt").write_text("a red star\n")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    # When a rule scores them
    good = routet2i(
        tmp_path / "home", "predictor", "score", tmp_path / "prompts.txt", "--predictor", "prompt_length"
    )
    bad = routet2i(
        *(tmp_path / "home", "predictor", "score", tmp_path / "bad.jsonl"),
        *("--predictor", "random", "--format", "json"),
    )
    # Then there is a PRS and nothing else, or no row at all
    assert good.stdout.splitlines()[0] == '"prompt","prs"'
    assert good.stdout.splitlines()[1].startswith('"a red star","0.4')
    assert (json.loads(bad.stdout), bad.exit_code) == ([], Exit.REJECTED)
    assert not (tmp_path / "home").exists()


def test_a_predictor_is_measured_on_a_table_it_has_not_seen(school, tmp_path):
    folder, home, told = school
    # Given a table of other prompts
    table = write_table(tmp_path / "new.csv", prompts_of(150, seed=9), seed=4)
    # When the predictor is measured on it, for people and for programs
    shown = routet2i(home, "predictor", "evaluate", "my-ratings", "--ratings", table)
    found = json.loads(
        routet2i(home, "predictor", "evaluate", folder / "mine", "--ratings", table, "--json").stdout
    )
    # Then it stands beside rules and random, and beats them
    figures = {router: values["oracle_share"]["value"] for router, values in found["figures"].items()}
    assert set(figures) == {str(folder / "mine"), "noun_count", "prompt_length", "random"}
    assert figures[str(folder / "mine")] > 0.6 > max(figures["noun_count"], figures["prompt_length"])
    assert figures["random"] == pytest.approx(0.0, abs=1e-9)
    assert (found["version"], found["beats_shuffled"]) == (told["version"], True)
    assert not found["trained_on_this_table"]
    assert "share of oracle gain at 50 %" in shown.output
    assert "my-ratings" in shown.output


def test_figures_on_the_training_table_are_called_flattering(school):
    folder, home, _ = school
    # When a predictor is measured on the table it was trained on
    shown = routet2i(home, "predictor", "evaluate", "my-ratings", "--ratings", folder / "my ratings.csv")
    # Then it says so
    assert "trained on this very table" in shown.output


def test_rules_can_be_measured_and_tiers_chosen(tmp_path):
    # Given a table whose tiers no tier file knows, the better one first
    table = write_table(tmp_path / "other.csv", prompts_of(60, seed=2), tiers=("large", "light"))
    # When a rule is measured on it
    by_score = routet2i(tmp_path / "home", "predictor", "evaluate", "random", "--ratings", table)
    as_told = routet2i(
        tmp_path / "home", "predictor", "evaluate", "random", "--ratings", table, "--tiers", "large,light"
    )
    # Then the weaker one is taken for the cheaper one, if nobody says otherwise
    assert "edge is light, cloud is large" in by_score.output
    assert "edge is large, cloud is light" in as_told.output


def test_an_explanation_names_words_and_where_they_pull(school):
    _, home, told = school
    # When a prompt with both words of the rule is explained
    done = routet2i(
        home, "predictor", "explain", "a big Star above a snowman cube", "--predictor", "my-ratings"
    )
    # Then the star pulls to the cloud, the cube to the edge, and pieces are one word
    assert done.exit_code == 0, done.output
    cloud, edge = (re.search(f"towards {tier} (.*)", done.output)[1] for tier in ("cloud", "edge "))
    assert "Star -" in cloud
    assert "cube +" in edge
    assert "snowman" in cloud + edge
    assert "\x1b[" not in done.output
    assert f"routet2i {told['version']}" in done.output
    assert all(metric in done.output for metric in METRICS)


def test_an_explanation_in_json_adds_up(school):
    _, home, _ = school
    # When a prompt is explained for programs
    done = routet2i(home, "predictor", "explain", "a red star", "--predictor", "my-ratings", "--json")
    told = json.loads(done.stdout)
    # Then weights times D are the PRS, shares are shares, and spans are the prompt's
    assert sum(one["weight"] * one["d"] for one in told["metrics"]) == pytest.approx(told["prs"])
    for one in told["metrics"]:
        assert sum(word["share"] for word in one["looks_at"]) == pytest.approx(1.0)
    assert [told["prompt"][one["start"] : one["end"]] for one in told["words"]] == ["a", "red", "star"]
    assert max(one["strength"] for one in told["words"]) <= 1


def test_an_artefact_whose_experts_select_no_words_has_no_column_for_them(school, tmp_path, capsys):
    _, home, _ = school
    # Given an explanation, and the same one of a network that selects no words
    done = routet2i(home, "predictor", "explain", "a red star", "--predictor", "my-ratings", "--json")
    told = {**json.loads(done.stdout), "predictor": "routet2i"}
    bare = {**told, "metrics": [{**one, "looks_at": []} for one in told["metrics"]]}
    for given, has in ((told, True), (bare, False)):
        # When it is shown and written
        show(given, out=console())
        page = tmp_path / f"{has}.html"
        write_page(given, page)
        # Then only the first has the column
        assert ("its expert looks at" in capsys.readouterr().out) == has
        assert ("its expert looks at" in page.read_text()) == has


def test_a_hostile_prompt_is_escaped_in_the_page_and_harmless_on_the_terminal(school, tmp_path):
    _, home, _ = school
    # When a prompt full of markup is explained
    page = tmp_path / "why.html"
    done = routet2i(home, "predictor", "explain", HOSTILE, "--predictor", "my-ratings", "--html", page)
    # Then the terminal shows it as it is; the page holds no element of it and asks for nothing from anywhere
    text = page.read_text()
    assert HOSTILE in done.output
    assert "<script" not in text
    assert "&lt;" in text
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("prompt", ["", "  ", "red\x1b[2Jstar", "a" * 2001])
def test_what_submit_would_refuse_is_not_explained(school, prompt):
    _, home, _ = school
    refused = routet2i(home, "predictor", "explain", prompt, "--predictor", "my-ratings")
    assert refused.exit_code == Exit.USAGE
    assert refused.stderr.startswith("error: ")


def test_a_rule_has_nothing_to_explain(tmp_path):
    refused = routet2i(tmp_path / "home", "predictor", "explain", "a star", "--predictor", "noun_count")
    assert refused.exit_code == Exit.USAGE
    assert "--predictor" in refused.stderr


def test_a_predictor_no_better_than_chance_is_told_loudly(tmp_path, bert_folder):
    # Given scores that have nothing to do with the prompts
    table = write_table(tmp_path / "chance.csv", prompts_of(60, seed=3), seed=1, chance=True)
    # When a predictor is trained on them
    done = routet2i(tmp_path / "home", "predictor", "train", "--ratings", table, "--encoder", bert_folder)
    # Then it says so, and does not say how to promote it
    assert done.exit_code == 0, done.output
    assert "DOES NOT BEAT" in done.output
    assert "do not use it" in done.output
    assert "promote" not in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one table"),
        (("few.csv",), "at least 50"),
        (("t.csv", "--ratings", "t.csv"), "name one table"),
        (("none.csv",), "cannot read"),
        (("t.csv", "--name", "live"), "means something else"),
        (("t.csv", "--tiers", "edge"), "at least two"),
        (("t.csv", "--profile", "aligned"), "needs metric 'definition'"),
        (("t.csv", "--profile", "mine"), "no profile 'mine'"),
        (("t.csv", "--weight", "detail"), "METRIC=NUMBER"),
        (("t.csv", "--weight", "speed=1"), "no metric 'speed'"),
        (("t.csv", "--weight", "detail=0"), "above 0"),
        (("t.csv", "--start", "noun_count"), "no weights to go on from"),
        (("same.csv",), "equal scores"),
        (("t.csv", "--output", "t.csv"), "name another --output"),
    ],
)
def test_what_cannot_be_trained_on_says_why(tmp_path, monkeypatch, arguments, message):
    # Given tables: good, too short, without differences
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.csv", prompts_of(60, seed=2))
    write_table(tmp_path / "few.csv", prompts_of(49, seed=2))
    rows = "".join(
        f"{prompt},,{tier},detail,0.5\n" for prompt in prompts_of(60, seed=2) for tier in ("x", "y")
    )
    (tmp_path / "same.csv").write_text(",".join(TABLE) + "\n" + rows)
    # When training is asked for what cannot be
    refused = routet2i(tmp_path / "home", "predictor", "train", *arguments)
    # Then one line says why
    assert refused.exit_code == Exit.USAGE, refused.output
    assert message in refused.stderr


def test_weights_decide_which_metric_counts(tmp_path, bert_folder):
    # Given a table, and a weight for one of its metrics
    table = write_table(tmp_path / "t.csv", prompts_of(60, seed=2))
    # When it is trained on, from a predictor with the same encoder
    first = routet2i(
        *(tmp_path / "home", "predictor", "train", table, "--encoder", bert_folder, "--json"),
        *("--weight", "detail=3", "--name", "first"),
    )
    again = routet2i(
        tmp_path / "home", "predictor", "train", table, "--start", "first", "--json", "--name", "second"
    )
    # Then only that one counts; the encoder of the first is used, and the second is another version
    assert json.loads(first.stdout)["weights"] == {"detail": 1.0, "colour": 0.0}
    assert json.loads(again.stdout)["encoder"] == str(bert_folder)
    assert json.loads(again.stdout)["version"] != json.loads(first.stdout)["version"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "t.csv"),
        ("explain", "a star", "--predictor", "mine"),
        ("score", "p.txt", "--predictor", "mine"),
    ],
)
def test_without_torch_the_command_says_what_to_install(school, tmp_path, monkeypatch, arguments):
    folder, _, _ = school
    # Given a machine without torch
    monkeypatch.chdir(folder)
    write_table(folder / "t.csv", prompts_of(60, seed=2))
    (folder / "p.txt").write_text("a star\n")
    for name in [*sys.modules]:
        if name.startswith("scheduler.predictor.") and hasattr(sys.modules[name], "torch"):
            monkeypatch.delitem(sys.modules, name)
            package, _, module = name.rpartition(".")
            monkeypatch.delattr(sys.modules[package], module, raising=False)
    for name in ("scheduler.predictor.lesson", "scheduler.predictor.card", "scheduler.predictor.routet2i"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    # When a command needs it
    refused = routet2i(tmp_path / "home", "predictor", *arguments)
    # Then one line tells the remedy
    assert refused.exit_code == Exit.MODELS, refused.output
    assert "pip install 'routet2i[models]'" in refused.stderr


@pytest.mark.parametrize(
    ("d", "drawn"),
    [(0.0, "██████│      "), (0.5, "      │      "), (0.75, "      │███   "), (1.0, "      │██████")],
)
def test_bars_grow_from_the_middle(d, drawn):
    assert bar(d).plain == drawn


@pytest.mark.parametrize(("prs", "word"), [(0.2, "cloud"), (0.5, "both"), (0.8, "edge")])
def test_the_verdict_names_the_better_tier(prs, word):
    assert word in verdict(prs)
