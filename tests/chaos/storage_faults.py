"""Harm done where things are stored: full disks, a writer that dies, a server without free connections.

Each function strikes once, heals, and returns its wounds, counted from the healing. It knows the databases'
files and servers, not what stands in them.
"""

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from random import Random

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from tests.chaos.databases import PostgresqlDatabase, SqliteDatabase
from tests.chaos.disks import Place
from tests.chaos.world import World
from tests.chaos.wounds import Wound, now_ms

FREE_CONNECTIONS = 5
GRAB_SECONDS = 2.0  # for which whoever holds the connections takes each one that comes free
SHORT_SECONDS = 6.0
FULL_SECONDS = 4.0
HALF_A_TRANSACTION = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
connection.execute("PRAGMA cache_size=4")  # pages: the rest goes to the log before any commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE half(content)")
connection.executemany("INSERT INTO half VALUES(randomblob(4000))", [()] * 500)
connection.execute("UPDATE batch SET name = 'half'")
print("half", flush=True)
time.sleep(60)
"""


def _whole() -> list[Wound]:
    return [Wound(since_ms=now_ms(), signs=("outcome", "attempt"))]


def fill_pictures(world: World, draw: Random) -> Sequence[Wound]:
    """F8: workers cannot write a picture."""
    return _fill(world, "pictures")


def fill_broker_disk(world: World, draw: Random) -> Sequence[Wound]:
    """F8: the broker cannot write its append-only file, and refuses every command that changes anything."""
    return _fill(world, "broker")


def fill_database(world: World, draw: Random) -> Sequence[Wound]:
    """F8: no transaction can be committed; PostgreSQL may end itself, and is started again with room."""
    wounds = _fill(world, "database")
    if isinstance(world.database, PostgresqlDatabase):
        world.database.restart()
        return _whole()
    return wounds


def _fill(world: World, place: Place) -> Sequence[Wound]:
    disk = world.disks[place]
    disk.fill()
    try:
        world.wait(FULL_SECONDS)
    finally:
        disk.free()
    return _whole()


def kill_writer(world: World, draw: Random) -> Sequence[Wound]:
    """F6: a process dies with half a transaction in the write-ahead log; nobody may ever see any of it."""
    assert isinstance(world.database, SqliteDatabase)
    file = world.database.file
    with subprocess.Popen(
        [sys.executable, "-c", HALF_A_TRANSACTION, str(file)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        begun = writer.stdout.readline()
        writer.kill()
    if not begun:  # another fault held the lock all the while
        return []
    with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection:
        seen = connection.execute(
            """SELECT (SELECT count(*) FROM sqlite_master WHERE name = 'half')
                    + (SELECT count(*) FROM batch WHERE name = 'half')"""
        ).fetchone()[0]
    if seen:
        world.load.promised.errors.append(f"{seen} traces of a transaction that was never committed")
    return _whole()


def few_connections(world: World, draw: Random) -> Sequence[Wound]:
    """F5: others hold all of PostgreSQL's connections but five, and ours have just been closed."""
    database = world.database
    assert isinstance(database, PostgresqlDatabase)
    held: list[Connection] = []
    with contextlib.ExitStack() as stack:
        until = time.monotonic() + GRAB_SECONDS
        terminated = False
        while time.monotonic() < until:
            try:
                held.append(stack.enter_context(database.connected()))
            except OperationalError:  # too many clients: none is free
                if not terminated:
                    database.terminate_backends(through=held[0])
                    terminated = True
                world.wait(0.02)
        for connection in held[-FREE_CONNECTIONS:]:
            connection.close()
        world.wait(SHORT_SECONDS)
    return _whole()
