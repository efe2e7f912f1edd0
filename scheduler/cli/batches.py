"""`submit`, `status` and `cancel`: a file becomes a batch, a batch is watched or ended.

It parses and prints; what happens is `scheduler.submit` and `db`.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation, Overflow
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from db import audit
from db.audit import BatchStatus
from db.repository import Repository
from routet2i import tracing
from routet2i.contracts import CancelReport, JobState
from routet2i.errors import QueueFull, UsageError
from routet2i.heartbeat import LIVE_SECONDS
from routet2i.settings import Settings
from scheduler.cli.durations import told
from scheduler.cli.exits import Exit
from scheduler.cli.session import open_repository, read_settings, typed
from scheduler.cli.show import as_json, clean, console, money, span, table, write_line
from scheduler.cli.watch import finished, summary, watch
from scheduler.deadlines import EXAMPLES, NO_DEADLINE, read_deadline
from scheduler.duration import Duration, device_seconds, duration
from scheduler.intake import Format
from scheduler.speeds import Speeds
from scheduler.submit import Submission, submit_file

SHOWN = 20  # rejections and batches on a terminal; the database has all
WAIT_SECONDS = 1.0  # between two knocks at the door of a full queue

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def micro_usd(text: str) -> int:
    """Return dollars as micro-dollars; raises UsageError for what is no amount."""
    try:
        amount = Decimal(text.removeprefix("$")) * 1_000_000
    except (InvalidOperation, Overflow):
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value() or amount > 10**15:
        raise UsageError(f"{text!r} is no amount in dollars; write e.g. --budget 2.50")
    return int(amount)


def submit(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or text file; - reads standard input.")],
    budget: Annotated[
        str | None,
        typer.Option(metavar="USD", help="Limit of the whole batch; none: no limit, or the preview's cost."),
    ] = None,
    from_preview: Annotated[
        str | None,
        typer.Option(
            "--from-preview",
            metavar="ID",
            help="Tiers and prices as that preview of the file said: its id, the beginning of it, or 'last'.",
        ),
    ] = None,
    client: Annotated[
        str, typer.Option(metavar="NAME", help="Whose jobs: clients share the queue, and may have budgets.")
    ] = "default",
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help=f"Until when lines are wanted that do not say it themselves: {EXAMPLES}."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait while the queue is full; else the file is refused with 9.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(help="Makes the call repeatable; default: of file, budget, preview and deadline."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name shown to people; default: the file's.")] = None,
    fmt: Annotated[
        Format | None, typer.Option("--format", help="Default: by the file's name; standard input: jsonl.")
    ] = None,
    json: Json = False,
) -> None:
    """Submit a file of prompts as one batch with one budget.

    Good lines become jobs; each bad line is reported with its reason and a remedy, and the exit code is 7.
    The same file with the same budget (or the same --key) is the same batch: it is never submitted twice.

    Example: routet2i submit prompts.jsonl --budget 2.50
    Example: routet2i submit prompts.jsonl --from-preview last
    Example: routet2i submit urgent.csv --client press --deadline 2h --wait
    """
    settings = read_settings(ctx)
    limit = None if budget is None else micro_usd(budget)
    repository = open_repository(settings)
    preview = None if from_preview is None else repository.find_preview(from_preview)
    wanted = NO_DEADLINE if deadline is None else read_deadline(deadline, now_ms=time.time_ns() // 1_000_000)
    err = console(stderr=True)
    with (
        tracing.running(settings, service="submit"),
        Progress(console=err, transient=True, disable=json or not err.is_terminal) as progress,
    ):
        bar = progress.add_task("submitting", total=None)
        submission = submit_file(
            repository,
            None if str(file) == "-" else file,
            tiers=settings.read_tiers(),
            settings=settings,
            budget_micro_usd=limit,
            key=key,
            name=name,
            client=client,
            deadline=wanted,
            fmt=fmt,
            preview=preview,
            progress=lambda done, total: progress.update(
                bar, description="submitting", completed=done, total=total
            ),
            wait=_patience(progress, bar, quiet=json) if wait else None,
        )
    if json:
        write_line(as_json(submission))
    else:
        print_submission(submission)
        console().print(f"next: {typed(ctx)} status {submission.batch_id} --watch", soft_wrap=True)
    if submission.rejected_count:
        raise typer.Exit(Exit.REJECTED)


def _patience(progress: Progress, bar: TaskID, *, quiet: bool) -> Callable[[QueueFull], None]:
    """Return what waits a moment at a full queue and says so: in the bar, or once where there is none."""
    told = quiet

    def wait(full: QueueFull) -> None:
        nonlocal told
        text = f"waiting for room: {full.waiting:,} of at most {full.limit:,} jobs wait"
        progress.update(bar, description=text)
        if not told and progress.disable:
            progress.console.print(text, soft_wrap=True)
            told = True
        time.sleep(WAIT_SECONDS)

    return wait


def print_submission(submission: Submission) -> None:
    """Say what was accepted and what was not."""
    out = console()
    if submission.rejected_count:
        out.print(
            table(
                f"{submission.rejected_count} rejected",
                columns=("line", "reason", "remedy"),
                rows=[(one.line_no, one.reason, one.remedy) for one in submission.rejected[:SHOWN]],
            )
        )
        if submission.rejected_count > SHOWN:
            out.print(f"... and {submission.rejected_count - SHOWN} more: table `rejected` has all")
    already = "" if submission.created else " (submitted before, nothing was added)"
    out.print(
        f"batch {submission.batch_id}{already}\n"
        f"accepted {submission.accepted}, rejected {submission.rejected_count}, "
        f"pictures {submission.pictures}, budget {money(submission.budget_micro_usd)} "
        f"(all on the edge tier: {money(submission.floor_micro_usd)})",
        soft_wrap=True,
    )
    if submission.preview_id is not None:
        out.print(
            f"tiers and prices of preview {submission.preview_id}: {money(submission.preview_micro_usd)}"
            " if every job succeeds",
            soft_wrap=True,
        )
    if submission.repriced_jobs:
        out.print(
            f"the tier file has other prices now for {submission.repriced_jobs} of these jobs (all: "
            f"{money(submission.repriced_micro_usd)}); the preview's stand",
            soft_wrap=True,
        )


def status(
    ctx: typer.Context,
    batch: Annotated[
        str | None, typer.Argument(help="Id, the beginning of an id, or 'last'; none: all batches.")
    ] = None,
    watching: Annotated[bool, typer.Option("--watch", help="Stay, with a progress bar.")] = False,
    json: Json = False,
) -> None:
    """Show where a batch stands, or the newest batches.

    With --watch the exit code is 8 if jobs failed or were cancelled.

    Example: routet2i status last --watch
    """
    if watching and json:
        raise UsageError("--watch is for people, --json for programs; choose one")
    settings = read_settings(ctx)
    repository = open_repository(settings)
    if batch is None and not watching:
        _print_batches(audit.batches(repository.engine, limit=SHOWN), json=json)
        return
    batch_id = repository.resolve_batch(batch or "last")
    if watching:
        ended = watch(repository, batch_id, console=console(), stop=threading.Event())
        raise typer.Exit(exit_code(ended))
    found = audit.batch_status(repository.engine, batch_id)
    live = repository.live_workers(within_seconds=LIVE_SECONDS)
    decided = bool(found.by_tier) and not found.complete
    rest = _rest(found, repository, settings=settings, live=live) if decided else None
    if json:
        expected = None if rest is None else rest.expected
        write_line(as_json(asdict(found) | {"left": expected, "left_from": rest and rest.source}))
        return
    _print_status(found, rest=rest)
    if not found.complete and not live:
        console().print("no worker is alive; type: routet2i up")


def exit_code(found: BatchStatus) -> Exit:
    """Return what a finished batch means for a program."""
    bad = found.by_state[JobState.FAILED] + found.by_state[JobState.CANCELLED]
    return Exit.FAILED if bad else Exit.OK


def _print_batches(found: list[BatchStatus], *, json: bool) -> None:
    if json:
        write_line(as_json(found))
        return
    if not found:
        console().print("no batch yet; type: routet2i submit FILE")
        return
    rows = [
        (
            one.batch_id,
            one.name,
            one.client,
            "complete" if one.complete else one.state,
            f"{finished(one)}/{one.n_accepted}",
            one.n_rejected,
            money(one.spent_micro_usd),
            money(one.limit_micro_usd),
        )
        for one in found
    ]
    columns = ("batch", "name", "client", "state", "done", "rejected", "spent", "budget")
    console().print(table(None, columns=columns, rows=rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rest:
    """What a batch still needs."""

    expected: Duration
    text: str
    source: str  # of the seconds per picture


def _rest(
    found: BatchStatus, repository: Repository, *, settings: Settings, live: Mapping[str, int]
) -> _Rest:
    """Return how long the rest of a batch takes if no other is drawn beside it.

    Jobs that no window has decided are expected to split as those before them.
    """
    speeds = Speeds.of(settings.read_tiers(), repository.speeds())
    assigned = sum(found.by_tier.values())
    work = device_seconds(
        repository.work_left(found.batch_id),
        speeds=speeds,
        split={tier: jobs / assigned for tier, jobs in found.by_tier.items()},
    )
    expected = duration(dict(sorted(work.items(), reverse=True)), live=live)  # edge before cloud
    return _Rest(
        expected=expected,
        text=told(expected, speeds=speeds),
        source=speeds.sources(expected.workers),
    )


def _print_status(found: BatchStatus, *, rest: _Rest | None) -> None:
    out = console()
    out.print(f"batch {found.batch_id}  {clean(found.name)}  (client {clean(found.client)})", soft_wrap=True)
    out.print(
        f"{'complete' if found.complete else found.state}: {finished(found)} of {found.n_accepted} done, "
        f"{found.n_rejected} rejected, {summary(found)}"
    )
    out.print(", ".join(f"{state.value} {jobs}" for state, jobs in found.by_state.items() if jobs))
    if used := sorted(found.device_seconds.items(), reverse=True):
        text = ", ".join(f"{clean(tier)} {seconds:.1f}" for tier, seconds in used)
        out.print(f"device seconds: {text}", soft_wrap=True)
    if rest is not None and rest.expected.seconds:
        out.print(f"left: {rest.text}", soft_wrap=True)
    elif (pace := seconds_left(found, now=datetime.now(tz=UTC))) is not None:
        out.print(f"left: about {span(pace)} at the pace so far", soft_wrap=True)


def seconds_left(found: BatchStatus, *, now: datetime) -> float | None:
    """Return the time the rest needs at the pace so far, in seconds; None if there is no pace or no rest."""
    done = finished(found)
    if found.complete or not done:
        return None
    return (now - found.created_at).total_seconds() / done * (found.n_accepted - done)


def cancel(
    ctx: typer.Context,
    batch: Annotated[str | None, typer.Argument(help="Id, the beginning of an id, or 'last'.")] = None,
    job: Annotated[str | None, typer.Option(help="One job instead: its id or custom_id.")] = None,
    json: Json = False,
) -> None:
    """Cancel what has not been drawn: a whole batch, or one job.

    Example: routet2i cancel last
    Example: routet2i cancel --job shape-007
    """
    repository = open_repository(read_settings(ctx))
    if batch is None and job is None:
        raise UsageError("say what to cancel: a batch, or --job JOB")
    batch_id = None if batch is None else repository.resolve_batch(batch)
    if job is not None:
        job_id = repository.resolve_job(job, batch_id=batch_id)
        _print_job(job_id, repository.cancel_job(job_id), json=json)
    elif batch_id is not None:
        _print_report(batch_id, repository.cancel_batch(batch_id), json=json)


def _print_job(job_id: str, was: JobState, *, json: bool) -> None:
    if json:
        write_line(as_json({"job_id": job_id, "was": was}))
        return
    told = {
        JobState.QUEUED: "it is cancelled",
        JobState.ASSIGNED: "it is cancelled before a worker begins it",
        JobState.RUNNING: "a worker has it: it stops before the picture if it can",
    }
    console().print(f"job {job_id} was {was.value}: {told.get(was, 'nothing to cancel')}")


def _print_report(batch_id: str, report: CancelReport, *, json: bool) -> None:
    if json:
        write_line(as_json({"batch_id": batch_id, "report": report}))
        return
    console().print(
        f"batch {batch_id}: {report.cancelled} cancelled, {report.running} with a worker that stops before "
        f"the next job, {report.already_final} were final"
    )
