"""`simulate`: tables and JSON of simulated days, and what it refuses."""

import csv
import json

import pytest
from typer.testing import CliRunner

from scheduler.cli import make_app
from scheduler.cli.exits import Exit


@pytest.fixture(autouse=True)
def _light_and_coarse(monkeypatch):
    monkeypatch.setenv("ROUTET2I_PREDICTOR", "noun_count")
    monkeypatch.setenv("ROUTET2I_WINDOW_SECONDS", "20")  # 180 decisions an hour, not 2,000


def simulate(home, *arguments):
    return CliRunner().invoke(make_app(), ["--home", str(home), "simulate", *map(str, arguments)])


def test_a_day_is_told_as_a_table(tmp_path):
    # When an hour is simulated under all policies
    done = simulate(tmp_path, "--hours", 1, "--rate", 0.5)
    # Then every policy has a line, hindsight is the whole, and the workers are told
    assert done.exit_code == 0, done.output
    for name in ("ours", "pro_rata", "static_threshold", "port_dual", "greedy_first_come", "offline_lp"):
        assert name in done.stdout
    assert "poisson" in done.stdout
    assert "workers: edge=1, cloud=1" in done.stdout


def test_json_has_the_figures_of_the_policies_that_were_asked_for(tmp_path):
    # When two policies are asked for, with a budget per hour and workers given
    done = simulate(
        *(tmp_path, "--trace", "bursty", "--hours", 2, "--rate", 0.3, "--budget", "12.50"),
        *("--period", "hour", "--policy", "ours", "--policy", "all_edge"),
        *("--workers", "edge=2,cloud=4", "--seed", 7, "--json"),
    )
    # Then they are there, within the budget of two hours
    told = json.loads(done.stdout)
    assert [one["policy"] for one in told["policies"]] == ["ours", "all_edge"]
    assert told["budget_micro_usd"] == 12_500_000
    assert all(one["micro_usd"] <= 25_000_000 for one in told["policies"])
    assert told["workers"] == {"edge": 2, "cloud": 4}
    assert told["policies"][0]["gain"] > told["policies"][1]["gain"] == 0
    # And the same seed tells the same again
    again = simulate(
        *(tmp_path, "--trace", "bursty", "--hours", 2, "--rate", 0.3, "--budget", "12.50"),
        *("--period", "hour", "--policy", "ours", "--policy", "all_edge"),
        *("--workers", "edge=2", "--workers", "cloud=4", "--seed", 7, "--json"),
    )
    assert json.loads(again.stdout) == told


def test_workers_are_planned_for_a_latency(tmp_path):
    # Given so slow a cloud that one worker cannot keep up
    ask = ("--hours", 1, "--rate", 1, "--policy", "ours", "--seconds", "cloud=10", "--json")
    # When two latencies are asked for
    slow, fast = (json.loads(simulate(tmp_path, *ask, "--latency", latency).stdout) for latency in (400, 120))
    # Then the shorter one needs more workers, and both are kept
    assert 1 < slow["workers"]["cloud"] < fast["workers"]["cloud"]
    assert fast["policies"][0]["latency_p95"] <= 120


def test_a_trace_of_ones_own_is_simulated_and_its_bad_lines_are_told(tmp_path):
    # Given arrivals with prompts, one of them bad
    path = tmp_path / "mine.csv"
    path.write_text("at_seconds,prompt\n0,a red cube\n5,\n7,two blue stars behind a ring\n")
    # When they are simulated
    done = simulate(tmp_path, "--trace", path, "--policy", "ours", "--json")
    # Then the good ones are, and the exit code says that some lines were rejected
    assert done.exit_code == Exit.REJECTED
    told = json.loads(done.stdout)
    assert (told["trace"], told["jobs"], told["qualities"]) == ("mine", 2, "noun_count")
    assert "line 3: prompt is empty" in done.stderr


def test_prompts_are_drawn_from_a_table_of_ratings(tmp_path):
    # Given ratings of both tiers
    path = tmp_path / "ratings.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "tier", "metric", "value"])
        for k in range(20):
            writer.writerow([f"a cube and {k} rings", "edge", "detail", 0.4])
            writer.writerow([f"a cube and {k} rings", "cloud", "detail", 0.4 + k / 50])
    # When an hour is drawn from them
    done = simulate(tmp_path, "--ratings", path, "--hours", 1, "--rate", 0.1, "--policy", "ours", "--json")
    # Then the table is named
    assert json.loads(done.stdout)["qualities"] == "ratings"


def test_other_tiers_follow_the_law_and_need_their_seconds(tmp_path, monkeypatch):
    # Given the tier file of real models
    from routet2i.tiers import packaged

    monkeypatch.setenv("ROUTET2I_TIERS", str(packaged("turbo-sdxl")))
    ask = ("--hours", 1, "--rate", 0.1, "--policy", "ours", "--json")
    # Then nobody knows how long they take
    refused = simulate(tmp_path, *ask)
    assert refused.exit_code == Exit.USAGE
    assert "write --seconds" in refused.stderr
    # And with their seconds the law stands for the prompts
    tiers = json.loads(simulate(tmp_path, *ask, "--seconds", "edge=0.3,cloud=3").stdout)
    assert tiers["qualities"] == "law of 2 tiers"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--trace", "posson"), "no trace 'posson'; there are poisson"),
        (("--policy", "best"), "no policy 'best'; there are ours"),
        (("--workers", "gpu=2"), "no tier 'gpu'; there are edge, cloud"),
        (("--workers", "edge=two"), "write --workers edge=NUMBER"),
        (("--workers", "edge=1.5", "--workers", "cloud=1"), "write a whole number"),
        (("--seconds", "edge=0"), "write --seconds edge=NUMBER"),
        (("--latency", 0), "--latency 0"),
        (("--hours", 0), "--hours 0"),
        (("--rate", 0), "ask for 1 to 1e8 jobs"),
        (("--budget", "much"), "is no amount in dollars"),
        (("--latency", 0.5), "no number of edge workers draws 95 %"),
    ],
)
def test_wrong_options_are_refused_with_a_remedy(tmp_path, arguments, told):
    short = () if "--hours" in arguments else ("--hours", 0.2)
    done = simulate(tmp_path, *short, *arguments)
    assert done.exit_code == Exit.USAGE
    assert told in " ".join(done.stderr.split())
