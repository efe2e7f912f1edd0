"""Jobs per second through submit, window, queue and outcome; and what waiting jobs cost the broker.

The generator does nothing and returns one ready-made picture, so that only our own machinery is measured.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from db import audit
from routet2i.figures import Figure
from routet2i.pocket.world import sample_prompts
from routet2i.tiers import packaged
from scheduler.submit import submit_file
from tests.bench import bare
from tests.bench.stack import Stack, stack, wait_until

MICROBATCH = 256  # jobs per message: a generator that costs nothing deserves large ones
BUDGET_SHARE = 0.5  # of the way from all-edge to all-cloud


def queue_figures(home: Path, *, jobs: int, command: str) -> Iterator[Figure]:
    """Measure our side and both baselines on brokers of one kind, and yield a ratio per baseline."""
    home.mkdir(parents=True)
    file = write_prompts(home / "prompts.jsonl", jobs)
    with stack(home / "home", **bench_settings(home)) as running:
        running.add_workers()
        running.add_scheduler()
        _through(running, write_prompts(home / "warm.jsonl", 2 * MICROBATCH))  # first tasks, caches
        ours = jobs / _through(running, file)
    baselines = ((True, "our delivery settings", 10), (False, "Celery's fastest settings", None))
    for safe, told, target in baselines:
        with stack(home / f"bare-{safe}") as running:
            theirs = jobs / _bare(running, file, safe=safe)
        yield Figure(
            figure=f"jobs/s, submit to outcome, no-op generator ({jobs} jobs, {MICROBATCH} a message)",
            value=round(ours / theirs, 2),
            unit=f"times ({ours:.0f} jobs/s)",
            baseline=f"bare Celery tasks, one message each, 2 workers, {told}: {theirs:.0f} jobs/s",
            target="" if target is None else f"at least {target}",
            holds=None if target is None else ours / theirs >= target,
            command=command,
        )


def memory_figure(home: Path, *, jobs: int, command: str) -> Figure:
    """Measure the broker's memory with few and with many jobs waiting; no worker takes any."""
    home.mkdir(parents=True)
    used = {}
    for count in (jobs // 100, jobs):
        with stack(home / f"home-{count}", **bench_settings(home)) as running:
            before = running.client.info("memory")["used_memory"]
            _submit(running, write_prompts(home / f"{count}.jsonl", count))
            running.add_scheduler()
            wait_until(lambda count=count, running=running: _assigned(running) == count, what="assignment")
            wait_until(lambda running=running: running.waiting_messages() > 0, what="message")
            used[count] = running.client.info("memory")["used_memory"] - before
    few, many = used[jobs // 100], used[jobs]
    with stack(home / "bare-home") as running:
        sample = jobs // 20
        before = running.client.info("memory")["used_memory"]
        _publish_bare(running, home / f"{jobs}.jsonl", most=sample)
        theirs = (running.client.info("memory")["used_memory"] - before) * (jobs // sample)
    return Figure(
        figure=f"broker memory with {jobs} jobs waiting, beside {jobs // 100}",
        value=round(many / max(few, 1), 3),
        unit=f"times ({many} bytes beside {few})",
        baseline=f"bare Celery, one message each: {theirs} bytes (from {sample} messages)",
        target="flat: at most 1.5",
        holds=many / max(few, 1) <= 1.5,
        command=command,
    )


def bench_settings(home: Path) -> dict[str, object]:
    """Return settings for a generator that costs nothing: large windows and microbatches."""
    tiers = home / "tiers.toml"
    text = packaged("pocket").read_text(encoding="utf-8")
    tiers.write_text(text.replace("microbatch_size = 16", f"microbatch_size = {MICROBATCH}"))
    return {
        "tiers": tiers,
        "predictor": "noun_count",  # the queue is measured, not a network
        "fake_models": True,
        "fake_pictures": "same",
        "window_jobs": 4096,
        "window_seconds": 0.1,
        "microbatch_jobs": MICROBATCH,
    }


def write_prompts(path: Path, count: int) -> Path:
    """Write a JSONL file of shape-world prompts, repeated as often as needed."""
    texts = [caption.text for caption in sample_prompts(seed=1, count=min(count, 2000))]
    lines = (json.dumps({"custom_id": f"p{k}", "prompt": texts[k % len(texts)]}) for k in range(count))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _submit(running: Stack, file: Path) -> str:
    tiers = running.settings.read_tiers()
    count = sum(1 for _ in file.open())
    edge, cloud = tiers[tiers.edge].price(count), tiers[tiers.cloud].price(count)
    budget = edge + int((cloud - edge) * BUDGET_SHARE)
    submission = submit_file(
        running.repository, file, tiers=tiers, settings=running.settings, budget_micro_usd=budget
    )
    return submission.batch_id


def _through(running: Stack, file: Path) -> float:
    """Return the seconds from the submission of a file to the last outcome."""
    started = time.perf_counter()
    batch = _submit(running, file)
    wait_until(lambda: audit.batch_status(running.engine, batch).complete, what="end of the batch", pause=0.1)
    seconds = time.perf_counter() - started
    status = audit.batch_status(running.engine, batch)
    if {str(state): n for state, n in status.by_state.items() if n} != {"succeeded": status.n_accepted}:
        raise RuntimeError(f"not every job succeeded: {status.by_state}")
    return seconds


def _assigned(running: Stack) -> int:
    batch = running.repository.resolve_batch("last")
    return sum(
        n for state, n in audit.batch_status(running.engine, batch).by_state.items() if state != "queued"
    )


def _bare(running: Stack, file: Path, *, safe: bool) -> float:
    """Return the seconds that the same prompts take as plain tasks on two workers."""
    url = running.settings.broker_url.get_secret_value()
    for number in (1, 2):
        running.popen(
            [
                *(sys.executable, "-m", "celery", "-A", "tests.bench.bare", "worker", "-c", "1"),
                *("-n", f"bare-{number}@bench", "--without-gossip", "--without-mingle"),
            ],
            env={
                **running.settings.child_environment(defaults={}),
                "BARE_BROKER_URL": url,
                "BARE_SAFE": str(int(safe)),
            },
        )
    _publish_bare(running, file, most=200)
    wait_until(lambda: running.waiting_messages() == 0, what="warm-up")
    started = time.perf_counter()
    _publish_bare(running, file)
    wait_until(lambda: running.waiting_messages() == 0, what="end of the plain tasks")
    return time.perf_counter() - started


def _publish_bare(running: Stack, file: Path, *, most: int | None = None) -> None:
    with bare.app.connection_for_write(running.settings.broker_url.get_secret_value()) as connection:
        producer = connection.Producer()
        for number, line in enumerate(file.open()):
            if number == most:
                break
            row = json.loads(line)
            bare.app.send_task(bare.TASK, args=(row["custom_id"], row["prompt"], number), producer=producer)
