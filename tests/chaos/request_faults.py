"""Harm done through the doors: messages nobody sent, files submitted twice, cancellations, questions.

Each function strikes once and returns its wounds. It knows the message format and the command line.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from kombu import Connection, Producer
from sqlalchemy import text

from db.repository import Repository
from db.session import make_engine, reading, upgrade
from routet2i.celery_app import make_celery
from routet2i.contracts import new_id
from routet2i.errors import RouteT2IError
from scheduler.cli.exits import Exit
from tests.chaos.world import World
from tests.chaos.wounds import Wound, now_ms

COPIES = 100
HANDS = 8
SUBMIT_FAILPOINTS = ("mid_ingest", "after_ingest_commit")


def submit_failpoint(world: World, draw: Random) -> Sequence[Wound]:
    """F1: the command dies while it writes; typed again, it ends with the same batch, whole."""
    jobs = 20
    path, _ = world.load.write(jobs=jobs)
    arguments = ("submit", str(path))
    died = world.cli(
        *arguments, ROUTET2I_TESTING="1", ROUTET2I_FAILPOINT=f"{draw.choice(SUBMIT_FAILPOINTS)}:1"
    )
    for _ in range(20):
        again = world.cli(*arguments)
        if again.returncode != Exit.UNAVAILABLE:
            break
        world.wait(0.5)
    if again.returncode != Exit.OK:
        world.load.promised.errors.append(f"submit after a crash: {again.returncode}: {again.stderr[-200:]}")
        return []
    if died.returncode not in (9, Exit.UNAVAILABLE):
        world.load.promised.errors.append(
            f"a failpoint was not reached: {died.returncode}: {died.stderr[-200:]}"
        )
    batch = next(line.split()[1] for line in again.stdout.splitlines() if line.startswith("batch "))
    full = world.repository.resolve_batch(batch)
    world.load.promised.batches[full] = jobs
    return [Wound(since_ms=now_ms(), signs=("window",))]


def _known(world: World) -> list[tuple[str, str]]:
    """Return (microbatch, tier) of a few in every state."""
    with reading(world.engine) as connection:
        return [
            (row.id, row.tier)
            for state in ("done", "claimed", "sent", "ready", "split", "dead")
            for row in connection.execute(
                text("SELECT id, tier FROM microbatch WHERE state = :state ORDER BY id DESC LIMIT 4"),
                {"state": state},
            )
        ]


def _send(world: World, messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Publish (tier, keyword arguments) as anybody could who knows the broker's password."""
    app = make_celery(world.settings, profile=None)
    tiers = world.settings.read_tiers()
    with contextlib.suppress(Exception):  # a broker that is down takes nothing: that is its right
        for tier, message in messages:
            app.send_task(tiers[tier].task_name, kwargs=message, queue=tiers[tier].queue, retry=False)
    app.close()


def hostile_messages(world: World, draw: Random) -> Sequence[Wound]:
    """F11: duplicates, ids that do not exist, wrong types, ten megabytes, and pickle."""
    since = now_ms()
    known = [(tier, {"v": 1, "microbatch_id": one}) for one, tier in _known(world)]
    other = {"edge": "cloud", "cloud": "edge"}
    _send(world, [(other[tier], message) for tier, message in known])  # to another tier's workers
    if known:
        _send(world, [draw.choice(known) for _ in range(COPIES)])
    _send(
        world,
        [
            ("edge", {"v": 1, "microbatch_id": new_id()}),
            ("edge", {"v": 1, "microbatch_id": "not an id"}),
            ("cloud", {"v": 1, "microbatch_id": {"$ne": None}}),
            ("cloud", {}),
            ("edge", {"v": True, "microbatch_id": new_id()}),
            ("edge", {"v": 1, "microbatch_id": "x" * 10_000_000}),
            ("cloud", {"v": 1, "microbatch_id": new_id(), "more": 1}),
        ],
    )
    tiers = world.settings.read_tiers()
    with contextlib.suppress(Exception), Connection(world.broker_url) as connection:
        prefix = f"routet2i:{world.settings.deployment}:"
        connection.transport_options = {"global_keyprefix": prefix}
        producer = Producer(connection.channel(), routing_key=tiers["edge"].queue)
        for body, content_type, encoding in (
            (
                b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
                "application/x-python-serialize",
                "binary",
            ),
            (secrets.token_bytes(200), "application/json", "utf-8"),
            *((body, "application/json", "utf-8") for body in (b"{}", b"[]", b"5", b"null", b'"x"')),
            (b"[1, 2, 3]", "application/json", "utf-8"),
            (b'[[1], {"a": 1}, {}]', "application/json", "utf-8"),
        ):
            producer.publish(
                body,
                content_type=content_type,
                content_encoding=encoding,
                headers={"task": tiers["edge"].task_name, "id": new_id(), "lang": "py"},
            )
    return [Wound(since_ms=since, signs=("outcome",))]


def other_version(world: World, draw: Random) -> Sequence[Wound]:
    """F16: messages of the future and of the past; and the schema is brought up to date under load."""
    since = now_ms()
    _send(
        world,
        [
            (tier, {"v": version, "microbatch_id": one})
            for one, tier in _known(world)
            for version in (0, 2, 99)
        ],
    )
    with contextlib.suppress(RouteT2IError):
        upgrade(world.database.direct)
    return [Wound(since_ms=since, signs=("outcome",))]


def same_file(world: World, draw: Random) -> Sequence[Wound]:
    """F13: many hands submit one file at once; there is one batch."""
    jobs = 20
    path, budget = world.load.write(jobs=jobs)
    since = now_ms()
    found: set[str | None] = set()
    hands = [
        threading.Thread(target=lambda: found.add(world.load.send(path, budget, jobs=jobs)))
        for _ in range(HANDS)
    ]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    if len(found - {None}) > 1:
        world.load.promised.errors.append(f"one file became {len(found)} batches")
    return [Wound(since_ms=since, signs=("window",))]


def poison(world: World, draw: Random) -> Sequence[Wound]:
    """F14: one more job that kills whoever draws it, or that nobody can draw, among healthy ones."""
    world.load.submit(jobs=12, poison=(draw.choice(("kill", "exit", "segfault", "recursion")),))
    return []


def cancel_storm(world: World, draw: Random) -> Sequence[Wound]:
    """F17: a whole batch, and the jobs of another, each by several hands while workers finish them."""
    since = now_ms()
    batches = [world.load.submit(jobs=24, cancellable=True) for _ in range(2)]
    world.wait(draw.uniform(0.2, 2.0))
    with reading(world.engine) as connection:
        jobs = [
            row.id
            for row in connection.execute(
                text("SELECT id FROM job WHERE batch_id = :id"), {"id": batches[1] or ""}
            )
        ]

    def cancel(seed: int) -> None:
        engine = make_engine(world.settings.database)
        repository = Repository(engine)
        mine = list(jobs)
        Random(seed).shuffle(mine)
        with contextlib.suppress(RouteT2IError):
            if batches[0] is not None:
                repository.cancel_batch(batches[0])
            for job in mine[: len(mine) // 2]:
                repository.cancel_job(job)
        engine.dispose()

    hands = [threading.Thread(target=cancel, args=(draw.randrange(10**9),)) for _ in range(HANDS)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    return [Wound(since_ms=since, signs=("outcome",))]


def inspect_storm(world: World, draw: Random) -> Sequence[Wound]:
    """F19: monitors that ask too much."""
    since = now_ms()
    until = time.monotonic() + 3.0

    def ask() -> None:
        app = make_celery(world.settings, profile=None)
        with contextlib.suppress(Exception):
            while time.monotonic() < until:
                looking = app.control.inspect(timeout=0.3)
                looking.active()
                looking.stats()
        app.close()

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    return [Wound(since_ms=since, signs=("outcome",))]
