"""`preview`: what a file would cost and bring, before anything is submitted.

It reads the file, asks the predictor, prints, and keeps the plan where there is a database, so that it can be
submitted as it is; the plan itself is `scheduler.preview`. Nothing is drawn and no money is held.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from db.repository import Repository
from routet2i.contracts import GenerationRequest, PreviewHead
from routet2i.errors import BudgetTooSmall, UsageError
from routet2i.heartbeat import LIVE_SECONDS
from scheduler.cli.batches import Json, micro_usd
from scheduler.cli.durations import told
from scheduler.cli.networks import open_named, registry_of
from scheduler.cli.prompt_lines import PromptLines
from scheduler.cli.session import read_settings, typed
from scheduler.cli.show import as_json, console, money, shortened, span, table, write_line
from scheduler.duration import Duration, device_seconds, duration
from scheduler.predictor.interface import Predictor
from scheduler.predictor.yardsticks import yardstick_of
from scheduler.preview import Cut, Plan, Preview, plan
from scheduler.preview_draft import Draft
from scheduler.preview_lines import preview_lines
from scheduler.prompt_file import prompt_format
from scheduler.quality_curve import QualityCurve
from scheduler.speeds import Speeds

ASKED = 256  # prompts at once: a progress bar that moves, and little padding
POINTS = 21  # of the curve on a terminal
BAR = 30  # characters of a full bar
PROMPT = 60  # characters of a prompt that are shown


def preview(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or text file; - reads standard input.")],
    budget: Annotated[
        str | None, typer.Option(metavar="USD", help="Limit of the batch; none: no limit.")
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Instead of a budget: the cheapest that brings this share of all-cloud."
        ),
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Quality against money, with the knee.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw that curve into this PNG file.")] = None,
    json: Json = False,
) -> None:
    """Say what a file would cost and bring: split, money, time, predicted quality, the job at the cut.

    Quality is gain: how far predicted pictures are above the edge tier's, as a share of what all jobs on the
    cloud tier would gain. The plan is kept: submit it with --from-preview, and it is the bill.

    Example: routet2i preview prompts.jsonl --budget 2.50
    """
    if budget is not None and quality is not None:
        raise UsageError("--budget and --quality exclude each other; type one of them")
    if quality is not None and not 0.0 < quality <= 1.0:
        raise UsageError(f"--quality {quality:g} must be above 0 and at most 1; write e.g. --quality 0.95")
    limit = None if budget is None else micro_usd(budget)
    settings = read_settings(ctx)
    tiers = settings.read_tiers()
    lines = PromptLines(file, settings=settings, now_ms=time.time_ns() // 1_000_000, tiers=tiers.routed)
    requests = iter(lines)
    first = list(islice(requests, ASKED))
    if not first:
        lines.exit_if_rejected()
    predictor = open_named(None, settings=settings)
    with Draft(tiers=tiers, yardstick=yardstick_of(predictor)) as draft:
        _ask(predictor, chain(first, requests), draft=draft)
        floor = draft.floor_micro_usd
        if limit is not None and limit < floor:
            raise BudgetTooSmall(
                f"the budget of {money(limit)} does not cover {len(draft)} jobs at their cheapest; "
                f"type --budget {money(floor).removeprefix('$')} or more"
            )
        repository = registry_of(settings)
        speeds = Speeds.of(tiers, () if repository is None else repository.speeds())
        made = plan(draft, budget=limit, quality=quality, speeds=speeds)
        takes = _time(made.preview, speeds=speeds, repository=repository)
        kept = _keep(made, draft, file=file, lines=lines, predictor=predictor, repository=repository)
    if plot is not None:
        from scheduler.quality_plot import draw_curve

        draw_curve(made.curve, plot, budget=made.preview.micro_usd, all_cloud=made.preview.gain_all_cloud)
    if json:
        points = [_point(made.curve, point, made.preview) for point in made.curve.sampled(POINTS)]
        said = {
            "preview_id": kept,
            "predictor": predictor.name,
            "version": predictor.version,
            "rejected": lines.rejected,
            "duration": takes.alone,
            "duration_behind_what_waits": takes.behind,
            "pictures_that_wait": takes.waiting,
            "disagreements": speeds.disagreements(),
        }
        write_line(as_json(said | {"preview": made.preview} | ({"curve": points} if curve else {})))
    else:
        out = console()
        _print(made, predictor=predictor, out=out)
        _print_time(takes, speeds=speeds, out=out)
        if curve:
            _print_curve(made, out=out)
        if kept is None:
            out.print(
                f"not stored: no database in {settings.home}; to lock this plan type: {typed(ctx)} db upgrade"
                ", then this command again",
                soft_wrap=True,
            )
            choice = f"--budget {money(made.preview.micro_usd).removeprefix('$')}"
        else:
            out.print(f"preview {kept}")
            choice = f"--from-preview {kept}"
        out.print(f"next: {typed(ctx)} submit {file} {choice}", soft_wrap=True)
    lines.exit_if_rejected()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Time:
    """How long a plan would take."""

    alone: Duration
    behind: Duration  # all that waits goes first
    waiting: int  # pictures that wait or are being drawn now


def _time(one: Preview, *, speeds: Speeds, repository: Repository | None) -> _Time:
    """Return how long a plan takes; pictures that wait without a tier are expected to split like its own."""
    device = {part.tier: part.seconds for part in one.parts}
    if repository is None:
        alone = duration(device, live={})
        return _Time(alone=alone, behind=alone, waiting=0)
    live = repository.live_workers(within_seconds=LIVE_SECONDS)
    work = repository.backlog()
    split = {part.tier: part.pictures / one.pictures for part in one.parts}
    before = device_seconds(work, speeds=speeds, split=split)
    both = {tier: _sum(before.get(tier, 0.0), seconds) for tier, seconds in device.items() if seconds != 0}
    return _Time(
        alone=duration(device, live=live),
        behind=duration(both, live=live),
        waiting=sum(part.pictures for part in work),
    )


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _keep(
    made: Plan,
    draft: Draft,
    *,
    file: Path,
    lines: PromptLines,
    predictor: Predictor,
    repository: Repository | None,
) -> str | None:
    """Store a plan where there is a database; return its id, or None."""
    if repository is None:
        return None
    head = PreviewHead(
        file_sha256=lines.sha256,
        fmt=prompt_format(file),
        predictor_name=predictor.name,
        predictor_version=predictor.version,
        budget_micro_usd=made.preview.budget_micro_usd,
        jobs=made.preview.jobs,
        micro_usd=made.preview.micro_usd,
    )
    return repository.add_preview(head, preview_lines(made, draft))


def _ask(predictor: Predictor, requests: Iterator[GenerationRequest], *, draft: Draft) -> None:
    """Read requests and their predictions into the draft, some at a time."""
    err = console(stderr=True)
    with Progress(
        TextColumn("predicting"),
        BarColumn(),
        TextColumn("{task.completed:.0f} prompts"),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as progress:
        bar = progress.add_task("predicting", total=None)
        while part := list(islice(requests, ASKED)):
            draft.add(part, predictor.predict([one.prompt for one in part]))
            progress.update(bar, advance=len(part))


def _print(made: Plan, *, predictor: Predictor, out: Console) -> None:
    one = made.preview
    out.print(
        table(
            f"{one.jobs} jobs, {one.pictures} pictures, decided by {predictor.name} {predictor.version}",
            columns=("tier", "jobs", "pictures", "cost", "device seconds"),
            rows=[
                (
                    part.tier,
                    part.jobs,
                    part.pictures,
                    money(part.micro_usd),
                    None if part.seconds is None else f"{part.seconds:.1f}",
                )
                for part in one.parts
            ],
        )
    )
    if one.metrics:
        out.print(
            table(
                "Predicted quality, mean over jobs",
                columns=("metric", "all edge", "this plan", "all cloud"),
                rows=[
                    (name, f"{means.edge:.3f}", f"{means.chosen:.3f}", f"{means.cloud:.3f}")
                    for name, means in one.metrics.items()
                ],
            )
        )
    out.print(
        f"cost     {money(one.micro_usd)} of {money(one.budget_micro_usd)} "
        f"(least {money(one.floor_micro_usd)}, more than {money(one.ceiling_micro_usd)} changes nothing)\n"
        f"quality  {_share(one.gain, one)} of what the cloud would gain, "
        f"best plan {_share(one.gain_best, one)}",
        soft_wrap=True,
    )
    for label, cut in (("last in ", one.last_bought), ("first out", one.first_refused)):
        if cut is not None:
            out.print(f"{label} {_cut(cut)}", soft_wrap=True)


def _print_time(takes: _Time, *, speeds: Speeds, out: Console) -> None:
    text = told(takes.alone, speeds=speeds)
    if takes.waiting:
        later = takes.behind.seconds
        text += f"; {takes.waiting} pictures wait or are being drawn now: " + (
            "nobody knows how long those take"
            if later is None
            else f"about {span(later)} if all of them go first"
        )
    out.print(f"time     {text}", soft_wrap=True)
    for one in speeds.disagreements():
        out.print(f"note     {one.sentence(speeds.tiers.source)}; {one.remedy}", soft_wrap=True)


def _cut(cut: Cut) -> str:
    return (
        f"line {cut.line_no} {shortened(cut.custom_id, width=PROMPT)}: {cut.tier} for "
        f"{money(cut.extra_micro_usd)} more, PRS {cut.prs:.3f}, {shortened(cut.prompt, width=PROMPT)!r}"
    )


def _share(gain: float, one: Preview) -> str:
    """Return a gain as a share of all-cloud's; where that is none there is no share."""
    return f"{gain / one.gain_all_cloud:.1%}" if one.gain_all_cloud > 0 else "no share"


def _point(curve: QualityCurve, point: int, one: Preview) -> dict[str, object]:
    gain = float(curve.gain[point])
    return {
        "micro_usd": int(curve.micro_usd[point]),
        "gain": gain,
        "share_of_all_cloud": gain / one.gain_all_cloud if one.gain_all_cloud > 0 else None,
        "knee": point == curve.knee(),
    }


def _print_curve(made: Plan, *, out: Console) -> None:
    curve, one = made.curve, made.preview
    best = max(one.gain_best, 1e-300)
    out.print(
        table(
            "Quality against money",
            columns=("budget", "quality", "", ""),
            rows=[
                (
                    money(int(curve.micro_usd[point])),
                    _share(float(curve.gain[point]), one),
                    "█" * round(BAR * float(curve.gain[point]) / best),
                    "knee" if point == curve.knee() else "",
                )
                for point in curve.sampled(POINTS)
            ],
        )
    )
