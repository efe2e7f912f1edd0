"""Harm done to what the stack stands on: broker, database, network, disk and clock.

Each function strikes once, heals, and returns its wounds, counted from the healing. It knows services, not
who uses them.
"""

import contextlib
import signal
import time
from collections.abc import Sequence
from random import Random

import redis
from sqlalchemy import text

from db.session import transaction
from routet2i.errors import ServiceUnavailable
from scheduler.service import TTL_SECONDS
from tests.chaos.databases import PostgresqlDatabase, SqliteDatabase
from tests.chaos.process_faults import busy
from tests.chaos.relay import Relay, State
from tests.chaos.world import World
from tests.chaos.wounds import Wound, held_jobs, now_ms

BROKER_START_SECONDS = 15.0
WINDOW_JOBS = 6
STEP_MS = 600_000


def _whole() -> list[Wound]:
    return [Wound(since_ms=now_ms(), signs=("outcome", "attempt"))]


def _postgresql(world: World) -> PostgresqlDatabase:
    assert isinstance(world.database, PostgresqlDatabase)
    return world.database


def kill_broker(world: World, draw: Random, *, cut: int = 0) -> Sequence[Wound]:
    """F4: every message and every connection is gone."""
    world.broker.stays_down = True
    world.broker.signal(signal.SIGKILL)
    world.wait(draw.uniform(0.5, 4.0))
    if cut:
        for file in (world.home / "run" / "appendonlydir").glob("*.incr.aof"):
            with file.open("r+b") as tail:
                tail.truncate(max(0, file.stat().st_size - cut))
    world.broker.stays_down = False
    deadline = time.monotonic() + BROKER_START_SECONDS
    while not world._broker_answers() and time.monotonic() < deadline:
        world.wait(0.05)
    return _whole()


def cut_tail(world: World, draw: Random) -> Sequence[Wound]:
    """F4: as after a power cut, the append-only file ends in the middle of a command."""
    return kill_broker(world, draw, cut=draw.randint(1, 400))


def flush_broker(world: World, draw: Random) -> Sequence[Wound]:
    """F4: somebody empties the broker."""
    wounds = [Wound(since_ms=now_ms(), jobs=held_jobs(world.engine, state="sent"))]
    with contextlib.suppress(redis.RedisError), world.client() as client:
        client.flushall()
    return wounds


def fill_broker(world: World, draw: Random) -> Sequence[Wound]:
    """F4: the broker refuses every write."""
    with contextlib.suppress(redis.RedisError), world.client() as client:
        usual = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", "1mb")
        world.wait(3.0)
        client.config_set("maxmemory", usual)
    return _whole()


def crash_database(world: World, draw: Random) -> Sequence[Wound]:
    """F5: the server ends in the middle of everything and recovers from its log."""
    database = _postgresql(world)
    database.crash()
    database.restart()
    return _whole()


def stop_database(world: World, draw: Random) -> Sequence[Wound]:
    """F5: the server is away longer than leases last."""
    database = _postgresql(world)
    database.crash()
    world.wait(draw.uniform(5.0, 12.0))
    database.restart()
    return _whole()


def terminate_backends(world: World, draw: Random) -> Sequence[Wound]:
    """F5: every connection ends, whatever it was at."""
    _postgresql(world).terminate_backends()
    return _whole()


def read_only(world: World, draw: Random) -> Sequence[Wound]:
    """F5: a standby was promoted elsewhere, or somebody switched writing off."""
    database = _postgresql(world)
    database.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    world.wait(4.0)
    database.execute("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
    return _whole()


def hold_lock(world: World, draw: Random, *, seconds: float = 7.0) -> Sequence[Wound]:
    """F6: a backup tool or a shell holds a write transaction open for longer than writers wait."""
    assert isinstance(world.database, SqliteDatabase)
    with world.database.locked():
        world.wait(seconds)
    return _whole()


def hold_lock_long(world: World, draw: Random) -> Sequence[Wound]:
    """F6: for longer than the leader's term, too."""
    return hold_lock(world, draw, seconds=20.0)


def cut_broker(world: World, draw: Random) -> Sequence[Wound]:
    """F7: connections are reset and refused."""
    world.broker_relay.set("cut")
    world.wait(5.0)
    world.broker_relay.heal()
    return _whole()


def mute_broker(world: World, draw: Random) -> Sequence[Wound]:
    """F7: connections stay, nothing comes through."""
    world.broker_relay.set("mute")
    world.wait(6.0)
    world.broker_relay.heal()
    return _whole()


def cut_database(world: World, draw: Random) -> Sequence[Wound]:
    """F7: connections are reset and refused."""
    return _cut(world, _postgresql(world).ways, "cut", seconds=5.0)


def mute_database(world: World, draw: Random) -> Sequence[Wound]:
    """F7: connections stay, nothing comes through."""
    return _cut(world, _postgresql(world).ways, "mute", seconds=6.0)


def cut_both(world: World, draw: Random) -> Sequence[Wound]:
    """F7: a process stands alone: neither broker nor database."""
    return _cut(world, [world.broker_relay, *_postgresql(world).ways], "cut", seconds=5.0)


def cut_both_longer(world: World, draw: Random) -> Sequence[Wound]:
    """F7: for longer than every lease."""
    return _cut(world, [world.broker_relay, *_postgresql(world).ways], "cut", seconds=20.0)


def cut_both_longest(world: World, draw: Random) -> Sequence[Wound]:
    """F7: for longer than any pause between two tries."""
    return _cut(world, [world.broker_relay, *_postgresql(world).ways], "cut", seconds=120.0)


def _cut(world: World, ways: Sequence[Relay], state: State, *, seconds: float) -> Sequence[Wound]:
    for way in ways:
        way.set(state)
    world.wait(seconds)
    for way in ways:
        way.heal()
    return _whole()


def part_leader(world: World, draw: Random) -> Sequence[Wound]:
    """F13: the leader, and nobody else, is cut off from the database until another one leads."""
    leader = world.leader() or draw.choice(world.schedulers)
    way = world.scheduler_ways[leader.name]
    way.set(draw.choice(("cut", "mute")))
    wounds = [Wound(since_ms=now_ms() + 500, signs=("window",))]  # a commit under way may still come
    world.wait(0.6)
    world.load.submit(jobs=WINDOW_JOBS)
    world.wait(TTL_SECONDS + 4)
    way.heal()
    return wounds


def jump_clock(world: World, draw: Random) -> Sequence[Wound]:
    """F9: leases and the leader's term lie two hours back, as after a step of the database's clock."""
    jobs = held_jobs(world.engine)
    with contextlib.suppress(ServiceUnavailable), transaction(world.engine) as connection:
        connection.execute(
            text("UPDATE microbatch SET lease_until_ms = lease_until_ms - 7200000 WHERE state = 'claimed'")
        )
        connection.execute(text("UPDATE leader SET expires_ms = expires_ms - 7200000"))
    return [Wound(since_ms=now_ms(), jobs=jobs)]


def step_back(world: World, draw: Random) -> Sequence[Wound]:
    """F9: the database's clock goes back ten minutes as a worker dies: its lease seems to last for ever."""
    worker = busy(world, draw)
    worker.signal(signal.SIGKILL)
    wounds = [Wound(since_ms=now_ms(), jobs=held_jobs(world.engine, worker_prefix=f"{worker.name}."))]
    _go_back(world)
    return wounds


def step_back_leaderless(world: World, draw: Random) -> Sequence[Wound]:
    """F9: the same as the leading scheduler dies: its term seems to last for ever."""
    leader = world.leader() or draw.choice(world.schedulers)
    leader.signal(signal.SIGKILL)
    _go_back(world)
    wounds = [Wound(since_ms=now_ms(), signs=("window",))]
    world.load.submit(jobs=WINDOW_JOBS)
    return wounds


def _go_back(world: World) -> None:
    """Move every time that something waits for ten minutes ahead, which is what a step back does to them."""
    with contextlib.suppress(ServiceUnavailable), transaction(world.engine) as connection:
        for statement in (
            "UPDATE leader SET expires_ms = expires_ms + :step",
            "UPDATE microbatch SET lease_until_ms = lease_until_ms + :step WHERE state = 'claimed'",
            "UPDATE microbatch SET sent_at_ms = sent_at_ms + :step WHERE state = 'sent'",
            "UPDATE worker SET heartbeat_ms = heartbeat_ms + :step",
        ):
            connection.execute(text(statement), {"step": STEP_MS})
