"""Harm done to workers and schedulers by signals and failpoints.

Each function strikes once, heals, and returns its wounds. It knows processes, not what they do.
"""

import contextlib
import itertools
import signal
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import psutil
from sqlalchemy import Row, text

from db.session import reading
from routet2i.errors import ServiceUnavailable
from scheduler.service import TTL_SECONDS
from tests.chaos.crew import Member
from tests.chaos.world import SOFT_STOP_SECONDS, World, pick
from tests.chaos.wounds import Wound, held_jobs, now_ms

WORKER_FAILPOINTS = (
    "after_claim",
    "after_tmp",
    "after_replace",
    "after_outcome",
    "before_done",
    "before_ack",
)
SCHEDULER_FAILPOINTS = ("commit_before_publish", "mid_sweep", "mid_split")
TRACKER_BYTES = 32 << 20  # the process that follows semaphores is smaller, the one that draws is larger
FUSE_SECONDS = 12.0  # until an armed process has started and met its failpoint
BUSY_SECONDS = 3.0  # that a strike waits for a worker with a claim
WINDOW_JOBS = 6
ROLL_SECONDS = 15.0  # for a worker to finish its microbatch and be started again
START_SECONDS = 3.0  # until a started one takes work
_fuses = itertools.count(1)


def _held(world: World, member: Member) -> tuple[str, ...]:
    return held_jobs(world.engine, worker_prefix=f"{member.name}.")


def busy(world: World, draw: Random) -> Member:
    """Return a worker that holds a claim, if one does within a few seconds."""
    deadline = time.monotonic() + BUSY_SECONDS
    while time.monotonic() < deadline and not world.ended.is_set():
        with contextlib.suppress(ServiceUnavailable):
            found = [member for member in world.workers if member.pid is not None and _held(world, member)]
            if found:
                return draw.choice(found)
        world.wait(0.05)
    return pick(draw, world.workers)


def _wounded(world: World, member: Member) -> list[Wound]:
    return [Wound(since_ms=now_ms(), jobs=_held(world, member))]


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def kill_child(world: World, draw: Random) -> Sequence[Wound]:
    """F1: the process that draws dies; its main process starts another."""
    worker = busy(world, draw)
    for child in worker.children():
        if _size(child) > TRACKER_BYTES:
            _kill(child)
    return _wounded(world, worker)


def _size(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def kill_main(world: World, draw: Random) -> Sequence[Wound]:
    """F1: the main process dies, and its child with it."""
    worker = pick(draw, world.workers)
    worker.signal(signal.SIGKILL)
    return _wounded(world, worker)


def kill_largest(world: World, draw: Random) -> Sequence[Wound]:
    """F10: what the out-of-memory killer does."""
    sizes = [(_size(child), worker, child) for worker in world.workers for child in worker.children()]
    if not sizes:
        return []
    _, worker, child = max(sizes, key=lambda one: one[0])
    _kill(child)
    return _wounded(world, worker)


def worker_failpoint(world: World, draw: Random) -> Sequence[Wound]:
    """F1: a worker is replaced by one whose first child dies at a failpoint."""
    worker = pick(draw, world.workers)
    return die_at(world, worker, f"{draw.choice(WORKER_FAILPOINTS)}:{draw.randint(1, 3)}")


def die_at(world: World, worker: Member, failpoint: str) -> Sequence[Wound]:
    """Replace a worker by one whose first child dies at a failpoint, and wait for that."""
    worker.arm(
        ROUTET2I_TESTING="1",
        ROUTET2I_FAILPOINT=failpoint,
        CHAOS_FUSE=f"fuse-{next(_fuses)}",
    )
    before = worker.starts
    worker.signal(signal.SIGKILL)
    first = _wounded(world, worker)
    deadline = time.monotonic() + FUSE_SECONDS
    while worker.starts == before and time.monotonic() < deadline:
        world.wait(0.05)
    seen: set[int] = set()
    while time.monotonic() < deadline and not world.ended.is_set():
        alive = {child.pid for child in worker.children() if child.status() != psutil.STATUS_ZOMBIE}
        if seen - alive:
            return [*first, *_wounded(world, worker)]
        seen = alive
        world.wait(0.02)
    return first


def scheduler_failpoint(world: World, draw: Random) -> Sequence[Wound]:
    """F1: a scheduler that leads dies between two of its steps."""
    leader = world.leader() or pick(draw, world.schedulers)
    follower = next(member for member in world.schedulers if member is not leader)
    name = draw.choice(SCHEDULER_FAILPOINTS)
    follower.arm(ROUTET2I_TESTING="1", ROUTET2I_FAILPOINT=f"{name}:{draw.randint(1, 2)}")
    ends = len(follower.ends)
    follower.signal(signal.SIGKILL)
    world.wait(4.0)  # until it waits to lead
    leader.signal(signal.SIGTERM)  # resigns, so that the armed one leads
    if name != "commit_before_publish":  # needs a claim that ends
        return kill_child(world, draw)
    deadline = time.monotonic() + FUSE_SECONDS
    _give_work(world)
    while len(follower.ends) < ends + 2 and time.monotonic() < deadline and not world.ended.is_set():
        world.wait(0.05)
    return [Wound(since_ms=now_ms(), signs=("window",))]


def _give_work(world: World) -> None:
    """Let something wait for a window: without that nobody could tell whether anybody decides."""
    world.load.submit(jobs=WINDOW_JOBS)


def stop_and_kill(world: World, draw: Random) -> Sequence[Wound]:
    """F2: the message that the broker hands to a stopped worker dies with it."""
    worker = pick(draw, world.workers)
    worker.signal(signal.SIGSTOP)
    world.wait(1.0)
    worker.signal(signal.SIGKILL)
    return _wounded(world, worker)


def zombie(world: World, draw: Random) -> Sequence[Wound]:
    """F3: a worker stands still until its leases are long over, then goes on as if nothing had happened."""
    return stand_still(world, busy(world, draw))


def stand_still(world: World, worker: Member) -> Sequence[Wound]:
    """Stop a worker and its children for three leases."""
    worker.signal(signal.SIGSTOP, everyone=True)
    wounds = _wounded(world, worker)
    world.wait(3 * world.shape.lease_seconds)
    worker.signal(signal.SIGCONT, everyone=True)
    return wounds


def stuck_child(world: World, draw: Random) -> Sequence[Wound]:
    """F12: only the process that draws stands still; signs of life go on."""
    worker = busy(world, draw)
    stopped = worker.children()
    for child in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.suspend()
    wounds = _wounded(world, worker)
    world.wait(3 * world.shape.lease_seconds)
    for child in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.resume()
    return wounds


def slow_down(world: World, draw: Random) -> Sequence[Wound]:
    """F12: everything takes 20 times as long."""
    world.hands.set("slow", True)
    world.wait(5.0)
    world.hands.set("slow", False)
    return [Wound(since_ms=now_ms(), signs=("outcome",))]


def kill_leader(world: World, draw: Random) -> Sequence[Wound]:
    """F13: the leader dies without a word: its lease must end first."""
    leader = world.leader() or pick(draw, world.schedulers)
    leader.signal(signal.SIGKILL)
    wounds = [Wound(since_ms=now_ms(), signs=("window",))]
    _give_work(world)
    return wounds


def freeze_leader(world: World, draw: Random) -> Sequence[Wound]:
    """F13: the leader stands still until another one leads, then goes on."""
    leader = world.leader() or pick(draw, world.schedulers)
    leader.signal(signal.SIGSTOP, everyone=True)
    wounds = [Wound(since_ms=now_ms() + 500, signs=("window",))]  # a commit under way may still come
    world.wait(0.6)
    _give_work(world)
    world.wait(TTL_SECONDS + 4)
    leader.signal(signal.SIGCONT, everyone=True)
    return wounds


def roll_workers(world: World, draw: Random) -> Sequence[Wound]:
    """F15: all workers are replaced under load, as an update does."""
    wounds = [Wound(since_ms=now_ms(), signs=("outcome",))]
    for worker in world.workers:
        before = worker.starts
        worker.signal(signal.SIGTERM)
        deadline = time.monotonic() + ROLL_SECONDS
        while worker.starts == before and time.monotonic() < deadline and not world.ended.is_set():
            world.wait(0.1)
        world.wait(START_SECONDS)
    return wounds


def roll_schedulers(world: World, draw: Random) -> Sequence[Wound]:
    """F15: all schedulers are replaced under load."""
    wounds = [Wound(since_ms=now_ms(), signs=("window",))]
    for member in world.schedulers:
        member.signal(signal.SIGTERM)
        _give_work(world)
        world.wait(3.0)
    return wounds


def quit_worker(world: World, draw: Random) -> Sequence[Wound]:
    """F15: a worker is told to end cold."""
    worker = pick(draw, world.workers)
    wounds = _wounded(world, worker)
    worker.signal(signal.SIGQUIT)
    return wounds


def quit_stuck(world: World, draw: Random) -> Sequence[Wound]:
    """F15: the time to finish passes, for no picture is ever done; that is nobody's death."""
    world.hands.set("endless", True)
    worker = busy(world, draw)
    wounds = _wounded(world, worker)
    held = _claims(world, worker)
    before = len(worker.ends)
    worker.signal(signal.SIGQUIT)
    deadline = time.monotonic() + SOFT_STOP_SECONDS + world.shape.lease_seconds + ROLL_SECONDS
    while time.monotonic() < deadline and not world.ended.is_set():
        if not held and len(worker.ends) > before:
            break
        held = [one for one in held if not _judged(world, one)]
        world.wait(0.05)
    world.hands.set("endless", False)
    if len(worker.ends) == before:
        world.load.promised.errors.append(f"{worker.name} did not end after its time to finish")
        worker.signal(signal.SIGKILL)
    return wounds


def _claims(world: World, member: Member) -> list[Row[Any]]:
    with reading(world.engine) as connection:
        return list(
            connection.execute(
                text(
                    """SELECT id, fence, deaths FROM microbatch
                        WHERE state = 'claimed' AND worker_id LIKE :worker"""
                ),
                {"worker": f"{member.name}.%"},
            )
        )


def _judged(world: World, claim: Row[Any]) -> bool:
    """Whether a claim has ended; if that was counted as a death, a promise was broken."""
    with contextlib.suppress(ServiceUnavailable), reading(world.engine) as connection:
        now = connection.execute(
            text("SELECT state, fence, deaths FROM microbatch WHERE id = :id"), {"id": claim.id}
        ).one()
        if now.state == "claimed" and now.fence == claim.fence:
            return False
        if now.deaths > claim.deaths:
            world.load.promised.errors.append(f"microbatch {claim.id} counts a death after a soft stop")
        return True
    return False
