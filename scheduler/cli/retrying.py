"""`retry`: what failed, or what a tier drew, becomes a new batch, on a tier of your choice.

It parses and prints; what happens is `scheduler.retrying`.
"""

from typing import Annotated

import typer

from db.audit import job_story
from routet2i import tracing
from routet2i.errors import UsageError
from scheduler.cli.batches import Json, micro_usd
from scheduler.cli.session import open_repository, read_settings, typed
from scheduler.cli.show import as_json, console, money, write_line
from scheduler.retrying import retry as retry_jobs
from scheduler.submit import queue_limits


def retry(
    ctx: typer.Context,
    batch: Annotated[str | None, typer.Argument(help="Id, the beginning of an id, or 'last'.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every job of the batch that failed.")] = False,
    job: Annotated[
        list[str] | None, typer.Option(help="One job, failed or cancelled: its id or custom_id; repeat it.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="TIER", help="The tier that draws them; default: what they asked for."),
    ] = None,
    drawn_by: Annotated[
        str | None,
        typer.Option(metavar="TIER", help="Instead of failed jobs: all that this tier drew; needs --to."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="USD", help="Limit of the new batch; none: no limit.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Makes the call repeatable; default: the next round of this batch.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name shown to people.")] = None,
    json: Json = False,
) -> None:
    """Try failed jobs again, or draw jobs on another tier: a new batch with the same prompts and seeds.

    What failed stays failed in the audit; the new jobs name it. Each job is retried once, and a retry that
    fails can be retried in its turn, so the same command twice does nothing twice.

    Example: routet2i retry last --failed --budget 0.50
    Example: routet2i retry last --job shape-007
    Example: routet2i retry last --failed --to cloud
    Example: routet2i retry last --drawn-by edge --to cloud --budget 1.50
    """
    if sum((failed, bool(job), drawn_by is not None)) != 1 or (batch is None and not job):
        raise UsageError("say what to retry: BATCH --failed, BATCH --drawn-by TIER, or --job JOB")
    settings = read_settings(ctx)
    tiers = settings.read_tiers()
    for option, tier in (("--to", to), ("--drawn-by", drawn_by)):
        if tier is not None and tier not in tiers.routed:
            raise UsageError(f"{option} {tier!r} is no tier; write {' or '.join(tiers.routed)}")
    if drawn_by is not None and (to is None or to == drawn_by):
        raise UsageError(f"say which other tier is to draw what {drawn_by} drew: --to TIER")
    repository = open_repository(settings)
    origin = None if batch is None else repository.resolve_batch(batch)
    job_ids = [repository.resolve_job(one, batch_id=origin) for one in job or ()]
    origins = {origin} if origin else {job_story(repository.engine, one).batch_id for one in job_ids}
    if len(origins) != 1:
        raise UsageError("these jobs are of several batches; retry those of one batch at a time")
    with tracing.running(settings, service="submit"):
        made = retry_jobs(
            repository,
            origins.pop(),
            job_ids=job_ids or None,
            tiers=tiers,
            limits=queue_limits(settings),
            budget_micro_usd=None if budget is None else micro_usd(budget),
            key=key,
            name=name,
            tier=to,
            drawn_by=drawn_by,
        )
    if json:
        write_line(as_json(made))
        return
    out = console()
    if not made.jobs:
        before = f"; batch {made.batch_id} has the retries" if made.batch_id else ""
        out.print(f"nothing to retry in batch {made.origin}{before}", soft_wrap=True)
        return
    out.print(
        f"batch {made.batch_id}: {made.jobs} jobs, {made.pictures} pictures, "
        f"budget {money(made.budget_micro_usd)} "
        f"(all on the {to or 'edge'} tier: {money(made.floor_micro_usd)})\n"
        f"next: {typed(ctx)} status {made.batch_id} --watch",
        soft_wrap=True,
    )
