"""Harm done through the doors of users: hostile lines, a giant prompt, a cancellation for every picture.

Each function strikes once and returns its wounds. It knows prompt files and the verbs on batches.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from random import Random

from sqlalchemy import text

from db.repository import Repository
from db.session import make_engine, reading
from routet2i.errors import ServiceUnavailable
from scheduler.cli.exits import Exit
from tests.chaos.world import World
from tests.chaos.wounds import Wound, now_ms
from tests.hostile.mutations import hostile_input

HOSTILE_INPUTS = 40
GOOD = b'{"prompt":"a red circle"}'
GIANT_BYTES = 100_000_000
RACE_JOBS = 1000
RACE_SECONDS = 150.0
AT_ONCE = 4  # cancellations between two looks at what is drawn just now
HANDS = 4
LOOK_SECONDS = 0.01  # pause where nothing is drawn just now


def hostile_lines(world: World, draw: Random) -> Sequence[Wound]:
    """F18: hostile lines among the others' work: each becomes a job or is rejected with reason and remedy."""
    since = now_ms()
    seed = draw.randrange(10**9)
    inputs = [hostile_input("prompts.jsonl", seed=seed, number=number) for number in range(HOSTILE_INPUTS)]
    path = world.load.new_path()
    path.write_bytes(b"\n".join([GOOD, *inputs, b""]))
    batch = world.load.send(path, None, jobs=None)
    if batch is None:
        return []
    content = path.read_bytes().split(b"\n")
    lines = sum(1 for line in content if line.decode("utf-8", "replace").strip())  # blank as Unicode has it
    _require(world, batch, lines=lines)
    return [Wound(since_ms=since, signs=("window",))]


def giant_prompt(world: World, draw: Random) -> Sequence[Wound]:
    """F14: a prompt of 100 MB between two others; its line is rejected, theirs are not."""
    since = now_ms()
    path = world.load.new_path()
    with path.open("wb") as file:
        file.write(GOOD + b'\n{"prompt":"')
        for _ in range(100):
            file.write(b"x" * (GIANT_BYTES // 100))
        file.write(b'"}\n' + GOOD + b"\n")
    for _ in range(20):
        said = world.cli("submit", str(path))
        if said.returncode != Exit.UNAVAILABLE:
            break
        world.wait(0.5)
    path.unlink()
    if "Traceback" in said.stderr:
        world.load.promised.errors.append(f"a giant prompt: {said.returncode}: {said.stderr[-300:]}")
    if said.returncode == Exit.UNAVAILABLE:
        return []
    batch = next((line.split()[1] for line in said.stdout.splitlines() if line.startswith("batch ")), None)
    if batch is None:
        world.load.promised.errors.append(f"a giant prompt: {said.returncode}: {said.stderr[-300:]}")
        return []
    full = world.repository.resolve_batch(batch)
    world.load.promised.batches[full] = 2
    _require(world, full, lines=3)
    return [Wound(since_ms=since, signs=("window",))]


def _require(world: World, batch: str, *, lines: int) -> None:
    """Make sure that every line of a file is accounted for."""
    with reading(world.engine) as connection:
        told = connection.execute(
            text(
                """SELECT n_accepted, n_rejected,
                    (SELECT count(*) FROM rejected r WHERE r.batch_id = batch.id
                        AND r.reason <> '' AND r.remedy <> '') AS explained FROM batch WHERE id = :id"""
            ),
            {"id": batch},
        ).one()
    if told.n_accepted + told.explained != lines or told.n_rejected != told.explained:
        world.load.promised.errors.append(
            f"batch {batch}: {lines} lines, {told.n_accepted} accepted, {told.n_rejected} rejected, "
            f"{told.explained} of them with reason and remedy"
        )


def cancel_race(world: World, draw: Random) -> Sequence[Wound]:
    """F17: a thousand jobs that take no time, each cancelled while it is drawn and recorded."""
    since = now_ms()
    world.hands.set("quick", True)
    batch = world.load.submit(jobs=RACE_JOBS, cancellable=True)
    asked: list[int] = []
    until = time.monotonic() + RACE_SECONDS

    def race() -> None:
        engine = make_engine(world.settings.database)
        repository = Repository(engine)
        asked_here = 0
        while time.monotonic() < until and not world.ended.is_set():
            with contextlib.suppress(ServiceUnavailable):
                drawn, left = _drawn(repository, batch or "")
                if not left:
                    break
                for job in drawn:
                    repository.cancel_job(job)
                    asked_here += 1
                if not drawn:
                    world.wait(LOOK_SECONDS)
        asked.append(asked_here)
        engine.dispose()

    hands = [threading.Thread(target=race) for _ in range(HANDS)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    world.hands.set("quick", False)
    print(f"  {sum(asked)} cancellations of jobs that were being drawn", file=sys.stderr)
    return [Wound(since_ms=since, signs=("outcome",))]


def _drawn(repository: Repository, batch: str) -> tuple[Sequence[str], int]:
    """Return a few jobs of a batch that a worker holds, and how many of the batch have no outcome."""
    with reading(repository.engine) as connection:
        left = connection.scalar(
            text("SELECT count(*) FROM job WHERE batch_id = :id AND state <> 'done'"), {"id": batch}
        )
        drawn = connection.execute(
            text(
                """SELECT j.id FROM job j JOIN microbatch m ON m.id = j.microbatch_id
                    WHERE j.batch_id = :id AND j.state = 'assigned' AND m.state = 'claimed' LIMIT :limit"""
            ),
            {"id": batch, "limit": AT_ONCE},
        ).scalars()
        return list(drawn), int(left or 0)
