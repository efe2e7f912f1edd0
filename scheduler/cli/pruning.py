"""`prune`: old picture files go, the audit stays.

It parses and prints; what happens is `scheduler.pruning`.
"""

from typing import Annotated

import typer

from routet2i.images import STALE_SECONDS, ImageStore
from scheduler.cli.batches import Json
from scheduler.cli.people import who
from scheduler.cli.session import open_repository, read_settings
from scheduler.cli.show import as_json, console, write_line
from scheduler.cli.spans import span_seconds
from scheduler.pruning import Pruned
from scheduler.pruning import prune as prune_pictures


def prune(
    ctx: typer.Context,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="SPAN", help="Age of what may go: 12h, 30d, 8w.")
    ],
    batch: Annotated[
        str | None, typer.Option(help="Only this batch: its id, the beginning of it, or 'last'.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Delete old picture files; prompts, decisions, scores, costs and hashes stay in the database.

    A file that a younger picture shares stays, and so does one that was written within the last hour.
    Previews as old that no batch was submitted from go too, unless one batch is named. What is cut off, the
    next call finishes.

    Example: routet2i prune --older-than 30d --dry-run
    """
    settings = read_settings(ctx)
    seconds = span_seconds(older_than, option="--older-than", least=STALE_SECONDS)
    repository = open_repository(settings)
    pruned = prune_pictures(
        repository,
        ImageStore(root=settings.pictures),
        older_than_seconds=seconds,
        batch_id=None if batch is None else repository.resolve_batch(batch),
        who=who(),
        dry_run=dry_run,
    )
    if json:
        write_line(as_json(pruned))
    else:
        console().print(_told(pruned), soft_wrap=True)


def _told(pruned: Pruned) -> str:
    verb = "would be deleted" if pruned.dry_run else "deleted"
    text = f"{pruned.pictures} pictures ({pruned.bytes / 1e6:.1f} MB), {pruned.orphans} files of no job and "
    text += f"{pruned.previews} previews {verb}"
    if pruned.kept_for_others:
        text += f"; {pruned.kept_for_others} stay, younger pictures share them"
    if pruned.in_use:
        text += f"; {pruned.in_use} were in use within the last hour, the next call looks again"
    return text
