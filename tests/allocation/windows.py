"""Jobs per second through windows: read, predicted by a rule, decided, recorded, marked sent, published.

The queue is a function that does nothing, the predictor a constant; the database is durable, its planner
knows what submitting tells it, and there is no worker. It knows the scheduler's own functions and a clock.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import structlog

from db.repository import Repository
from db.session import make_engine
from routet2i.contracts import GenerationRequest, SentMicrobatch
from routet2i.figures import Figure
from routet2i.settings import Settings
from routet2i.tiers import TierProfile
from scheduler.dispatch import send_ready
from scheduler.memory import Memory
from scheduler.predictor.interface import open_predictor
from scheduler.service import run_window
from tests.allocation.databases import DIALECTS, NAMES, Databases

JUDGED = 10_000  # pending jobs of the target
TARGETS = {"sqlite": 5_000, "postgresql": 10_000}  # jobs per second
PENDING = (1_000, JUDGED, 100_000, 1_000_000)
WINDOW_JOBS = 1_000  # so that the smallest number pending fills one
MEASURED = 10_000  # jobs that are decided, however many are pending
STEP = 5_000  # jobs per transaction while they are written
ALL = 1_000_000  # microbatches in flight: no worker ever takes one
ROUNDS = 3  # of a database that is new each time; the median counts
FLAT = 1.5  # times slower at most, from the fewest pending to the most


def window_figures(made: Databases, *, pending: Sequence[int], command: str) -> Iterator[Figure]:
    """Yield for each database the jobs per second, and how they fall with the number pending."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for dialect in DIALECTS:
        rates = {
            count: median(
                jobs_per_second(made.fresh(dialect), made.folder, pending=count)
                for _ in range(1 if count > JUDGED else ROUNDS)
            )
            for count in pending
        }
        yield Figure(
            figure=f"window loop, {JUDGED:,} pending jobs, {WINDOW_JOBS:,} a window, {NAMES[dialect]}",
            value=rates[JUDGED] / 1000,
            unit="thousand jobs/s, recorded and dispatched",
            baseline="",
            target=f"at least {TARGETS[dialect] // 1000}",
            holds=rates[JUDGED] >= TARGETS[dialect],
            command=command,
        )
        fewest, most = min(pending), max(pending)
        slower = rates[fewest] / rates[most]
        told = ", ".join(f"{count:,}: {rate:,.0f}" for count, rate in rates.items())
        yield Figure(
            figure=f"window loop, {fewest:,} pending beside {most:,}, {NAMES[dialect]}",
            value=slower,
            unit="times as fast",
            baseline=f"jobs/s by number pending: {told}",
            target=f"flat: at most {FLAT:g}",
            holds=slower <= FLAT,
            command=command,
        )


def jobs_per_second(url: str, home: Path, *, pending: int) -> float:
    """Return jobs recorded and dispatched per second while at least about so many are pending.

    With fewer pending than are measured, the next ones are submitted when the last are decided; the clock
    stands meanwhile.
    """
    engine = make_engine(url)
    repository = Repository(engine)
    settings = Settings(home=home, window_jobs=min(WINDOW_JOBS, pending))
    tiers = settings.read_tiers()
    predictor = open_predictor("constant", tiers=tiers)
    published = 0

    def publish(_microbatch: SentMicrobatch, _profile: TierProfile) -> None:
        nonlocal published
        published += 1

    memory = Memory()
    seconds, decided, batches = 0.0, 0, 0
    while decided < MEASURED:
        submit(repository, pending, key=f"batch-{batches}")
        batches += 1
        left = min(pending, MEASURED - decided)
        started = time.perf_counter()
        while left > 0:
            window = run_window(
                repository, predictor, tiers=tiers, settings=settings, term=None, memory=memory
            )
            if window is None or not window.assigned:
                raise RuntimeError(f"a window assigned nothing while {left} jobs waited")
            left -= window.assigned
            decided += window.assigned
            send_ready(repository, publish=publish, tiers=tiers, sent_per_slot=ALL, live={})
        seconds += time.perf_counter() - started
    if not published:
        raise RuntimeError("nothing was published")
    engine.dispose()
    return decided / seconds


def submit(repository: Repository, count: int, *, key: str, client: str = "default") -> None:
    """Write a batch under a limit that pays for everything."""
    opened = repository.open_batch(
        client=client, idem_key=key, body_sha256=key, name=key, budget_micro_usd=count * 65_000
    )
    for start in range(1, count + 1, STEP):
        last = min(start + STEP - 1, count)
        requests = [
            GenerationRequest(
                line_no=line, custom_id=f"line-{line}", prompt=f"{line % 9} red circles and a star", seed=line
            )
            for line in range(start, last + 1)
        ]
        repository.add_jobs(opened.batch_id, requests, [], cursor_line=last)
    repository.close_intake(opened.batch_id)
