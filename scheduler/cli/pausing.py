"""`pause` and `resume`: windows leave a batch's or a client's jobs queued, or give a tier none.

It asks and prints; pauses are kept by `db.pauses`. A paid tier that has paused itself is `budget resume`'s.
"""

import re
from dataclasses import asdict
from typing import Annotated

import typer

from db.pauses import Paused
from db.repository import Repository
from routet2i.contracts import NAME
from routet2i.errors import UsageError
from routet2i.settings import Settings
from scheduler.cli.batches import Json
from scheduler.cli.people import who
from scheduler.cli.session import open_repository, read_settings, typed
from scheduler.cli.show import as_json, console, table, write_line

SHOWN = ("what", "name", "since", "who", "reason")

Batch = Annotated[str | None, typer.Argument(help="A batch: id, the beginning of an id, or 'last'.")]
Client = Annotated[str | None, typer.Option(metavar="NAME", help="A client instead, all of its batches.")]
Tier = Annotated[str | None, typer.Option(metavar="NAME", help="A tier instead; paused, it gets no jobs.")]


def pause(
    ctx: typer.Context,
    batch: Batch = None,
    client: Client = None,
    tier: Tier = None,
    reason: Annotated[str, typer.Option(help="Kept with your name.")] = "",
    json: Json = False,
) -> None:
    """Pause a batch, a client or a tier until somebody resumes it; without a name, show what is paused.

    Its jobs stay queued, from the next window on. What a tier has been given already is drawn.

    Example: routet2i pause last --reason "wrong colours"
    Example: routet2i pause --tier cloud
    Example: routet2i pause
    """
    settings = read_settings(ctx)
    repository = open_repository(settings)
    if batch is None and client is None and tier is None:
        if reason:
            raise UsageError("say what to pause: a batch, --client NAME or --tier NAME")
        _show(repository, json=json)
        return
    kind, name = _which(settings, repository, batch=batch, client=client, tier=tier)
    changed = repository.pause(kind, name, who=who(), reason=reason)
    if json:
        write_line(as_json({"kind": kind, "name": name, "changed": changed}))
        return
    out = console()
    if not changed:
        out.print(f"{kind} {name} is paused already; nothing changed", soft_wrap=True)
        return
    out.print(f"{kind} {name} is paused, from the next window on", soft_wrap=True)
    option = "" if kind is Paused.BATCH else f"--{kind} "
    out.print(f"next: {typed(ctx)} resume {option}{name}", soft_wrap=True)


def resume(
    ctx: typer.Context, batch: Batch = None, client: Client = None, tier: Tier = None, json: Json = False
) -> None:
    """Resume a batch, a client or a tier that was paused.

    Example: routet2i resume last
    Example: routet2i resume --client studio
    """
    settings = read_settings(ctx)
    repository = open_repository(settings)
    kind, name = _which(settings, repository, batch=batch, client=client, tier=tier)
    changed = repository.resume(kind, name)
    if json:
        write_line(as_json({"kind": kind, "name": name, "changed": changed}))
        return
    text = "goes on" if changed else "was not paused; nothing changed"
    console().print(f"{kind} {name} {text}", soft_wrap=True)


def _which(
    settings: Settings, repository: Repository, *, batch: str | None, client: str | None, tier: str | None
) -> tuple[Paused, str]:
    """Return what is meant; raises UsageError for none, several, or a name that nobody can have."""
    if sum(one is not None for one in (batch, client, tier)) != 1:
        raise UsageError("say what, one thing: a batch, --client NAME or --tier NAME")
    if batch is not None:
        return Paused.BATCH, repository.resolve_batch(batch)
    if client is not None:
        if not re.fullmatch(NAME, client):
            raise UsageError(
                f"{client!r} is no client's name: letters, digits, dot, dash, underscore, up to 64"
            )
        return Paused.CLIENT, client
    assert tier is not None
    routed = settings.read_tiers().routed
    if tier not in routed:
        raise UsageError(f"{tier!r} is no tier; write {' or '.join(routed)}")
    return Paused.TIER, tier


def _show(repository: Repository, *, json: bool) -> None:
    found = repository.pauses()
    if json:
        write_line(as_json([asdict(one) for one in found]))
        return
    out = console()
    if not found:
        out.print("nothing is paused")
        return
    rows = [
        (one.kind.value, one.name, f"{one.since:%Y-%m-%d %H:%M} UTC", one.who, one.reason) for one in found
    ]
    out.print(table(None, columns=SHOWN, rows=rows))
