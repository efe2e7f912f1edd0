"""Whether a preview is the bill: random batches on both databases, to the micro-dollar.

It knows `tests.allocation.bills` and counts.
"""

import logging
from collections.abc import Iterator

import structlog

from db.repository import Repository
from db.session import make_engine
from routet2i.figures import Figure
from tests.allocation.bills import bill
from tests.allocation.databases import DIALECTS, NAMES, Databases

BATCHES = 100  # per database
QUICK_BATCHES = 10


def preview_figures(made: Databases, *, quick: bool, command: str) -> Iterator[Figure]:
    """Yield for each database how far reservations and charges are from what previews promised."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    batches = QUICK_BATCHES if quick else BATCHES
    for dialect in DIALECTS:
        repository = Repository(make_engine(made.fresh(dialect)))
        bills = [bill(repository, made.folder, seed=seed) for seed in range(batches)]
        repository.engine.dispose()
        apart = sum(abs(one.promised - one.reserved) + abs(one.promised - one.charged) for one in bills)
        yield Figure(
            figure=f"against what was reserved and charged, {batches} random batches, {NAMES[dialect]}",
            value=float(apart),
            unit="micro-dollars apart, in sum",
            baseline=f"{sum(one.promised for one in bills) / 1e6:,.2f} dollars promised in "
            f"{sum(len(one.lines) for one in bills):,} lines; {sum(one.repriced for one in bills)} of the "
            "batches were submitted after prices had changed",
            target="0",
            holds=apart == 0 and all(one.lines == one.kept for one in bills),
            command=command,
        )
