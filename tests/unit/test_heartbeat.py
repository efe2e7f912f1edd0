import queue

from routet2i.errors import ServiceUnavailable
from routet2i.heartbeat import Heartbeat


class Row:
    """Keeps every beat; fails the first few if told to."""

    def __init__(self, *, failures: int = 0) -> None:
        self.failures = failures
        self.states: queue.Queue[str] = queue.Queue()

    def beat(self, *, worker: str, tier: str, device: str, version: str, state: str) -> None:
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable("gone")
        assert (worker, tier, device) == ("edge-1@here", "edge", "cpu")
        self.states.put(state)


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
    assert row.states.get(timeout=5) == "idle"
    heart.drain()
    assert row.states.get(timeout=5) == "draining"
    heart.stop()
    assert row.states.get(timeout=5) == "stopped"


def test_a_worker_at_work_is_busy() -> None:
    row = Row()
    heart = heartbeat(row, busy=True)
    heart.start()
    assert row.states.get(timeout=5) == "busy"
    heart.stop()


def test_a_database_that_is_away_for_a_while_does_not_end_the_beats() -> None:
    row = Row(failures=3)
    heart = heartbeat(row, seconds=0.01)
    heart.start()
    assert row.states.get(timeout=5) == "idle"
    heart.stop()
