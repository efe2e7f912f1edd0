"""Side by side: the same prompts as plain Celery tasks, acknowledged late, under SIGKILLs and broker losses.

It starts a broker and workers as a run does, publishes one message per prompt, strikes with F1a, F1b, F2, F4a
and F4b, and counts what was never drawn and what was drawn twice. It knows nothing of our stack but the crew.
"""

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

import redis

from routet2i.figures import Figure, as_table, read_report, write_report
from scheduler.broker import prepare
from tests.chaos.crew import Crew, Member
from tests.chaos.world import ROOT, pick

PART = "bare Celery"
WORKERS = 4
PICTURE_SECONDS = 0.15
STRIKES = 12
PAUSE_SECONDS = 1.5
QUIET_SECONDS = 30.0  # without a new picture: whatever is missing now never comes


def main(*, jobs: int, seed: int, as_json: bool, report: Path | None) -> int:
    """Measure, print, write; always 0: nothing is promised here."""
    counted = measure(jobs=jobs, seed=seed)
    told = f"{jobs} prompts, {STRIKES} faults of F1, F2 and F4, broker without persistence"
    rows = [
        Figure(
            figure=f"{PART}, acks_late, visibility timeout 10 s: {name}",
            value=counted[name],
            unit=f"of {told}",
            baseline="",
            target="",
            holds=None,
            command="python -m tests.chaos --bare",
        )
        for name in ("never drawn", "drawn twice")
    ]
    print(json.dumps(counted) if as_json else as_table(rows))
    if report is not None:
        before = read_report(report) if report.exists() else []
        write_report(report, [row for row in before if not row.figure.startswith(PART)] + rows)
    return 0


def measure(*, jobs: int, seed: int) -> dict[str, float]:
    """Return how many prompts were never drawn and how many more than once."""
    draw = Random(f"bare/{seed}")
    with tempfile.TemporaryDirectory(prefix="routet2i-bare-") as name:
        home = Path(name)
        done = home / "done"
        done.touch()
        prepared = prepare(home / "run")
        os.environ["BARE_BROKER_URL"] = prepared.url
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BARE_DONE": str(done),
            "CHAOS_PICTURE_SECONDS": str(PICTURE_SECONDS),
        }
        crew = Crew(home / "log")
        try:
            broker = crew.add(
                Member("broker", lambda _: prepared.command, environment=environment, cwd=home / "run")
            )
            workers = [_worker(crew, number, environment) for number in range(1, WORKERS + 1)]
            publisher = threading.Thread(target=_publish, args=(jobs, STRIKES * PAUSE_SECONDS), daemon=True)
            time.sleep(8)  # workers start
            publisher.start()
            for _ in range(STRIKES):
                time.sleep(draw.expovariate(1 / PAUSE_SECONDS))
                _strike(draw, broker, workers, prepared.url)
            publisher.join()
            _wait_for_quiet(done, jobs)
        finally:
            crew.close()
        counts = Counter(done.read_text().split())
    return {
        "prompts": jobs,
        "never drawn": jobs - len(counts),
        "drawn twice": sum(1 for times in counts.values() if times > 1),
    }


def _worker(crew: Crew, number: int, environment: dict[str, str]) -> Member:
    return crew.add(
        Member(
            f"bare-{number}",
            lambda start: [
                *(sys.executable, "-m", "celery", "-A", "tests.chaos.bare_task", "worker", "-c", "1"),
                *("-n", f"bare-{number}.{start}@chaos", "--without-gossip", "--without-mingle"),
            ],
            environment=environment,
        )
    )


def _publish(jobs: int, seconds: float) -> None:
    from tests.chaos.bare_task import TASK, app

    began = time.monotonic()
    for number in range(jobs):
        time.sleep(max(0.0, began + number * seconds / jobs - time.monotonic()))
        while True:  # as a careful client does
            try:
                app.send_task(TASK, args=(number,), retry=False)
                break
            except Exception:
                time.sleep(0.2)


def _strike(draw: Random, broker: Member, workers: list[Member], url: str) -> None:
    kind = draw.choice(("child", "main", "stopped", "broker", "flush"))
    worker = pick(draw, workers)
    if kind == "child":
        for child in worker.children():
            with contextlib.suppress(Exception):
                child.kill()
    elif kind == "main":
        worker.signal(9)
    elif kind == "stopped":
        worker.signal(19)
        time.sleep(1.0)
        worker.signal(9)
    elif kind == "broker":
        broker.signal(9)
    else:
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url) as client:
            client.flushall()


def _wait_for_quiet(done: Path, jobs: int) -> None:
    size, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        if done.stat().st_size != size:
            size, since = done.stat().st_size, time.monotonic()
            if len(set(done.read_text().split())) == jobs:
                return
        time.sleep(0.5)
