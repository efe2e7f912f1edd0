"""Harm done to what the stack stands on: broker, database, network, disk and clock.

Each function strikes once, heals, and returns its wounds, counted from the healing. It knows services, not
who uses them.
"""

import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from random import Random

import redis
from sqlalchemy import text

from db.session import transaction
from routet2i.errors import ServiceUnavailable
from tests.chaos.databases import PostgresqlDatabase, SqliteDatabase
from tests.chaos.world import World
from tests.chaos.wounds import Wound, held_jobs, now_ms

BROKER_START_SECONDS = 15.0


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
    _postgresql(world).execute(
        """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = 'chaos' AND pid <> pg_backend_pid()"""
    )
    return _whole()


def read_only(world: World, draw: Random) -> Sequence[Wound]:
    """F5: a standby was promoted elsewhere, or somebody switched writing off."""
    database = _postgresql(world)
    database.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    world.wait(4.0)
    database.execute("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
    return _whole()


def hold_lock(world: World, draw: Random) -> Sequence[Wound]:
    """F6: a backup tool or a shell holds a write transaction open for longer than writers wait."""
    assert isinstance(world.database, SqliteDatabase)
    with world.database.locked():
        world.wait(7.0)
    return _whole()


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
    relay = _postgresql(world).relay
    assert relay is not None
    relay.set("cut")
    world.wait(5.0)
    relay.heal()
    return _whole()


def mute_database(world: World, draw: Random) -> Sequence[Wound]:
    """F7: connections stay, nothing comes through."""
    relay = _postgresql(world).relay
    assert relay is not None
    relay.set("mute")
    world.wait(6.0)
    relay.heal()
    return _whole()


def fill_disk(world: World, draw: Random) -> Sequence[Wound]:
    """F8: the picture folder's file system shrinks to what is used: not one more byte fits."""
    if not world.disk_is_ours:
        return []
    folder = world.settings.pictures
    used = int(subprocess.check_output(["df", "--output=used", "-k", str(folder)], text=True).split()[-1])
    subprocess.run(["mount", "-o", f"remount,size={used + 8}k", str(folder)], check=False)
    world.wait(4.0)
    subprocess.run(["mount", "-o", "remount,size=2g", str(folder)], check=True)
    return _whole()


def jump_clock(world: World, draw: Random) -> Sequence[Wound]:
    """F9: leases and the leader's term lie two hours back, as after a step of the database's clock."""
    jobs = held_jobs(world.engine)
    with contextlib.suppress(ServiceUnavailable), transaction(world.engine) as connection:
        connection.execute(
            text("UPDATE microbatch SET lease_until_ms = lease_until_ms - 7200000 WHERE state = 'claimed'")
        )
        connection.execute(text("UPDATE leader SET expires_ms = expires_ms - 7200000"))
    return [Wound(since_ms=now_ms(), jobs=jobs)]
