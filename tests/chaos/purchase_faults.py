"""Harm done to purchases: workers that die or stand still while they buy, a provider that is not there.

Each function strikes once, heals, and returns its wounds. It knows calls and processes, not the bill.
"""

import contextlib
import signal
import time
from collections.abc import Sequence
from random import Random

from sqlalchemy import text

from db.session import reading
from routet2i.errors import ServiceUnavailable
from tests.chaos.crew import Member
from tests.chaos.process_faults import die_at, stand_still
from tests.chaos.world import World, pick
from tests.chaos.wounds import Wound, now_ms

FAILPOINTS = ("after_intent", "after_http", "after_settle")
STORMS = ("bill_then_500", "bill_then_cut", "bill_then_hang", "fail_500", "busy", "refuse", "moved")
OUT_SECONDS = 5.0  # that a strike waits for a call that is out
SILENT_SECONDS = 4.0  # twice a worker's patience
AWAY_SECONDS = 2.0
STORM_SECONDS = 4.0


def _buyers(world: World) -> list[Member]:
    return [worker for worker in world.workers if worker.name.startswith("cloud-")]


def _buying(world: World, draw: Random) -> Member:
    """Return a worker whose call is out, if one is within a few seconds."""
    deadline = time.monotonic() + OUT_SECONDS
    while time.monotonic() < deadline and not world.ended.is_set():
        with contextlib.suppress(ServiceUnavailable), reading(world.engine) as connection:
            names = connection.execute(
                text(
                    """SELECT m.worker_id FROM call c JOIN microbatch m ON m.id = c.microbatch_id
                        WHERE c.state = 'intent' AND m.state = 'claimed' AND m.fence = c.fence"""
                )
            ).scalars()
            busy = {str(name).split(".")[0] for name in names}
            found = [worker for worker in _buyers(world) if worker.name in busy and worker.pid is not None]
            if found:
                return draw.choice(found)
        world.wait(0.02)
    return pick(draw, _buyers(world))


def buyer_failpoint(world: World, draw: Random) -> Sequence[Wound]:
    """F1: a worker dies between permission, call, picture and bill."""
    worker = pick(draw, _buyers(world))
    return die_at(world, worker, f"{draw.choice(FAILPOINTS)}:{draw.randint(1, 3)}")


def zombie(world: World, draw: Random) -> Sequence[Wound]:
    """F3: a worker stands still while its call is out, long beyond its lease, and then hears the answer."""
    return stand_still(world, _buying(world, draw))


def _goes_on() -> list[Wound]:
    return [Wound(since_ms=now_ms(), signs=("purchase",))]


def silent(world: World, draw: Random) -> Sequence[Wound]:
    """F12: the provider takes requests and never answers; later it draws and bills them all the same."""
    world.provider.signal(signal.SIGSTOP)
    world.wait(SILENT_SECONDS)
    world.provider.signal(signal.SIGCONT)
    return _goes_on()


def away(world: World, draw: Random) -> Sequence[Wound]:
    """F12: the provider dies with requests in its hands, is away for a while and remembers only its bill."""
    world.provider.stays_down = True
    world.provider.signal(signal.SIGKILL)
    world.wait(AWAY_SECONDS)
    world.provider.stays_down = False
    return _goes_on()


def storm(world: World, draw: Random) -> Sequence[Wound]:
    """F12: every request ends badly, in one and the same way."""
    assert world.cloud is not None
    with world.cloud.only(draw.choice(STORMS)):
        world.wait(STORM_SECONDS)
    return _goes_on()
