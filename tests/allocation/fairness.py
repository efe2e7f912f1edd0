"""How long one client waits behind another, and whether weights are shares: windows are counted, not timed.

The baseline is the former order, asked of the same queue at the same moment: highest priority first, then the
oldest batch, whoever's it is. It knows the scheduler's own windows and SQL, not how places are shared.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path

import structlog
from sqlalchemy import text

from db.repository import Repository
from db.session import make_engine, reading
from routet2i.figures import Figure
from routet2i.settings import Settings
from scheduler.predictor.interface import open_predictor
from scheduler.service import run_window
from tests.allocation.databases import DIALECTS, NAMES, Databases
from tests.allocation.windows import submit

QUEUED = 100_000  # jobs of the client that came first
FEW = 10  # jobs of the client that comes later
BEFORE = 3  # windows that the first client had for itself
PLACES = 512  # of a window: the default of ROUTET2I_WINDOW_JOBS
WEIGHTS = {"gold": 3, "plain": 1}
WINDOWS = 20  # over which the weights are judged
FORMER = """SELECT j.client FROM job j JOIN batch b ON b.id = j.batch_id
    WHERE j.state = 'queued' AND b.state = 'open' ORDER BY j.priority DESC, j.batch_id, j.seq"""


def fairness_figures(made: Databases, *, queued: int, command: str) -> Iterator[Figure]:
    """Yield for each database how many windows few jobs wait, and by how much shares are off.

    Args:
        queued: jobs of the client that came first.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for dialect in DIALECTS:
        ours, former = windows_until_decided(made.fresh(dialect), made.folder, queued=queued)
        yield Figure(
            figure=f"windows until another client's {FEW} jobs are decided, beside {queued:,} queued jobs of"
            f" one client, {NAMES[dialect]}",
            value=ours,
            unit="windows",
            baseline=f"highest priority, then oldest batch: {former}",
            target="at most 1",
            holds=ours <= 1,
            command=command,
        )
        off, former_off = places_off(made.fresh(dialect), made.folder, windows=WINDOWS)
        yield Figure(
            figure=f"places off a share of 3 : 1, after {WINDOWS} windows of {PLACES}, {NAMES[dialect]}",
            value=off,
            unit="places",
            baseline=f"highest priority, then oldest batch: {former_off:g}",
            target="at most 1",
            holds=off <= 1,
            command=command,
        )


def windows_until_decided(url: str, home: Path, *, queued: int) -> tuple[int, int]:
    """Return windows until a newcomer's few jobs are decided, ours and in the former order."""
    engine = make_engine(url)
    repository = Repository(engine)
    window = _windows(repository, home)
    submit(repository, queued, key="big", client="big")
    for _ in range(BEFORE):
        window()
    submit(repository, FEW, key="small", client="small")
    former = _queue(repository)
    ours = 0
    while "small" in _queue(repository):
        window()
        ours += 1
    engine.dispose()
    last = max(place for place, client in enumerate(former, start=1) if client == "small")
    return ours, ceil(last / PLACES)


def places_off(url: str, home: Path, *, windows: int) -> tuple[float, float]:
    """Return how many places the heavier client is off its share, ours and in the former order."""
    engine = make_engine(url)
    repository = Repository(engine)
    window = _windows(repository, home)
    for client, weight in WEIGHTS.items():
        repository.set_weight(client, weight=weight)
        submit(repository, windows * PLACES, key=client, client=client)
    former = _queue(repository)
    for _ in range(windows):
        window()
    left = Counter(_queue(repository))
    engine.dispose()
    share = windows * PLACES * WEIGHTS["gold"] / sum(WEIGHTS.values())
    return (
        abs(windows * PLACES - left["gold"] - share),
        abs(former[: windows * PLACES].count("gold") - share),
    )


def _windows(repository: Repository, home: Path) -> Callable[[], None]:
    """Return a function that decides one window."""
    settings = Settings(home=home, window_jobs=PLACES)
    tiers = settings.read_tiers()
    predictor = open_predictor("constant", tiers=tiers)

    def window() -> None:
        run_window(repository, predictor, tiers=tiers, settings=settings, term=None)

    return window


def _queue(repository: Repository) -> list[str]:
    """Return whose jobs wait, in the former order."""
    with reading(repository.engine) as connection:
        return list(connection.execute(text(FORMER)).scalars())
