"""The registry of faults: for each an id, a sentence, what it needs, and how it strikes.

`strike(world, draw)` does the harm, lasts as long as the harm does, heals it, and returns the wounds. The
strikes themselves stand in the modules called `..._faults`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_lowercase
from typing import Literal

from tests.chaos import door_faults as doors
from tests.chaos import process_faults as processes
from tests.chaos import purchase_faults as purchases
from tests.chaos import request_faults as requests
from tests.chaos import service_faults as services
from tests.chaos import storage_faults as storage
from tests.chaos.disks import Place, can_mount
from tests.chaos.world import SOFT_STOP_SECONDS, Shape, World
from tests.chaos.wounds import Wound

Strike = Callable[[World, Random], Sequence[Wound]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One kind of harm."""

    id: str  # of reliability.md, a letter behind it where one row has several
    sentence: str
    strike: Strike | None  # None: not done here, `why` tells
    needs: tuple[str, ...] = ()  # sqlite, postgresql, aof, root, two_schedulers, paid
    weight: int = 1  # how often it is chosen, beside the others
    long: bool = False  # takes so long that only a full run has it, or one that names it
    disk: Place | Literal[""] = ""  # what must be a small file system of its own
    within: float = 5.0  # seconds that recovery may take, beyond the lease where one must end first
    lease: str = ""  # worker, leader: whose lease must end before anything can go on
    why: str = ""


FAULTS: tuple[Fault, ...] = (
    Fault(
        id="F1a",
        sentence="SIGKILL of a worker's pool process",
        strike=processes.kill_child,
        weight=3,
        lease="worker",
    ),
    Fault(
        id="F1b",
        sentence="SIGKILL of a worker's main process",
        strike=processes.kill_main,
        weight=2,
        lease="worker",
    ),
    Fault(
        id="F1c",
        sentence="a worker dies at a failpoint",
        strike=processes.worker_failpoint,
        weight=3,
        lease="worker",
    ),
    Fault(
        id="F1d",
        sentence="a scheduler dies at a failpoint",
        strike=processes.scheduler_failpoint,
        needs=("two_schedulers",),
        lease="leader",
    ),
    Fault(
        id="F1e",
        sentence="`submit` dies at a failpoint, and is typed again",
        strike=requests.submit_failpoint,
    ),
    Fault(
        id="F1f",
        sentence="a worker that buys dies between permission, call, picture and bill",
        strike=purchases.buyer_failpoint,
        needs=("paid",),
        weight=4,
        lease="worker",
    ),
    Fault(
        id="F2",
        sentence="SIGSTOP of a worker while messages come, then SIGKILL (BRPOP gap)",
        strike=processes.stop_and_kill,
        weight=2,
        lease="worker",
    ),
    Fault(
        id="F3",
        sentence="SIGSTOP of a worker for three leases, then SIGCONT (zombie)",
        strike=processes.zombie,
        weight=2,
        lease="worker",
    ),
    Fault(
        id="F3b",
        sentence="SIGSTOP of a worker whose paid call is out, for three leases, then SIGCONT",
        strike=purchases.zombie,
        needs=("paid",),
        weight=3,
        lease="worker",
    ),
    Fault(id="F4a", sentence="SIGKILL of the broker", strike=services.kill_broker, weight=2),
    Fault(id="F4b", sentence="FLUSHALL", strike=services.flush_broker, weight=2),
    Fault(id="F4c", sentence="the broker's memory is full for 3 s", strike=services.fill_broker),
    Fault(
        id="F4d",
        sentence="SIGKILL of the broker, its append-only file loses its tail",
        strike=services.cut_tail,
        needs=("aof",),
    ),
    Fault(
        id="F5a",
        sentence="PostgreSQL stops at once and starts again",
        strike=services.crash_database,
        needs=("postgresql",),
    ),
    Fault(
        id="F5b",
        sentence="PostgreSQL stops for 5 to 12 s",
        strike=services.stop_database,
        needs=("postgresql",),
    ),
    Fault(
        id="F5c",
        sentence="all PostgreSQL backends are terminated",
        strike=services.terminate_backends,
        needs=("postgresql",),
    ),
    Fault(
        id="F5d", sentence="PostgreSQL is read-only for 4 s", strike=services.read_only, needs=("postgresql",)
    ),
    Fault(
        id="F5e",
        sentence="others hold all but 5 of PostgreSQL's connections for 6 s",
        strike=storage.few_connections,
        needs=("postgresql",),
    ),
    Fault(
        id="F6a",
        sentence="another writer holds SQLite's lock for 7 s",
        strike=services.hold_lock,
        needs=("sqlite",),
    ),
    Fault(
        id="F6b",
        sentence="SQLite's write-ahead log is deleted while all is down",
        strike=None,
        why="commits since the last checkpoint are lost with it, and nothing can tell: see operations.md",
    ),
    Fault(
        id="F6c",
        sentence="SIGKILL of a writer with half a transaction in SQLite's write-ahead log",
        strike=storage.kill_writer,
        needs=("sqlite",),
    ),
    Fault(
        id="F6d",
        sentence="another writer holds SQLite's lock for 20 s",
        strike=services.hold_lock_long,
        needs=("sqlite",),
        long=True,
    ),
    Fault(id="F7a", sentence="the network to the broker is cut for 5 s", strike=services.cut_broker),
    Fault(
        id="F7b",
        sentence="the network to the broker swallows everything for 6 s (half-open)",
        strike=services.mute_broker,
    ),
    Fault(
        id="F7c",
        sentence="the network to PostgreSQL is cut for 5 s",
        strike=services.cut_database,
        needs=("postgresql",),
    ),
    Fault(
        id="F7d",
        sentence="the network to PostgreSQL swallows everything for 6 s (half-open)",
        strike=services.mute_database,
        needs=("postgresql",),
    ),
    Fault(
        id="F7e",
        sentence="the network to broker and PostgreSQL is cut for 5 s",
        strike=services.cut_both,
        needs=("postgresql",),
    ),
    Fault(
        id="F7f",
        sentence="the network to broker and PostgreSQL is cut for 20 s",
        strike=services.cut_both_longer,
        needs=("postgresql",),
        long=True,
    ),
    Fault(
        id="F7g",
        sentence="the network to broker and PostgreSQL is cut for 120 s",
        strike=services.cut_both_longest,
        needs=("postgresql",),
        long=True,
    ),
    Fault(
        id="F8a",
        sentence="the picture disk is full for 4 s",
        strike=storage.fill_pictures,
        needs=("root",),
        disk="pictures",
    ),
    Fault(
        id="F8b",
        sentence="the database's disk is full for 4 s",
        strike=storage.fill_database,
        needs=("root",),
        disk="database",
    ),
    Fault(
        id="F8c",
        sentence="the disk of the broker's append-only file is full for 4 s",
        strike=storage.fill_broker_disk,
        needs=("root", "aof"),
        disk="broker",
    ),
    Fault(
        id="F9a",
        sentence="every lease ends at once, as if the database's clock jumped 2 h",
        strike=services.jump_clock,
        why="no clock is moved, for want of libfaketime: leases and the leader's term are, in SQL",
    ),
    Fault(
        id="F9b",
        sentence="a worker is killed and the database's clock goes back 10 min",
        strike=services.step_back,
        lease="worker",
        why="as F9a: all times that something waits for are moved 10 min ahead, in SQL",
    ),
    Fault(
        id="F9c",
        sentence="the leading scheduler is killed and the database's clock goes back 10 min",
        strike=services.step_back_leaderless,
        needs=("two_schedulers",),
        lease="leader",
        why="as F9b",
    ),
    Fault(
        id="F10",
        sentence="the out-of-memory killer takes the largest worker process",
        strike=processes.kill_largest,
        lease="worker",
    ),
    Fault(
        id="F11",
        sentence="each known message 100 times, unknown and malformed ones, 10 MB, pickle",
        strike=requests.hostile_messages,
    ),
    Fault(id="F12a", sentence="a worker is 20 times as slow for 5 s", strike=processes.slow_down),
    Fault(
        id="F12b",
        sentence="a worker's pool process is stuck for three leases, its main process is not",
        strike=processes.stuck_child,
        lease="worker",
    ),
    Fault(
        id="F12c",
        sentence="the provider does not answer for 4 s, then bills what it was asked (SIGSTOP, SIGCONT)",
        strike=purchases.silent,
        needs=("paid",),
        weight=3,
        within=10.0,
    ),
    Fault(
        id="F12d",
        sentence="SIGKILL of the provider, away for 2 s",
        strike=purchases.away,
        needs=("paid",),
        weight=2,
        within=10.0,
    ),
    Fault(
        id="F12e",
        sentence="the provider ends every request badly for 4 s: billed and 500, cut, 429, refused ...",
        strike=purchases.storm,
        needs=("paid",),
        weight=3,
        within=10.0,
    ),
    Fault(
        id="F13a",
        sentence="SIGKILL of the leading scheduler",
        strike=processes.kill_leader,
        needs=("two_schedulers",),
        lease="leader",
    ),
    Fault(
        id="F13b",
        sentence="SIGSTOP of the leading scheduler beyond its term, then SIGCONT",
        strike=processes.freeze_leader,
        needs=("two_schedulers",),
        lease="leader",
    ),
    Fault(id="F13c", sentence="8 submitters of one file", strike=requests.same_file),
    Fault(
        id="F13d",
        sentence="the leading scheduler alone is cut off from PostgreSQL beyond its term",
        strike=services.part_leader,
        needs=("postgresql", "two_schedulers"),
        lease="leader",
    ),
    Fault(id="F14a", sentence="a batch with a poison job of another kind", strike=requests.poison),
    Fault(id="F14b", sentence="a prompt of 100 MB at the door", strike=doors.giant_prompt),
    Fault(id="F15a", sentence="SIGTERM of every worker, one after the other", strike=processes.roll_workers),
    Fault(
        id="F15b",
        sentence="SIGTERM of every scheduler, one after the other",
        strike=processes.roll_schedulers,
        needs=("two_schedulers",),
    ),
    Fault(id="F15c", sentence="SIGQUIT of a worker", strike=processes.quit_worker, lease="worker"),
    Fault(
        id="F15d",
        sentence="SIGQUIT of a worker that cannot finish in time",
        strike=processes.quit_stuck,
        lease="worker",
        within=5.0 + SOFT_STOP_SECONDS,
    ),
    Fault(
        id="F16",
        sentence="messages of another version, and `db upgrade` with work in flight",
        strike=requests.other_version,
    ),
    Fault(
        id="F17a",
        sentence="a batch is cancelled, and jobs of another one by eight hands",
        strike=requests.cancel_storm,
    ),
    Fault(
        id="F17b",
        sentence="1,000 jobs, cancelled one by one while they are drawn and recorded",
        strike=doors.cancel_race,
        long=True,
    ),
    Fault(id="F18", sentence="a file of hostile lines", strike=doors.hostile_lines),
    Fault(
        id="F19",
        sentence="`inspect` asked of all workers again and again for 3 s",
        strike=requests.inspect_storm,
    ),
    Fault(
        id="F20",
        sentence="two of the above at once",
        strike=None,
        why="every fifth strike of a mixed run is a pair",
    ),
)


def by_id() -> Mapping[str, Fault]:
    """Return the faults by id."""
    return {fault.id: fault for fault in FAULTS}


def missing(fault: Fault, shape: Shape) -> str | None:
    """Return what a fault lacks in a world of this shape on this machine, None if nothing."""
    if fault.strike is None:
        return fault.why
    if fault.long and not shape.full:
        return "it takes long: --full, or --only with its id"
    lacks = {
        "sqlite": shape.database != "sqlite" and "the run uses PostgreSQL",
        "postgresql": shape.database != "postgresql" and "the run uses SQLite",
        "aof": shape.broker != "aof" and "the broker keeps nothing on disk in this run",
        "root": not can_mount() and "mounting a small file system needs root",
        "two_schedulers": shape.schedulers < 2 and "the run has one scheduler",
        "paid": shape.cloud == "own" and "the cloud of this run is our own model",
    }
    return next((str(lacks[need]) for need in fault.needs if lacks[need]), None)


def chosen(only: Sequence[str], shape: Shape) -> list[Fault]:
    """Return the faults that can strike, of those whose id begins with one of `only` (all if empty)."""
    return [
        fault
        for fault in FAULTS
        if missing(fault, shape) is None
        and (not only or any(fault.id == name or fault.id.rstrip(ascii_lowercase) == name for name in only))
    ]
