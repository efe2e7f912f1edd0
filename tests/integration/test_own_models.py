"""Bring your own models: collect, train, promote, score, with fakes in the place of models."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from scheduler.cli import make_app
from scheduler.cli.exits import Exit
from scheduler.datasets import read_table
from tests.vocabulary import WORDS

DEADLINE_SECONDS = 60


@pytest.fixture
def prompts(tmp_path):
    """A file of 60 prompts."""
    rng = np.random.default_rng(0)
    path = tmp_path / "prompts.jsonl"
    texts = [" ".join(rng.choice(WORDS, size=6, replace=False)) for _ in range(60)]
    path.write_text("\n".join(json.dumps({"prompt": text}) for text in texts))
    return path


def test_three_commands_lead_from_prompts_to_a_live_predictor(tmp_path, monkeypatch, prompts, bert_folder):
    monkeypatch.setenv("ROUTET2I_FAKE_MODELS", "1")
    monkeypatch.chdir(tmp_path)

    def routet2i(*arguments):
        return CliRunner().invoke(make_app(), ["--home", "home", *map(str, arguments)])

    # Given a first part of the pictures, said and priced before it is drawn
    first = routet2i("predictor", "collect", prompts, "--output", "ratings.csv", "--limit", 20)
    assert (
        "20 prompts on 2 tiers: 40 pictures for $1.48 (edge 20 for $0.18, cloud 20 for $1.30)" in first.output
    )
    assert "next: routet2i --home home predictor train ratings.csv" in first.output
    # When the rest is collected, a predictor trained and promoted
    rest = json.loads(routet2i("predictor", "collect", prompts, "--output", "ratings.csv", "--json").stdout)
    trained = json.loads(
        routet2i(
            "predictor", "train", "ratings.csv", "--encoder", bert_folder, "--name", "mine", "--json"
        ).stdout
    )
    promoted = routet2i("predictor", "promote", trained["version"])
    # Then nothing was drawn twice, every prompt was learnt from, by the deciding profile's weights
    assert [tier["drawn"] for tier in rest["tiers"].values()] == [40, 40]
    assert len(read_table(tmp_path / "ratings.csv")) == trained["prompts"] == 60
    assert trained["weights"]["alignment"] == pytest.approx(0.5)
    # And without any option the promoted one speaks, for the deployment's own tiers
    assert promoted.exit_code == 0, promoted.output
    scored = routet2i("predictor", "score", prompts)
    rows = list(csv.DictReader(io.StringIO(scored.stdout)))
    assert scored.exit_code == 0, scored.output
    assert len(rows) == 60
    assert {"prs", "d_alignment", "edge_alignment", "cloud_alignment"} <= set(rows[0])
    assert trained["version"] in routet2i("predictor", "explain", "a red star").output


def _hear_interrupts() -> None:
    """A shell's background jobs, and what they start, ignore Ctrl-C unless they are told otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_keeps_what_is_drawn(tmp_path):
    # Given a collection that takes a while
    prompts, table = tmp_path / "prompts.txt", tmp_path / "ratings.csv"
    prompts.write_text("\n".join(f"prompt number {k}" for k in range(20_000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "scheduler.cli", "predictor", "collect", str(prompts), "--output", str(table)],
        env={**os.environ, "ROUTET2I_FAKE_MODELS": "1", "ROUTET2I_HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_interrupts,
    )
    # When it is interrupted after its first pictures
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (table.exists() and table.stat().st_size > 10_000):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=DEADLINE_SECONDS)
    # Then it says how to go on, and the table has whole rows only
    assert process.returncode == Exit.INTERRUPTED
    assert "the same command goes on" in said
    rows = list(csv.reader(io.StringIO(table.read_text(), newline=""), strict=True))
    assert {len(row) for row in rows} == {5}
    assert 10 < len(rows) < 20_000
