"""A paid cloud tier in a whole stack: real worker processes, a provider process that misbehaves, a kill."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from db.audit import batch_status, check_invariants, rows
from routet2i.errors import UsageError
from tests.e2e.conftest import Home, wait_for
from tests.provider.bill import unmatched
from tests.provider.tier_file import TIERS

ROOT = Path(__file__).parents[2]
CANARY = "sk-canary-7f3a"
MOODS = "bill_then_500=0.05,bill_then_cut=0.05,bill_then_hang=0.03,busy=0.05,accepted=0.1,duplicate=0.05"


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Callable[..., tuple[str, Path]]]:
    """Start provider processes: `provider("--seed", "1")` returns endpoint and bill."""
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> tuple[str, Path]:
        bill = tmp_path / f"bill-{len(running)}.jsonl"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.provider", "--bill", str(bill), "--key", CANARY, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process.stdout.readline().strip(), bill

    yield start
    for process in running:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def bill_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("honours", [True, False])
def test_a_batch_on_a_misbehaving_paid_tier_ends_with_every_bill_on_record(
    fresh_home: Callable[..., Home], provider: Callable[..., tuple[str, Path]], tmp_path: Path, honours: bool
) -> None:
    # Given a stack whose cloud is a provider that loses an answer in eight and bills it
    url, bill = provider(
        "--seed", "5", "--misbehave", MOODS, "--hang-seconds", "5", *(["--honours-keys"] if honours else [])
    )
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(TIERS.format(url=url, idempotent=str(honours).lower(), timeout=2, more=""))
    home = fresh_home(
        lease_seconds="3",
        resend_seconds="10",
        microbatch_jobs="8",
        tiers=str(tiers),
        api_keys=json.dumps({"cloud": CANARY}),
    ).start()
    engine = home.engine()
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{number} red circles and {number} blue stars\n" for number in range(40)))
    submitted = home.routet2i("submit", str(file), "--budget", "1.80", "--json")
    assert submitted.returncode == 0, submitted.stderr
    batch_id = json.loads(submitted.stdout)["batch_id"]
    # When the cloud worker is killed while it buys
    wait_for(lambda: len(bill_of(bill)) > 5, seconds=90, what="pictures are bought")
    worker = psutil.Process(home.stack()["processes"]["worker-cloud"])
    for process in (*worker.children(recursive=True), worker):
        os.kill(process.pid, signal.SIGKILL)
    # Then the batch ends, within its budget, and each line of the bill has its call
    wait_for(lambda: batch_status(engine, batch_id).complete, seconds=180, what="the batch is complete")
    found = list(rows(engine, batch_id=batch_id))
    assert {row["tier"] for row in found} == {"edge", "cloud"}
    lost = [row for row in found if row["state"] != "succeeded"]
    assert len(lost) <= (0 if honours else 12)
    with engine.connect() as connection:
        why = connection.execute(text("SELECT DISTINCT error_class FROM outcome WHERE state = 'failed'"))
        assert set(why.scalars()) <= {"UnknownCharge"}
    assert sum(row["cost_charged_usd"] for row in found) <= 1.80
    assert unmatched(bill_of(bill), engine) == []
    assert check_invariants(engine) == []
    with engine.connect() as connection:
        states = dict(connection.execute(text("SELECT state, count(*) FROM call GROUP BY state")).all())
    assert "intent" not in states
    # And the provider's export says what the unknown ones have cost
    usage = tmp_path / "usage.jsonl"
    usage.write_text(bill.read_text())
    reconciled = home.routet2i("budget", "reconcile", str(usage), "--tier", "cloud", "--json")
    assert reconciled.returncode == 0, reconciled.stderr
    assert json.loads(reconciled.stdout)["unmatched"] == []
    assert check_invariants(engine) == []
    # And a paid job's story names its calls, and the key is nowhere
    paid = next(row for row in found if row["tier"] == "cloud" and row["state"] == "succeeded")
    story = home.routet2i("audit", paid["job_id"])
    assert "key routet2i-" in story.stdout
    doctor = home.routet2i("doctor")
    assert f"cloud buys at {url}" in doctor.stdout
    log = (home.path / "logs" / "stack.log").read_text(errors="replace")
    arguments = " ".join(" ".join(process.cmdline()) for process in home.processes())
    assert CANARY not in log + arguments + home.text() + story.stdout + doctor.stdout
    assert CANARY.encode() not in (home.path / "routet2i.db").read_bytes()
    engine.dispose()


def test_a_stack_without_the_key_is_refused(
    fresh_home: Callable[..., Home], provider: Callable[..., tuple[str, Path]], tmp_path: Path
) -> None:
    url, _ = provider()
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(TIERS.format(url=url, idempotent="false", timeout=2, more=""))
    refused = fresh_home(tiers=str(tiers)).routet2i("up")
    assert refused.returncode == UsageError.exit_code
    assert "no key for tier 'cloud'" in refused.stderr
    # And one that would spend real money on fakes is refused, too
    tiers.write_text(TIERS.format(url="https://api.example.com/v1", idempotent="false", timeout=2, more=""))
    refused = fresh_home(tiers=str(tiers), api_keys='{"cloud": "x"}').routet2i("up")
    assert refused.returncode == UsageError.exit_code
    assert "real money" in refused.stderr
