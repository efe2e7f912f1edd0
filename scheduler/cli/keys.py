"""`key create`, `key list` and `key revoke`: who may use the HTTP interface, and as what.

It asks and prints; keys are `db.keys`.
"""

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from db.keys import KeyRow, Role, new_secret
from routet2i.contracts import NAME, SHADOW_CLIENT
from routet2i.errors import UsageError
from scheduler.cli.batches import Json
from scheduler.cli.session import open_repository, read_settings, typed
from scheduler.cli.show import as_json, console, table, write_line
from scheduler.cli.spans import span_seconds

SHOWN = ("key", "id", "client", "role", "name", "created", "expires", "last used", "state")

key = typer.Typer(
    no_args_is_help=True, help="Keys of the HTTP interface and its pages: who may come in, and as what."
)


@key.command()
def create(
    ctx: typer.Context,
    client: Annotated[str, typer.Argument(help="Whose batches it submits; shares and budgets go by it.")],
    role: Annotated[
        Role, typer.Option(help="submitter: its own batches; auditor: sees all; admin: everything.")
    ] = Role.SUBMITTER,
    name: Annotated[str, typer.Option(help="What it is for, shown in lists.")] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Good for so long: 12h, 30d, 8w. Default: for ever.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key and print it once; only its hash is stored.

    Example: routet2i key create studio --name "batch scripts" --expires 90d
    """
    if not re.fullmatch(NAME, client) or client == SHADOW_CLIENT:
        raise UsageError(f"{client!r} is no client: letters, digits, dot, dash and underscore, at most 64")
    if len(name) > 128:
        raise UsageError("a key's name has at most 128 characters")
    seconds = None if expires is None else span_seconds(expires, option="--expires")
    secret = new_secret()
    key_id = open_repository(read_settings(ctx)).add_key(
        secret, client=client, role=role, name=name, seconds=seconds
    )
    if json:
        write_line(as_json({"id": key_id, "key": secret, "client": client, "role": role}))
        return
    write_line(secret)
    console(stderr=True).print(
        f"key {key_id} of client {client}, {role}; it is shown this once. "
        f"To end it: {typed(ctx)} key revoke {key_id}",
        soft_wrap=True,
    )


@key.command("list")
def list_(ctx: typer.Context, json: Json = False) -> None:
    """Show every key, without its secret.

    Example: routet2i key list
    """
    found = open_repository(read_settings(ctx)).api_keys()
    if json:
        write_line(as_json(found))
        return
    out = console()
    if not found:
        out.print(f"no key yet; type: {typed(ctx)} key create CLIENT")
        return
    out.print(table(None, columns=SHOWN, rows=[_row(one) for one in found]))


@key.command()
def revoke(
    ctx: typer.Context, key_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, of key list.")]
) -> None:
    """End a key at once; what it submitted stays.

    Example: routet2i key revoke 01a200c1-fe17-77b7-926b-b34794bbd004
    """
    ended = open_repository(read_settings(ctx)).revoke_key(key_id)
    console().print(f"key {key_id} " + ("is revoked" if ended else "was revoked before"))


def _row(one: KeyRow) -> tuple[object, ...]:
    return (
        f"{one.shown}…",
        one.id,
        one.client,
        one.role.value,
        one.name or None,
        _moment(one.created_ms),
        _moment(one.expires_ms),
        _moment(one.used_ms),
        "good" if one.revoked_ms is None else f"revoked {_moment(one.revoked_ms)}",
    )


def _moment(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M")
