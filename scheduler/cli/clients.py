"""`client list` and `client set`: who shares the windows, with which weight.

It asks and prints; how places are shared is `db.fairness`.
"""

import re
from typing import Annotated

import typer

from db.clients import ClientRow
from db.fairness import MOST_WEIGHT
from routet2i.contracts import NAME, SHADOW_CLIENT
from routet2i.errors import UsageError
from scheduler.cli.batches import Json
from scheduler.cli.session import open_repository, read_settings, typed
from scheduler.cli.show import as_json, console, table, write_line

SHOWN = ("client", "weight", "queued jobs", "open batches", "share now", "its next job is decided")

client = typer.Typer(
    no_args_is_help=True,
    help="Who shares the scheduler's windows (rounds of decisions), and by which weight.",
)


@client.command("list")
def list_(ctx: typer.Context, json: Json = False) -> None:
    """Show every client: its weight, what waits, its share of the windows now, and whose jobs come before.

    Example: routet2i client list
    Example: routet2i client list --json
    """
    found = open_repository(read_settings(ctx)).clients()
    if json:
        write_line(as_json(found))
        return
    out = console()
    if not found:
        out.print(f"no client yet; type: {typed(ctx)} submit prompts.jsonl")
        return
    out.print(table(None, columns=SHOWN, rows=[_row(one) for one in found]))


def _row(one: ClientRow) -> tuple[object, ...]:
    share = None if one.share is None else f"{100 * one.share:.3g} %"
    return one.name, one.weight, one.queued, one.batches, share, _turn(one)


def _turn(one: ClientRow) -> str | None:
    if one.jobs_before is None:
        return None
    return "first" if not one.jobs_before else f"after {one.jobs_before:,} of others"


@client.command("set")
def set_(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A client; it need not have submitted anything yet.")],
    weight: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_WEIGHT,
            help="Its part of every window beside the others' weights; a client that was never set has 1.",
        ),
    ],
) -> None:
    """Set a client's weight, from the next window on.

    While two clients have jobs waiting, one of weight 3 gets three places for each place of one of weight 1.
    Places that a client cannot use are the others'. The priority of a job orders its own client's jobs only.

    Example: routet2i client set studio --weight 3
    """
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r} is no name: letters, digits, dot, dash and underscore, at most 64")
    if name == SHADOW_CLIENT:
        raise UsageError(f"{name!r} is the client of second pictures, which take no places of a window")
    open_repository(read_settings(ctx)).set_weight(name, weight=weight)
    out = console()
    out.print(f"client {name}: weight {weight}, from the next window on", soft_wrap=True)
    out.print(f"next: {typed(ctx)} client list", soft_wrap=True)
