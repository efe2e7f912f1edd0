"""A worker that is killed in the middle of a batch changes nothing that can be seen in the rows."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine

from db.audit import batch_status, check_invariants, rows
from db.repository import Repository
from routet2i.contracts import JobState
from scheduler.shadows import is_drawn
from tests.e2e.conftest import Home, wait_for

JOBS = 320  # seconds of work for fakes: enough to be in the middle of it
LASTING = ("custom_id", "tier", "state", "prompt", "seed", "image_sha256", "cost_charged_usd", "q_detail")


def submit(home: Home, file: Path, *, key: str) -> str:
    """Submit a file and return its batch's id."""
    submitted = home.routet2i("submit", str(file), "--key", key)
    assert submitted.returncode == 0, submitted.stderr
    return next(line.split()[1] for line in submitted.stdout.splitlines() if line.startswith("batch "))


def lasting(engine: Engine, batch_id: str) -> list[tuple[Any, ...]]:
    """Return what of a batch's rows must not depend on who rendered them when."""
    return [tuple(row[name] for name in LASTING) for row in rows(engine, batch_id=batch_id)]


def freeze_in_the_middle(home: Home, engine: Engine, batch_id: str) -> psutil.Process:
    """Stop the edge worker while it holds a claim, and return its main process."""

    def tried() -> psutil.Process | None:
        main = psutil.Process(home.stack()["processes"]["worker-edge"])
        group = [main, *main.children(recursive=True)]
        for process in group:
            process.suspend()
        if any(rows(engine, batch_id=batch_id, tier="edge", state=JobState.RUNNING)):
            return main
        for process in group:
            process.resume()
        return None

    return wait_for(tried, seconds=60, what="the edge worker holds a claim")


def test_a_killed_worker_is_replaced_and_the_batch_ends_with_the_same_rows(
    fresh_home: Callable[..., Home], tmp_path: Path
) -> None:
    # Given a stack in the middle of a batch, a fifth of which both tiers draw
    home = fresh_home(
        lease_seconds="2",
        resend_seconds="10",
        microbatch_jobs="32",
        predictor="random",
        shadow_share="0.2",
        shadow_budget_micro_usd="100000000",
    ).start()
    engine = home.engine()
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{number} red circles\n" for number in range(JOBS)))
    batch_id = submit(home, file, key="disturbed")
    worker = freeze_in_the_middle(home, engine, batch_id)
    assert not batch_status(engine, batch_id).complete
    # When its edge worker is killed while it renders
    os.kill(worker.pid, signal.SIGKILL)
    # Then another one is started, and the batch ends
    wait_for(
        lambda: home.stack()["processes"].get("worker-edge") not in (None, worker.pid),
        seconds=60,
        what="another worker is started",
    )
    wait_for(lambda: batch_status(engine, batch_id).complete, seconds=120, what="the batch is complete")
    disturbed = lasting(engine, batch_id)
    assert len(disturbed) == JOBS
    assert {row[2] for row in disturbed} == {"succeeded"}
    assert any(row["attempts"] > 1 for row in rows(engine, batch_id=batch_id))
    # And its rows are those of a batch that nobody disturbed
    calm = submit(home, file, key="calm")
    wait_for(lambda: batch_status(engine, calm).complete, seconds=120, what="the calm batch is complete")
    assert disturbed == lasting(engine, calm)
    # And every job that was to be drawn twice was: neither more nor less
    repository = Repository(engine)
    wait_for(
        lambda: not any(repository.shadow_spending(one).unfinished for one in (batch_id, calm)),
        seconds=120,
        what="the shadows are drawn",
    )
    for one in (batch_id, calm):
        pairs = repository.shadow_pairs(batch_id=one)
        drawn = {row["job_id"] for row in rows(engine, batch_id=one) if is_drawn(row["job_id"], share=0.2)}
        assert {pair.job_id for pair in pairs} == drawn
        assert len(pairs) == len(drawn) > 0
    assert check_invariants(engine) == []
    engine.dispose()
