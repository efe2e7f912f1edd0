"""`predictor collect`: what a predictor learns from, drawn on the user's own models.

It says what will be drawn and at what price, shows how far it is, and ends where Ctrl-C finds it. What is
drawn is `scheduler.collection`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from routet2i.execution import Generator, Scorer
from routet2i.fakes import FakeGenerator, FakeScorer
from routet2i.settings import Settings
from routet2i.tiers import TierProfile
from scheduler.cli.batches import Json
from scheduler.cli.exits import Exit
from scheduler.cli.prompt_lines import PromptLines
from scheduler.cli.session import models_needed, read_settings, typed
from scheduler.cli.show import as_json, clean, console, money, write_line
from scheduler.collection import TierWork, Undrawn, draw, plan, sample
from scheduler.ratings import Ratings

Loader = Callable[[TierProfile], Generator]


def collect(
    ctx: typer.Context,
    prompts: Annotated[Path, typer.Argument(help="JSONL, CSV or text file; - reads standard input.")],
    output: Annotated[Path, typer.Option(help="Table of scores, CSV; one that is there is gone on with.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Draw so many prompts, chosen at random; default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice, and of pictures whose line has none.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:0; default: ROUTET2I_DEVICE, then the tier's.")
    ] = None,
    json: Json = False,
) -> None:
    """Draw prompts on every tier and write what the scorer says of the pictures, for `predictor train`.

    Each prompt is drawn once per tier of the tier file, at the tier's own size. Negative prompts, sizes and
    counts of the file are not used. Whatever stops it, the same command goes on where it was.

    Example: routet2i predictor collect prompts.jsonl --output ratings.csv --limit 500
    """
    settings = read_settings(ctx)
    if device is not None:
        settings = settings.with_changes(device=device)
    lines = PromptLines(prompts, settings=settings, seed_base=f"collect {seed}".encode())
    requests = sample(lines, limit=limit, seed=seed)
    table = Ratings(output)
    work = plan(requests, tiers=settings.read_tiers(), metrics=settings.read_metrics().names, table=table)
    out = console(stderr=json)
    out.print(tell(work, prompts=len(requests)), soft_wrap=True)
    try:
        undrawn = _draw(work, settings=settings, table=table) if any(one.requests for one in work) else []
    except KeyboardInterrupt:
        out.print(f"stopped; {output} keeps what is drawn, and the same command goes on", soft_wrap=True)
        raise typer.Exit(Exit.INTERRUPTED) from None
    for one in undrawn:
        console(stderr=True).print(f"tier {one.tier}: {clean(one.error)}", soft_wrap=True)
    if json:
        write_line(
            as_json(
                summary(work, prompts=len(requests), rejected=lines.rejected, undrawn=undrawn, output=output)
            )
        )
    else:
        out.print(f"scores are in {output}\nnext: {typed(ctx)} predictor train {output}", soft_wrap=True)
    if undrawn:
        raise typer.Exit(Exit.FAILED)
    lines.exit_if_rejected()


def tell(work: list[TierWork], *, prompts: int) -> str:
    """Return what will be drawn and what it costs."""
    pictures, cost = sum(len(one.requests) for one in work), sum(one.micro_usd for one in work)
    parts = ", ".join(f"{one.profile.name} {len(one.requests)} for {money(one.micro_usd)}" for one in work)
    done = prompts * len(work) - pictures
    there = f"; {done} are in the table already" if done else ""
    return f"{prompts} prompts on {len(work)} tiers: {pictures} pictures for {money(cost)} ({parts}){there}"


def summary(
    work: list[TierWork], *, prompts: int, rejected: int, undrawn: list[Undrawn], output: Path
) -> dict[str, object]:
    """Return for programs what was drawn and what it cost."""
    failed = {one.profile.name: sum(two.tier == one.profile.name for two in undrawn) for one in work}
    return {
        "output": str(output),
        "prompts": prompts,
        "rejected": rejected,
        "tiers": {
            one.profile.name: {
                "drawn": len(one.requests) - failed[one.profile.name],
                "failed": failed[one.profile.name],
                "micro_usd": one.micro_usd,
            }
            for one in work
        },
        "micro_usd": sum(one.micro_usd for one in work),
        "failed": undrawn,
    }


def _draw(work: list[TierWork], *, settings: Settings, table: Ratings) -> list[Undrawn]:
    err = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("loading", total=sum(len(one.requests) for one in work))
        load, scorer = models(settings)
        return draw(
            work,
            load=load,
            scorer=scorer,
            table=table,
            progress=lambda tier, pictures: progress.update(bar, description=tier, advance=pictures),
        )


def models(settings: Settings) -> tuple[Loader, Scorer]:
    """Return what loads a tier's generator, and the loaded scorer.

    Raises:
        MissingModels: torch or its friends are not installed.
        ModelError: the scorer cannot be loaded.
    """
    metrics = settings.read_metrics()
    if settings.fake_models:
        distinct = settings.fake_pictures == "distinct"
        return lambda tier: FakeGenerator(distinct=distinct, style=tier.name), FakeScorer(metrics.names)
    with models_needed():
        from routet2i.models.generation import load_generator
        from routet2i.models.quality import load_scorer

    def load(profile: TierProfile) -> Generator:
        return load_generator(
            profile, device=profile.device if settings.device == "auto" else settings.device
        )

    return load, load_scorer(metrics, model=settings.scorer, device=settings.device)
