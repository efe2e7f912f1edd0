"""`up` and `demo`: everything on one machine, started, watched and drained.

It prints and waits; processes are `scheduler.local`, the page is `scheduler.report`.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from db import audit
from db.audit import BatchStatus
from db.repository import Repository
from routet2i import tracing
from routet2i.contracts import new_id
from routet2i.errors import IntakeError, ServiceUnavailable
from routet2i.settings import Settings
from scheduler.cli.batches import exit_code, micro_usd, print_submission
from scheduler.cli.exits import Exit
from scheduler.cli.interrupts import Interrupts
from scheduler.cli.session import open_repository, program, read_settings, typed
from scheduler.cli.show import console, money, table
from scheduler.cli.watch import watch
from scheduler.doctor import refuse_broken
from scheduler.local import READY_SECONDS, Stack
from scheduler.report import compared, write_report
from scheduler.submit import submit_file

LOOK_SECONDS = 0.25  # between two looks at the children
DEMO_FILE = Path("examples") / "prompts.jsonl"
DEMO_USD = "3.50"  # 96 pictures: all edge $0.864, all cloud $6.24, half and half $3.552
DEMO_SETTINGS: Mapping[str, Any] = {  # where the user has not set them
    "home": Path("demo"),
    "window_jobs": 24,  # several windows of a small file: the budget is seen at work
    "shadow_share": 0.25,  # about 24 jobs are drawn on both tiers, for about $0.90 beside the batch's money
    "shadow_budget_micro_usd": 5_000_000,  # enough for five demonstrations an hour
}
SHADOW_SECONDS = 120.0  # waited for second pictures, once the batch is complete


def up(ctx: typer.Context) -> None:
    """Run everything on this machine until Ctrl-C: broker, scheduler, a worker per tier, HTTP, Flower.

    It prints the address of its pages, and a key. Then submit from another terminal, in the same folder or
    with the same --home. What is there already goes on where it was.

    Example: routet2i up
    """
    settings = read_settings(ctx)
    out = console()
    with Interrupts() as interrupts:
        stack = Stack(settings, say=lambda text: out.print(text, soft_wrap=True))
        with _running(stack, interrupts=interrupts, out=out):
            if not interrupts.stop.is_set():
                out.print(
                    f"ready; in another terminal: {typed(ctx)} submit FILE --budget 2.50", soft_wrap=True
                )
            while not interrupts.stop.wait(LOOK_SECONDS):
                stack.tend()
        if interrupts.hurried:
            raise typer.Exit(Exit.INTERRUPTED)


@contextmanager
def _running(stack: Stack, *, interrupts: Interrupts, out: Console) -> Iterator[None]:
    """Start a stack, wait until it is ready, and drain it at the end, whatever happens between."""
    refuse_broken(stack.settings)
    stack.start()
    try:
        out.print(f"home {stack.settings.home.resolve()}, log {stack.log}", soft_wrap=True)
        if stack.api is not None:
            out.print(f"HTTP   {stack.api.url}  key {stack.api.key}", soft_wrap=True)
            out.print(f"pages  {stack.api.url}/login#key={stack.api.key}", soft_wrap=True)
        if stack.flower is not None:
            access = stack.flower
            out.print(f"Flower {access.url}  user {access.user}  password {access.password}", soft_wrap=True)
        _await_ready(stack, interrupts=interrupts)
        yield
    finally:
        out.print("draining: workers finish their microbatch (Ctrl-C again: kill them)", soft_wrap=True)
        stack.stop(hurry=lambda: interrupts.hurried)
        out.print("stopped")


def _await_ready(stack: Stack, *, interrupts: Interrupts) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not stack.is_ready() and not interrupts.stop.wait(LOOK_SECONDS):
        stack.tend()
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"the workers are not ready after {READY_SECONDS:.0f} s; see {stack.log}"
            )


def demo(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="Prompts of the shape world; default: examples/prompts.jsonl.")
    ] = None,
    budget: Annotated[str, typer.Option(metavar="USD", help="Limit of the batch.")] = DEMO_USD,
) -> None:
    """Start the stack, send the example prompts through both tiers under a budget, and write a report.

    Every call submits a new batch. Chance picks a quarter of its jobs to be drawn by both tiers, so that the
    report can hold predictions against pictures; ROUTET2I_SHADOW_SHARE=0 leaves that out. Without --home
    and ROUTET2I_HOME the home is ./demo.

    Example: routet2i demo --budget 2.00
    """
    settings = read_settings(ctx)
    settings = settings.with_changes(
        **{name: value for name, value in DEMO_SETTINGS.items() if name not in settings.model_fields_set}
    )
    out = console()
    limit = micro_usd(budget)
    path = file or _example()
    with Interrupts() as interrupts:
        stack = Stack(settings, say=lambda text: out.print(text, soft_wrap=True))
        with _running(stack, interrupts=interrupts, out=out):
            repository = open_repository(settings)
            with tracing.running(settings, service="submit"):
                submission = submit_file(
                    repository,
                    path,
                    tiers=settings.read_tiers(),
                    settings=settings,
                    budget_micro_usd=limit,
                    key=new_id(),  # a demonstration that finds its old batch would show nothing
                )
            print_submission(submission)
            ended = watch(repository, submission.batch_id, console=out, stop=interrupts.stop, tend=stack.tend)
            _await_shadows(repository, ended.batch_id, stack=stack, interrupts=interrupts)
        if not ended.complete:
            raise typer.Exit(Exit.INTERRUPTED)
    _print_outcome(ended, scores=audit.mean_scores(repository.engine, ended.batch_id), out=out)
    _print_predictions(repository, ended.batch_id, settings=settings, out=out)
    page = write_report(repository, ended.batch_id, settings=settings)
    out.print(f"report {page}", soft_wrap=True)
    out.print(f"rows   {program()} --home {settings.home} results {ended.batch_id}", soft_wrap=True)
    raise typer.Exit(exit_code(ended))


def _await_shadows(repository: Repository, batch_id: str, *, stack: Stack, interrupts: Interrupts) -> None:
    """Wait a while for the second pictures of the jobs that both tiers draw."""
    deadline = time.monotonic() + SHADOW_SECONDS
    while repository.shadow_spending(batch_id).unfinished and time.monotonic() < deadline:
        if interrupts.stop.wait(LOOK_SECONDS):
            return
        stack.tend()


def _example() -> Path:
    """Return the example file of the working folder, or of the clone this program runs from."""
    candidates = (DEMO_FILE, Path(__file__).parents[2] / DEMO_FILE)
    for path in candidates:
        if path.is_file():
            return path
    raise IntakeError(f"no {DEMO_FILE} here; run it in a clone, or name a file: routet2i demo FILE")


def _print_outcome(ended: BatchStatus, *, scores: dict[str, dict[str, float]], out: Console) -> None:
    """Print split, device time, spend against budget, and mean scores per tier."""
    jobs = sum(ended.by_tier.values()) or 1
    tiers = sorted(ended.by_tier, reverse=True)  # edge before cloud
    split = [
        (tier, ended.by_tier[tier], f"{ended.by_tier[tier] / jobs:.0%}", f"{ended.device_seconds[tier]:.1f}")
        for tier in tiers
    ]
    out.print(table("split", columns=("tier", "jobs", "share", "device seconds"), rows=split))
    out.print(f"spent {money(ended.spent_micro_usd)} of {money(ended.limit_micro_usd)}")
    metrics = list(dict.fromkeys(metric for one in scores.values() for metric in one))
    rows = [(metric, *(scores.get(tier, {}).get(metric) for tier in tiers)) for metric in metrics]
    out.print(table("mean scores", columns=("metric", *tiers), rows=rows))


def _print_predictions(repository: Repository, batch_id: str, *, settings: Settings, out: Console) -> None:
    """Print who decided, and how predictions fared on the jobs that both tiers drew."""
    deciders = {
        (one.predictor_name, one.predictor_version) for one in audit.windows(repository.engine, batch_id)
    }
    for name, version in sorted(deciders):
        out.print(f"decided by predictor {name} {version}")
    shadows = repository.shadow_spending(batch_id)
    if not shadows.jobs:
        return
    rows = [
        (
            f"{one.name} {one.version}",
            one.drift.pairs,
            one.drift.predicted,
            one.drift.measured,
            one.drift.spearman,
        )
        for one in compared(repository, batch_id, settings=settings)
    ]
    columns = ("predictor", "pairs", "mean predicted", "mean measured", "rank correlation")
    out.print(table("PRS of jobs that both tiers drew", columns=columns, rows=rows))
    out.print(
        f"their second pictures cost {money(shadows.spent_micro_usd)} more, from a budget of their own",
        soft_wrap=True,
    )
