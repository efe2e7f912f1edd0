"""`predictor list` and `predictor promote`: which predictors there are, and which one is live.

It parses and prints; the registry is `scheduler.predictor.registry` and `db`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from db.repository import Repository
from routet2i.settings import Settings
from scheduler.cli.batches import Json
from scheduler.cli.people import who
from scheduler.cli.predictor_collect import collect
from scheduler.cli.predictor_drift import drift
from scheduler.cli.predictor_evaluate import evaluate
from scheduler.cli.predictor_explain import explain
from scheduler.cli.predictor_score import score
from scheduler.cli.predictor_train import train
from scheduler.cli.session import open_repository, read_settings
from scheduler.cli.show import as_json, console, table, write_line
from scheduler.predictor import registry
from scheduler.predictor.interface import LIVE, resolve
from scheduler.predictor.live import LOOK_SECONDS

predictor = typer.Typer(
    no_args_is_help=True,
    help="What predicts, before drawing, what the large model gains a prompt: train, judge, promote.",
)
for command in (collect, train, evaluate, explain, score, drift):
    predictor.command()(command)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One line of `predictor list`."""

    version: str
    name: str
    tiers: tuple[str, ...]
    prompts: int  # it was trained on
    figures: Mapping[str, Any]
    created_at: datetime | None  # None: it came with the package
    live: bool  # what ROUTET2I_PREDICTOR=live means now


@predictor.command("list")
def list_(ctx: typer.Context, json: Json = False) -> None:
    """List the predictors of the registry, newest first, then the packaged ones; a star marks the live one.

    Example: routet2i predictor list
    """
    settings = read_settings(ctx)
    repository = open_repository(settings)
    found = _listed(repository, settings)
    if json:
        write_line(as_json(found))
        return
    rows = [
        (
            one.version,
            "*" if one.live else "",
            one.name,
            " ".join(one.tiers),
            one.prompts,
            _told(one.figures),
            "packaged" if one.created_at is None else f"{one.created_at:%Y-%m-%d %H:%M}",
        )
        for one in found
    ]
    columns = ("version", "live", "name", "tiers", "prompts", "figures", "created")
    console().print(table(None, columns=columns, rows=rows))
    if not any(one.live for one in found):
        live = resolve(LIVE, tiers=settings.read_tiers(), registry=repository)
        console().print(f"live: {live}, as the tier file says; nothing was promoted yet", soft_wrap=True)
    _tell_setting(settings)


def _listed(repository: Repository, settings: Settings) -> list[Listed]:
    kept = repository.predictors()
    live = resolve(LIVE, tiers=settings.read_tiers(), registry=repository)
    listed = [
        Listed(
            version=one.version,
            name=one.name,
            tiers=one.tiers,
            prompts=one.prompts,
            figures=one.figures,
            created_at=one.created_at,
            live=one.live,
        )
        for one in kept
    ]
    known = {one.version for one in kept}
    listed += [
        Listed(
            version=artefact.version,
            name=name,
            tiers=tuple(artefact.content["tiers"]),
            prompts=artefact.content["prompts"],
            figures={},
            created_at=None,
            live=live == name,
        )
        for name, artefact in registry.packaged().items()
        if artefact.version not in known
    ]
    return listed


def _told(figures: Mapping[str, Any]) -> str:
    """Return the numbers among the figures in one line."""
    return ", ".join(
        f"{name} {value:.3g}" for name, value in figures.items() if isinstance(value, int | float)
    )


@predictor.command()
def promote(
    ctx: typer.Context,
    version: Annotated[
        str, typer.Argument(help="Version or name of `predictor list`; of several with one name the newest.")
    ],
    reason: Annotated[str, typer.Option(help="Kept with the promotion.")] = "",
) -> None:
    """Make a predictor live: schedulers use it from their next window on. To go back, promote the former one.

    It is loaded first, and refused if that fails. Promotions are only added, so that it stays known who
    promoted what, and when.

    Example: routet2i predictor promote 3f1c09ab77de --reason "0.81 of the oracle's gain, was 0.74"
    """
    settings = read_settings(ctx)
    promoted, changed = registry.promote(
        open_repository(settings), version, tiers=settings.read_tiers(), who=who(), reason=reason
    )
    if changed:
        told = f"is live: running schedulers use it within {LOOK_SECONDS:.0f} s, from their next window on"
    else:
        told = "is live already; nothing was written"
    console().print(f"predictor {promoted} {told}", soft_wrap=True)
    _tell_setting(settings)


def _tell_setting(settings: Settings) -> None:
    """Say that schedulers with these settings look elsewhere, if they do."""
    if settings.predictor != LIVE:
        console().print(
            f"note: ROUTET2I_PREDICTOR={settings.predictor} here; only with {LIVE} promotions are followed",
            soft_wrap=True,
        )
