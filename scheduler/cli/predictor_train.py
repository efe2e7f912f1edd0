"""`predictor train`: a table of scores becomes a predictor of the registry, with honest figures beside it.

It parses, shows how far the fit is, registers and prints; fit and trial are `scheduler.predictor.lesson`.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from db.repository import Repository
from db.session import upgrade
from routet2i.errors import UsageError
from routet2i.settings import Settings
from scheduler.cli.batches import Json
from scheduler.cli.networks import registry_of
from scheduler.cli.rated_tables import read_rated, weighed
from scheduler.cli.session import models_needed, open_repository, read_settings, typed
from scheduler.cli.show import as_json, clean, console, table, write_line
from scheduler.datasets import RatedSet
from scheduler.predictor import registry
from scheduler.predictor.artefact import MANIFEST, WEIGHTS, check_artefact
from scheduler.predictor.interface import find_network, resolve
from scheduler.predictor.trial import FIGURES, FOLDS, Trial
from scheduler.rated_pairs import rated_pairs

if TYPE_CHECKING:
    from scheduler.predictor.lesson import Lesson
    from scheduler.predictor.trained import Epoch, Trained

ENCODER = "minilm@2+4+6"  # three layers side by side tell more than the last one (DECISIONS 29)
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

TierNames = Annotated[
    str | None,
    typer.Option(help="The table's tiers, cheapest first, with commas; default: by price, or by score."),
]
Profile = Annotated[
    str | None,
    typer.Option(
        help="Of the metric file; default: its deciding one if the table has its metrics, else equal."
    ),
]
Weight = Annotated[
    list[str] | None, typer.Option(help="METRIC=NUMBER instead of a profile; repeat it for more metrics.")
]


def train(
    ctx: typer.Context,
    scores: Annotated[
        Path | None, typer.Argument(help="CSV of prompt,group,tier,metric,value; higher is better.")
    ] = None,
    ratings: Annotated[Path | None, typer.Option(help="The same table, by name.")] = None,
    from_audit: Annotated[
        bool, typer.Option("--from-audit", help="Learn from the jobs of this database that both tiers drew.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name in the registry; default: the table's.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help=f"{ENCODER}, tier:NAME, a folder or a hub id; default: {ENCODER}.")
    ] = None,
    tiers: TierNames = None,
    profile: Profile = None,
    weight: Weight = None,
    start: Annotated[
        str | None, typer.Option(help="Go on from a version, a name, or cold_start; its encoder is used.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the predictor, its card and a plot of its losses.")
    ] = None,
    json: Json = False,
) -> None:
    """Train a predictor on a table of scores and write it into the registry; nothing becomes live by this.

    With --from-audit the scores are those of the database's own pairs of pictures (ROUTET2I_SHADOW_SHARE).
    Each prompt needs every metric on every tier. Prompts of one group, like near-duplicates, are never learnt
    from and judged by at once. The figures are those of prompts that were held out, beside ridge regression
    and two rules, and of a shuffle of the predictor's own decisions.

    Example: routet2i predictor train ratings.csv --output my-predictor
    """
    settings = read_settings(ctx)
    path = scores or ratings
    if [scores is not None, ratings is not None, from_audit].count(True) != 1:
        raise UsageError("name one table of scores, or --from-audit: routet2i predictor train TABLE")
    if path is None:
        rated = _audited(settings, tiers=tiers, profile=profile, weights=weight or ())
    else:
        rated = read_rated(path, settings=settings, tiers=tiers, profile=profile, weights=weight or ())
    name = name or NOT_IN_NAMES.sub("-", rated.name)[:64]
    train_on(
        rated,
        ctx=ctx,
        settings=settings,
        name=name,
        encoder=encoder,
        start=start,
        seed=seed,
        output=output,
        json=json,
    )


def _audited(
    settings: Settings, *, tiers: str | None, profile: str | None, weights: Sequence[str]
) -> RatedSet:
    """Return the database's pairs of pictures, weighed as asked."""
    if tiers is not None:
        raise UsageError("--from-audit learns the routed tiers of the tier file; leave --tiers out")
    found = open_repository(settings).shadow_pairs()
    rated = rated_pairs(found, tiers=settings.read_tiers(), weights=settings.read_metrics().weights)
    return weighed(rated, settings=settings, profile=profile, weights=weights)


def train_on(
    rated: RatedSet,
    *,
    ctx: typer.Context,
    settings: Settings,
    name: str,
    encoder: str | None = None,
    start: str | None = None,
    seed: int = 0,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Train on a rated set from wherever it comes, register the predictor, and print what it is worth.

    Args:
        rated: tiers cheapest first, metrics weighed.
        name: in the registry.
        encoder: id; None = that of `start`, or MiniLM.
        start: predictor to go on from.
        output: folder for artefact, card and plot; None = the registry only.
    Raises:
        UsageError: the set is too small, or the name is taken. ModelError: something cannot be loaded.
    """
    registry.check_name(name)
    with models_needed():
        from scheduler.predictor.card import write_folder
        from scheduler.predictor.encoders import load_encoder
        from scheduler.predictor.lesson import check_size, learn
    check_size(rated)
    if output is not None:
        _make_folder(output)
    repository = _repository(settings)
    before = None if start is None else _started(start, settings=settings, repository=repository)
    deployment = settings.read_tiers()
    out = console(stderr=json)
    out.print(tell_data(rated), soft_wrap=True)
    loaded = load_encoder(encoder or (before.encoder if before else ENCODER), tiers=deployment)
    profiles = deployment.profiles
    with _Telling(console(stderr=True)) as telling:
        lesson = learn(
            rated,
            encoder=loaded,
            models={tier: profiles[tier].model for tier in rated.labels.tiers if tier in profiles},
            seed=seed,
            start=before,
            progress=telling.tell,
        )
    new = _register(lesson, repository=repository, name=name)
    if output is not None:
        write_folder(lesson, output, rated=rated, started_from=start)
    if json:
        write_line(as_json(summary(lesson, rated=rated, name=name, new=new, output=output)))
    else:
        _print(lesson, name=name, new=new, output=output, out=out, ctx=ctx)


def tell_data(rated: RatedSet) -> str:
    """Return what will be learnt from, in a few lines."""
    labels = rated.labels
    weights = ", ".join(
        f"{clean(metric)} {weight:.3g}" for metric, weight in zip(labels.metrics, labels.weights, strict=True)
    )
    left_out = f"; {rated.dropped} more lack a score of a tier or a metric" if rated.dropped else ""
    middle = ", ".join(map(clean, labels.tiers[1:-1]))
    between = f", between them {middle}" if middle else ""
    return (
        f"{len(rated)} prompts in {len(set(rated.groups.tolist()))} groups{left_out}\n"
        f"edge is {clean(labels.tiers[0])}, cloud is {clean(labels.tiers[-1])}{between}\n"
        f"weights: {weights}"
    )


def summary(
    lesson: "Lesson", *, rated: RatedSet, name: str, new: bool, output: Path | None
) -> dict[str, Any]:
    """Return everything for programs."""
    trained, trial = lesson.trained, lesson.trial
    return {
        "version": trained.version,
        "name": name,
        "new": new,
        "prompts": trained.prompts,
        "groups": len(set(rated.groups.tolist())),
        "left_out": rated.dropped,
        "tiers": trained.tiers,
        "weights": dict(zip(trained.metrics, trained.weights.tolist(), strict=True)),
        "encoder": trained.encoder,
        "parameters": trained.parameters,
        "seed": trained.seed,
        "output": None if output is None else str(output),
        **worth(trial),
    }


def worth(trial: Trial) -> dict[str, Any]:
    """Return figures with intervals, and the shuffled control, for programs."""
    return {
        "figures": {
            router: {figure: asdict(trial.figure(router, figure)) for figure in FIGURES}
            for router in trial.routers
        },
        "shuffled": asdict(trial.control),
        "beats_shuffled": trial.beats_chance,
    }


def print_worth(trial: Trial, *, out: Console) -> None:
    """Print figures with intervals, and loudly if the predictor is not worth having."""
    from scheduler.predictor.card import HEADINGS, cell, control_line

    rows = [(router, *(cell(trial.figure(router, figure)) for figure in FIGURES)) for router in trial.routers]
    out.print(table(None, columns=("router", *HEADINGS.values()), rows=rows))
    out.print(control_line(trial), style="" if trial.beats_chance else "bold red", soft_wrap=True)


def _print(
    lesson: "Lesson", *, name: str, new: bool, output: Path | None, out: Console, ctx: typer.Context
) -> None:
    version = lesson.trained.version
    print_worth(lesson.trial, out=out)
    out.print(f"version {version}, {name}{'' if new else ' (was in the registry already)'}", soft_wrap=True)
    if output is not None:
        out.print(f"files: {output}", soft_wrap=True)
    if lesson.trial.beats_chance:
        out.print(f"next: {typed(ctx)} predictor promote {version}", soft_wrap=True)
    else:
        out.print(
            "do not use it: its choice of prompts is no better than chance. Score more prompts, or look "
            "whether the metrics tell the tiers apart",
            style="bold red",
            soft_wrap=True,
        )


def _make_folder(output: Path) -> None:
    """Make the folder before the training, not after; raises UsageError."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}; name another --output") from error


def _repository(settings: Settings) -> Repository:
    """Return the registry; a home without a database gets one."""
    found = registry_of(settings)
    if found is None:
        upgrade(settings.database)
        found = open_repository(settings)
    return found


def _started(name: str, *, settings: Settings, repository: Repository) -> "Trained":
    from scheduler.predictor.trained import parse_trained

    named = resolve(name, tiers=settings.read_tiers(), registry=repository)
    artefact = find_network(named, registry=repository)
    if artefact is None:
        raise UsageError(f"--start {name}: a rule has no weights to go on from; name a version or cold_start")
    return parse_trained(artefact.manifest, artefact.weights, where=artefact.where)


def _register(lesson: "Lesson", *, repository: Repository, name: str) -> bool:
    manifest, weights = lesson.trained.files()
    values = {figure: lesson.trial.figure(lesson.trial.judged, figure).value for figure in FIGURES}
    figures = {
        **{figure: value for figure, value in values.items() if value is not None},
        "shuffled_p": lesson.trial.control.p_value,
    }
    artefact = check_artefact(manifest, weights, where=f"{MANIFEST} and {WEIGHTS}")
    return registry.register(repository, artefact, name=name, figures=figures)


class _Telling:
    """How far a lesson is: a bar on a terminal, else a line per part."""

    def __init__(self, err: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._err = err
        self._progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._bar = self._progress.add_task("reading prompts", total=None)

    def __enter__(self) -> "_Telling":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, part: int, epoch: "Epoch | None") -> None:
        """Show a part, and within it a member's epoch with its losses."""
        name = f"fold {part + 1} of {FOLDS}" if part < FOLDS else "all prompts"
        if epoch is None:
            self._progress.update(self._bar, description=name, total=FOLDS + 1, completed=part)
            if not self._err.is_terminal:
                self._err.print(f"fitting: {name}")
            return
        told = f"{name}, member {epoch.member + 1}, epoch {epoch.epoch}: {epoch.validation:.4f}"
        self._progress.update(self._bar, description=told)
