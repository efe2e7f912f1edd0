"""Many writers at once: processes of many threads, some of them killed in the middle and replaced.

It knows processes and signals, not what they write.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONTEXT = multiprocessing.get_context("spawn")  # nothing inherited: each process connects by itself
START_SECONDS = 30.0  # most that all processes need until they are at work, on a busy machine
PATIENCE_SECONDS = 60.0  # after their time is over
KILLED_AT = (0.1, 0.5)  # of the time: while much money is held, and when little is left

Body = Callable[..., None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """Processes of one kind; each calls `body(*arguments, number, until, seed)`."""

    body: Body
    arguments: tuple[object, ...]
    count: int
    kills: int  # of these processes, by SIGKILL, at KILLED_AT in equal parts


def in_threads(body: Callable[[int], None], count: int) -> None:
    """Run `body(number)` in so many threads and wait for all; raises the first error of any."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            body(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def run_roles(roles: Sequence[Role], *, seconds: float) -> int:
    """Run all processes for so long, kill and replace some, and return how many were killed.

    Raises:
        RuntimeError: a process ended by an error of its own.
    """
    began = time.time() + min(START_SECONDS, 0.5 * sum(role.count for role in roles))
    until = began + seconds
    living = {
        (place, number): _start(role, number, until, seed=0)
        for place, role in enumerate(roles)
        for number in range(role.count)
    }
    killed = 0
    for turn, share in enumerate(KILLED_AT):
        time.sleep(max(0.0, began + share * seconds - time.time()))
        for place, role in enumerate(roles):
            first, last = (role.kills * one // len(KILLED_AT) for one in (turn, turn + 1))
            for number in range(first, last):
                living[place, number].kill()
                living[place, number].join()
                living[place, number] = _start(role, number, until, seed=1)
                killed += 1
    for process in living.values():
        process.join(max(0.0, until - time.time()) + PATIENCE_SECONDS)
    failed = [process for process in living.values() if process.exitcode != 0]
    for process in failed:
        process.kill()
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(living)} processes ended by an error or not at all")
    return killed


def _start(role: Role, number: int, until: float, *, seed: int) -> multiprocessing.context.SpawnProcess:
    process = CONTEXT.Process(target=role.body, args=(*role.arguments, number, until, seed))
    process.start()
    return process
