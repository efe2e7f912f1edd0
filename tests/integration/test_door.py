"""The queue's limits, on SQLite and PostgreSQL: exact for any number of submitters, and never a loss."""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from db.dialects import run
from db.door import WAITING
from db.repository import Repository
from db.session import reading
from routet2i.contracts import GenerationRequest, OpenedBatch, QueueLimits
from routet2i.errors import Conflict, QueueFull, UsageError

SUBMITTERS = 8


class Door:
    """Short words for coming in."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def open(
        self,
        key: str,
        *,
        jobs: int,
        client: str = "a",
        body: str = "",
        places: int = 10,
        own_places: int | None = None,
    ) -> OpenedBatch:
        """Knock with a file of so many jobs."""
        return self.repository.open_batch(
            client=client,
            idem_key=key,
            body_sha256=body or key,
            name=key,
            budget_micro_usd=None,
            jobs=jobs,
            limits=QueueLimits(jobs=places, client_jobs=own_places),
        )

    def fill(self, opened: OpenedBatch, *, first: int = 1, last: int) -> None:
        """Write these lines of a batch."""
        lines = [
            GenerationRequest(line_no=no, custom_id=f"c{no}", prompt="p", seed=no, n=1 + no % 3)
            for no in range(first, last + 1)
        ]
        self.repository.add_jobs(opened.batch_id, lines, [], cursor_line=last)

    def waiting(self) -> int:
        """Return how many jobs wait or are announced."""
        with reading(self.repository.engine) as connection:
            return int(run(connection, WAITING, {"client": ""}).one().everybody)


@pytest.fixture
def door(repository: Repository) -> Door:
    return Door(repository)


def test_a_file_comes_in_while_it_fits_to_the_last_place(door: Door, shop: Any) -> None:
    # Given ten places, four of which are announced and three more taken
    door.open("first", jobs=4)
    second = door.open("second", jobs=3)
    door.fill(second, last=3)
    door.repository.close_intake(second.batch_id)
    # When a file of four comes, and one of three
    with pytest.raises(QueueFull) as refused:
        door.open("third", jobs=4)
    door.open("fourth", jobs=3)
    # Then the first of them is told why, and left nothing
    assert str(refused.value) == (
        "the queue is full: 7 of at most 10 jobs wait (4 of them in files still being read), and "
        "this file has 4; type the same command with --wait, or raise ROUTET2I_QUEUE_JOBS"
    )
    assert (refused.value.waiting, refused.value.limit) == (7, 10)
    assert shop.read("SELECT count(*) FROM batch") == 3
    assert shop.read("SELECT count(*) FROM budget") == 3


def test_a_job_is_counted_once_while_its_file_is_read(door: Door) -> None:
    # Given a file of eight
    opened = door.open("first", jobs=8)
    for first, last in ((1, 3), (4, 8)):
        # When some of it are written
        door.fill(opened, first=first, last=last)
        # Then eight wait
        assert door.waiting() == 8


def test_a_client_has_a_limit_of_its_own(door: Door) -> None:
    # Given a client with four of at most five
    door.open("first", jobs=4, own_places=5)
    # When it wants two more, and another client too
    with pytest.raises(
        QueueFull, match=r"the queue of client a is full: 4 of at most 5 jobs wait.*ROUTET2I_CLIENT_QUEUE"
    ):
        door.open("second", jobs=2, own_places=5)
    door.open("second", jobs=2, client="b", own_places=5)
    # Then only the first is refused, and the limit of all holds for both
    with pytest.raises(QueueFull, match="the queue is full: 6 of at most 10 jobs wait"):
        door.open("third", jobs=5, client="b", own_places=8)


def test_a_file_that_never_fits_is_a_wrong_argument(door: Door) -> None:
    with pytest.raises(
        UsageError, match="11 jobs, and at most 10 may wait; split the file, or raise ROUTET2I_Q"
    ):
        door.open("first", jobs=11)
    with pytest.raises(UsageError, match="ROUTET2I_CLIENT_QUEUE_JOBS"):
        door.open("first", jobs=3, own_places=2)


def test_what_is_known_is_never_refused(door: Door) -> None:
    # Given a queue that is full, and a limit that is lowered
    first = door.open("first", jobs=10)
    # When the same comes again, then it is the same batch, and a conflict is still one
    again = door.open("first", jobs=10, places=2)
    assert (again.batch_id, again.created, again.created_ms) == (first.batch_id, False, first.created_ms)
    with pytest.raises(Conflict):
        door.open("first", jobs=10, places=2, body="other")


def test_one_file_that_comes_by_two_doors_is_one_batch(door: Door) -> None:
    # Given room for one of two, which are the same; when they come at once, then none is refused
    for turn in range(5):
        opened = together(lambda _me, turn=turn: [door.open(f"{turn}", jobs=2).batch_id], 4)
        assert len({one for (one,) in opened}) == 1
    assert door.waiting() == 10


def test_a_cancelled_batch_makes_room_read_or_not(door: Door) -> None:
    # Given two batches that fill the queue, one of them not yet written
    first, second = door.open("first", jobs=5), door.open("second", jobs=5)
    door.fill(first, last=5)
    # When both are cancelled
    for opened in (first, second):
        door.repository.cancel_batch(opened.batch_id)
    # Then all places are free
    assert door.open("third", jobs=10).created


def test_a_file_without_a_good_line_comes_in_even_to_a_full_queue(door: Door) -> None:
    door.open("first", jobs=10)
    assert door.open("second", jobs=0).created


@pytest.mark.parametrize(("own_places", "files"), [(None, 6), (9, 6), (7, 4)])
def test_submitters_at_once_fill_the_queue_exactly(
    door: Door, shop: Any, own_places: int | None, files: int
) -> None:
    # Given twenty places, and eight submitters of two clients with four files of three jobs each
    def submit(me: int) -> list[str]:
        came_in = []
        for file in range(4):
            with contextlib.suppress(QueueFull):
                opened = door.open(
                    f"{me}-{file}", jobs=3, client=f"c{me % 2}", places=20, own_places=own_places
                )
                door.fill(opened, last=3)
                came_in.append(opened.batch_id)
        return came_in

    # When all come at once
    came_in = [one for found in together(submit, SUBMITTERS) for one in found]
    # Then as many came in as fit, all of each, and of the others nothing is there
    assert len(came_in) == files
    assert shop.read("SELECT count(*) FROM job") == 3 * files == door.waiting()
    assert shop.read("SELECT count(*) FROM batch") == files == shop.read("SELECT count(*) FROM budget")
    if own_places is not None:
        assert (
            shop.read("SELECT max(n) FROM (SELECT count(*) AS n FROM job GROUP BY client) AS t") <= own_places
        )


def test_while_places_are_given_back_there_are_never_too_many_and_all_come_in(door: Door, shop: Any) -> None:
    # Given somebody who looks all the time
    over, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            over.append(door.waiting() > 20)

    looker = threading.Thread(target=look)
    looker.start()

    # When eight submitters come with four files each, wait for room, and cancel what has come in
    def submit(me: int) -> list[str]:
        came_in = []
        for file in range(4):
            while True:
                try:
                    opened = door.open(f"{me}-{file}", jobs=6, places=20)
                    break
                except QueueFull:
                    time.sleep(0.002)
            door.fill(opened, last=3)
            door.fill(opened, first=4, last=6)
            door.repository.close_intake(opened.batch_id)
            door.repository.cancel_batch(opened.batch_id)
            came_in.append(opened.batch_id)
        return came_in

    try:
        found = together(submit, SUBMITTERS)
    finally:
        done.set()
        looker.join()
    # Then all came in, one after the other, and there were never more than twenty
    assert [len(one) for one in found] == [4] * SUBMITTERS
    assert over
    assert not any(over)
    assert shop.read("SELECT count(*) FROM job") == 6 * 4 * SUBMITTERS
    assert door.waiting() == 0


def together(call: Callable[[int], list[str]], times: int) -> list[list[str]]:
    """Call in as many threads, which start at once, each with its number."""
    barrier = threading.Barrier(times, timeout=20)

    def start(number: int) -> list[str]:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(times) as pool:
        return [future.result(60) for future in [pool.submit(start, number) for number in range(times)]]
