import queue

import pytest

from routet2i.errors import ServiceUnavailable
from routet2i.heartbeat import Heartbeat


class Row:
    """Keeps every beat; fails the first few if told to."""

    def __init__(self, *, failures: int = 0, old_work: bool = False) -> None:
        self.failures = failures
        self.old_work = old_work
        self.states: queue.Queue[str] = queue.Queue()

    def beat(self, *, worker: str, tier: str, device: str, version: str, state: str) -> None:
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable("gone")
        assert (worker, tier, device) == ("edge-1@here", "edge", "cpu")
        self.states.put(state)

    def has_old_work(self, *, tier: str, seconds: float) -> bool:
        assert tier == "edge"
        return self.old_work


def heartbeat(row: Row, *, busy: bool = False, seconds: float = 60) -> Heartbeat:
    return Heartbeat(
        open_store=lambda: row,
        worker="edge-1@here",
        tier="edge",
        device="cpu",
        is_busy=lambda: busy,
        seconds=seconds,
    )


def test_a_worker_beats_at_once_says_that_it_drains_and_says_good_bye() -> None:
    row = Row()
    heart = heartbeat(row)
    heart.start()
    assert row.states.get(timeout=60) == "idle"
    heart.drain()
    assert row.states.get(timeout=60) == "draining"
    heart.stop()
    assert row.states.get(timeout=60) == "stopped"


def test_a_worker_at_work_is_busy() -> None:
    row = Row()
    heart = heartbeat(row, busy=True)
    heart.start()
    assert row.states.get(timeout=60) == "busy"
    heart.stop()


def test_a_database_that_is_away_for_a_while_does_not_end_the_beats() -> None:
    row = Row(failures=3)
    heart = heartbeat(row, seconds=0.01)
    heart.start()
    assert row.states.get(timeout=60) == "idle"
    heart.stop()


def deaf(row: Row, *, busy: bool) -> list[str]:
    """Return what a worker does that nobody sends anything for a while."""
    asked: list[str] = []
    heart = Heartbeat(
        open_store=lambda: row,
        worker="edge-1@here",
        tier="edge",
        device="cpu",
        is_busy=lambda: busy,
        seconds=0.01,
        on_turn=lambda: asked.append("turn"),
        on_deaf=lambda: asked.append("deaf"),
        deaf_seconds=0.05,
    )
    heart.start()
    for _ in range(30):
        row.states.get(timeout=60)
    heart.stop()
    return asked


def test_a_worker_that_is_idle_beside_old_work_asks_once_to_be_started_again() -> None:
    assert deaf(Row(old_work=True), busy=False).count("deaf") == 1


def test_a_worker_without_work_or_with_enough_of_it_is_not_deaf() -> None:
    assert "deaf" not in deaf(Row(old_work=False), busy=False)
    assert "deaf" not in deaf(Row(old_work=True), busy=True)


def test_the_pulse_goes_on_while_the_database_is_away() -> None:
    assert deaf(Row(failures=3), busy=True).count("turn") > 3


@pytest.mark.parametrize("busy", [True, False])
def test_a_worker_at_work_looks_at_its_work_with_each_beat(busy: bool) -> None:
    row, seen = Row(), queue.Queue[object]()
    heart = Heartbeat(
        open_store=lambda: row,
        worker="edge-1@here",
        tier="edge",
        device="cpu",
        is_busy=lambda: busy,
        seconds=0.01,
        on_busy=seen.put,
    )
    heart.start()
    for _ in range(5):
        row.states.get(timeout=60)
    heart.stop()
    assert seen.empty() is not busy
    assert not busy or seen.get() is row
