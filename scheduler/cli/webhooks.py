"""`webhook add`, `list`, `remove`, `test` and `deliveries`: whom a program tells that a batch has ended.

It asks and prints; rows are `db.webhooks` and `db.outbox`, sending is `scheduler.webhooks`.
"""

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from db.outbox import DeliveryRow
from db.webhooks import WebhookRow, new_secret
from routet2i.contracts import NAME, SHADOW_CLIENT, BatchEvent
from routet2i.errors import PostFailed, UsageError
from scheduler.cli.batches import Json
from scheduler.cli.session import open_repository, read_settings, typed
from scheduler.cli.show import as_json, console, table, write_line
from scheduler.webhooks.herald import send
from scheduler.webhooks.posting import check_url

SHOWN = ("id", "client", "batch", "events", "address", "name", "since")
TOLD = ("delivery", "event", "about", "state", "tries", "last", "since", "next")

webhook = typer.Typer(no_args_is_help=True, help="Addresses that are told of the ends of batches.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, of webhook list.")]


@webhook.command()
def add(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="Where to post: https://HOST/PATH.")],
    client: Annotated[str, typer.Option(help="Whose batches it is about.")] = "default",
    batch: Annotated[
        str | None, typer.Option(help="Only this batch; default: all that are submitted from now on.")
    ] = None,
    event: Annotated[
        list[BatchEvent] | None, typer.Option(help="Only this end; may be repeated. Default: all.")
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for, shown in lists.")] = "",
    json: Json = False,
) -> None:
    """Add an address and print the secret that signs what it is sent; no list shows it again.

    How a receiver checks the signature: docs/webhooks.md.

    Example: routet2i webhook add https://hooks.example/routet2i --client studio --event batch.failed
    """
    if not re.fullmatch(NAME, client) or client == SHADOW_CLIENT:
        raise UsageError(f"{client!r} is no client: letters, digits, dot, dash and underscore, at most 64")
    if len(name) > 128:
        raise UsageError("a webhook's name has at most 128 characters")
    settings = read_settings(ctx)
    check_url(url, private_hosts=settings.private_names)
    repository = open_repository(settings)
    secret = new_secret()
    webhook_id = repository.add_webhook(
        client=client,
        url=url,
        secret=secret,
        events=event or list(BatchEvent),
        batch_id=None if batch is None else repository.resolve_batch(batch),
        name=name,
    )
    if json:
        write_line(as_json({"id": webhook_id, "secret": secret, "url": url, "client": client}))
        return
    write_line(secret)
    console(stderr=True).print(
        f"webhook {webhook_id} of client {client}; the secret is shown this once. "
        f"To try it: {typed(ctx)} webhook test {webhook_id}",
        soft_wrap=True,
    )


@webhook.command("list")
def list_(
    ctx: typer.Context,
    client: Annotated[str | None, typer.Option(help="Only this client's; default: all.")] = None,
    json: Json = False,
) -> None:
    """Show every webhook in force, without its secret.

    Example: routet2i webhook list --client studio
    """
    found = open_repository(read_settings(ctx)).webhooks(client=client)
    if json:
        write_line(as_json(found))
        return
    if not found:
        console().print(f"no webhook yet; type: {typed(ctx)} webhook add URL")
        return
    console().print(table(None, columns=SHOWN, rows=[_row(one) for one in found]))


@webhook.command()
def remove(ctx: typer.Context, webhook_id: Id) -> None:
    """End a webhook at once: its secret is forgotten, and what waits for it is not sent.

    Example: routet2i webhook remove 01a200c1-fe17-77b7-926b-b34794bbd004
    """
    ended = open_repository(read_settings(ctx)).remove_webhook(webhook_id)
    console().print(f"webhook {webhook_id} " + ("is removed" if ended else "was removed before"))


@webhook.command()
def test(ctx: typer.Context, webhook_id: Id) -> None:
    """Send a `webhook.test` now and say how the receiver took it; it is tried again like any other.

    Example: routet2i webhook test 01a200c1-fe17-77b7-926b-b34794bbd004
    """
    settings = read_settings(ctx)
    repository = open_repository(settings)
    delivery_id = repository.test_webhook(webhook_id)
    claimed = repository.claim_delivery(delivery_id=delivery_id)
    if claimed is not None:  # else `serve` was quicker
        send(repository, claimed, private_hosts=settings.private_names)
    (row,) = repository.deliveries(webhook_id=webhook_id, limit=1)
    if row.state == "delivered":
        console().print(f"delivered: {row.tries[-1].status} after {row.tries[-1].milliseconds} ms")
        return
    error = row.tries[-1].error if row.tries else "`serve` is trying now"
    raise PostFailed(f"not delivered: {error}; it is tried again while `{typed(ctx)} serve` runs")


@webhook.command()
def deliveries(
    ctx: typer.Context,
    webhook_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Of this webhook; default: of all.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many, the newest.")] = 20,
    json: Json = False,
) -> None:
    """Show what was sent, how often it was tried, and what the receiver said.

    Example: routet2i webhook deliveries --limit 50
    """
    repository = open_repository(read_settings(ctx))
    if webhook_id is not None:
        repository.webhook(webhook_id)
    found = repository.deliveries(webhook_id=webhook_id, limit=limit)
    if json:
        write_line(as_json(found))
        return
    if not found:
        console().print("nothing was sent yet")
        return
    console().print(table(None, columns=TOLD, rows=[_told(one) for one in found]))


def _row(one: WebhookRow) -> tuple[object, ...]:
    events = ", ".join(event.value.removeprefix("batch.") for event in one.events)
    return (one.id, one.client, one.batch_id, events, one.url, one.name or None, _moment(one.created_ms))


def _told(one: DeliveryRow) -> tuple[object, ...]:
    last = one.tries[-1] if one.tries else None
    said = None if last is None else last.error or str(last.status)
    return (
        one.id,
        one.event,
        one.subject,
        one.state,
        len(one.tries),
        said,
        _moment(one.created_ms),
        _moment(one.next_ms),
    )


def _moment(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
