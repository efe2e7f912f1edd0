"""From a database with pairs of pictures to a table of drift and to what a predictor learns from."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from db.repository import Repository
from db.session import make_engine
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler.cli import make_app
from scheduler.cli.exits import Exit
from scheduler.predictor.interface import PromptLength
from scheduler.predictor.lesson import check_size
from scheduler.rated_pairs import rated_pairs
from scheduler.service import run_window
from scheduler.submit import submit_file

TIERS = read_tiers(packaged("pocket"))
METRICS = Settings().read_metrics()
COLOURS = ("red", "green", "blue", "white", "black", "yellow")
SHAPES = ("circle", "square", "star", "ring")


@pytest.fixture
def cli(tmp_path):
    """Run a command in a home with a database."""
    runner = CliRunner()

    def run(*arguments):
        return runner.invoke(make_app(), ["--home", str(tmp_path / "home"), *arguments])

    assert run("db", "upgrade").exit_code == 0
    return run


@pytest.fixture
def repository(cli, tmp_path):
    """The verbs on the commands' database."""
    engine = make_engine(f"sqlite+pysqlite:///{tmp_path / 'home' / 'routet2i.db'}")
    yield Repository(engine)
    engine.dispose()


def draw_pairs(repository, shop_of, tmp_path, *, prompts):
    """Submit prompts, shadow them all, and let workers draw: the more words, the worse the edge's picture."""
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{prompt}\n" for prompt in prompts))
    settings = Settings(shadow_share=1.0, shadow_budget_micro_usd=100_000_000)
    submit_file(repository, file, tiers=TIERS, settings=settings, budget_micro_usd=None)
    run_window(repository, PromptLength(), tiers=TIERS, settings=settings, term=None)
    shop, rng = shop_of(repository), np.random.default_rng(0)
    for tier in ("edge", "cloud"):
        while claim := repository.poll(tier=tier, worker=f"w-{tier}", lease_seconds=45):
            outcomes = [_outcome(shop, job, tier=tier, rng=rng) for job in claim.jobs]
            assert repository.record(claim, outcomes)
            assert repository.finish(claim)


def _outcome(shop, job, *, tier, rng):
    level = 0.7 if tier == "cloud" else 0.9 - 0.03 * len(job.prompt.split())
    scores = {name: float(np.clip(level + rng.normal(0, 0.02), 0, 1)) for name in METRICS.weights}
    plain = shop.outcome(job)
    return replace(
        plain,
        model_id=TIERS[tier].model,
        pictures=tuple(replace(picture, scores=scores) for picture in plain.pictures),
    )


def scenes(count):
    """Prompts of two to fourteen words, no two alike."""
    rng = np.random.default_rng(1)
    return [
        " and ".join(
            f"{n} {COLOURS[rng.integers(6)]} {SHAPES[rng.integers(4)]}" for _ in range(1 + rng.integers(4))
        )
        for n in range(count)
    ]


def test_without_pairs_both_commands_say_how_they_come_about(cli):
    drift, train = cli("predictor", "drift"), cli("predictor", "train", "--from-audit")
    assert (drift.exit_code, train.exit_code) == (0, Exit.USAGE)
    assert "ROUTET2I_SHADOW_SHARE" in drift.output
    assert "ROUTET2I_SHADOW_SHARE" in train.stderr


@pytest.mark.parametrize("other", [["table.csv"], ["--tiers", "edge,cloud"]])
def test_an_audit_and_a_table_are_not_learnt_at_once(cli, other):
    refused = cli("predictor", "train", "--from-audit", *other)
    assert refused.exit_code == Exit.USAGE
    assert "--from-audit" in refused.stderr


def test_drift_is_told_per_version_and_window_with_its_rule(cli, repository, shop_of, tmp_path):
    # Given pairs that a rule of thumb decided
    draw_pairs(repository, shop_of, tmp_path, prompts=scenes(60))
    # When drift is asked for
    told, printed = cli("predictor", "drift"), cli("predictor", "drift", "--json")
    # Then people see means, interval and rule
    assert told.exit_code == 0
    for word in ("prompt_length 1", "calibration error", "rank correlation", "drift alarm", "95 % interval"):
        assert word in told.output.replace("DRIFT ALARM", "drift alarm")
    assert "constants fitted on these pairs" in told.output
    # And programs get numbers: the longer a prompt, the worse the edge, as the rule says
    (version,) = json.loads(printed.stdout)["versions"]
    assert (version["name"], version["version"]) == ("prompt_length", "1")
    assert [window["pairs"] for window in version["drift"]["windows"]] == [60]
    assert version["drift"]["spearman"] > 0.8
    assert isinstance(version["drift"]["alarm"], bool)


def test_pairs_of_the_database_are_a_rated_set_for_training(repository, shop_of, tmp_path):
    # Given pairs of sixty prompts, some of which come twice
    prompts = scenes(60)
    draw_pairs(repository, shop_of, tmp_path, prompts=prompts + [f"{prompt} " for prompt in prompts[:5]])
    # When they are read for training
    rated = rated_pairs(repository.shadow_pairs(), tiers=TIERS, weights=METRICS.weights)
    # Then every prompt has all metrics of both tiers once, and is large enough to learn from
    check_size(rated)
    assert set(rated.prompts) == set(prompts)
    assert rated.labels.scores.shape == (60, 2, len(METRICS.weights))
    assert (rated.name, rated.dropped) == ("audit", 0)
    # And the scores are those of the right tier: only the edge's fall with the number of words
    words = [len(prompt.split()) for prompt in rated.prompts]
    means = rated.labels.scores.mean(axis=2)
    assert np.corrcoef(words, means[:, 0])[0, 1] < -0.9
    assert abs(np.corrcoef(words, means[:, 1])[0, 1]) < 0.5
