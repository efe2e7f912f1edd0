"""The progress bar of a batch: done, tiers, spend against budget, time left.

It reads the database again and again; it knows nothing of workers and queues.
"""

import threading
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from db import audit
from db.audit import BatchStatus
from db.repository import Repository
from routet2i.contracts import JobState
from scheduler.cli.show import clean, money

LOOK_SECONDS = 0.5


def finished(status: BatchStatus) -> int:
    """Return how many jobs have their outcome."""
    return sum(jobs for state, jobs in status.by_state.items() if state.is_final)


def summary(status: BatchStatus) -> str:
    """Return tiers, spend and trouble in one line."""
    parts = [f"{tier} {jobs}" for tier, jobs in sorted(status.by_tier.items(), reverse=True)]
    parts.append(f"{money(status.spent_micro_usd)} of {money(status.limit_micro_usd)}")
    parts += [
        f"{status.by_state[state]} {state.value}"
        for state in (JobState.FAILED, JobState.CANCELLED)
        if status.by_state[state]
    ]
    return " · ".join(parts)


def watch(
    repository: Repository,
    batch_id: str,
    *,
    console: Console,
    stop: threading.Event,
    tend: Callable[[], None] = lambda: None,
) -> BatchStatus:
    """Show a batch until it is complete or `stop` is set; return where it stands then.

    Args:
        tend: called at each look.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[summary]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        bar = progress.add_task("", total=None, summary="")
        while True:
            status = audit.batch_status(repository.engine, batch_id)
            progress.update(
                bar,
                description=clean(status.name),
                total=status.n_accepted,
                completed=finished(status),
                summary=summary(status),
            )
            if status.complete or stop.is_set():
                return status
            tend()
            stop.wait(LOOK_SECONDS)
