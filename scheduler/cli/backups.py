"""`backup` and `restore`: the whole database as one file, and back.

It parses and prints; what happens is `db.backups`.
"""

from pathlib import Path
from typing import Annotated

import typer

from db import backups
from routet2i.errors import Conflict
from scheduler.cli.batches import Json
from scheduler.cli.session import open_repository, read_settings, typed
from scheduler.cli.show import as_json, console, write_line
from scheduler.running import running


def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A new file; it will hold every prompt.")],
    json: Json = False,
) -> None:
    """Copy the whole database to a file, while everything runs. Copy HOME/images after it, not before.

    Example: routet2i backup monday.backup
    """
    repository = open_repository(read_settings(ctx))
    backups.backup(repository.engine, file)
    if json:
        write_line(as_json({"file": str(file.resolve()), "bytes": file.stat().st_size}))
    else:
        console().print(f"{file}: {file.stat().st_size / 1e6:.1f} MB; now copy the pictures", soft_wrap=True)


def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="What `routet2i backup` wrote.")],
    json: Json = False,
) -> None:
    """Bring a backup back into an empty database; nothing may run on it before this has ended.

    What was claimed goes back to the queue, what a worker of before still says is void, and jobs that ended
    after the backup are drawn again.

    Example: routet2i --home new restore monday.backup
    """
    settings = read_settings(ctx)
    if stack := running(settings.home):
        raise Conflict(f"a stack runs in {settings.home}; type: kill {stack['pid']}")
    backups.restore(settings.database, file)
    if json:
        write_line(as_json({"file": str(file.resolve()), "restored": True}))
    else:
        console().print(f"restored; next: {typed(ctx)} doctor --deep", soft_wrap=True)
