"""Results as a file of bytes, Parquet or zip: whole under its name, or not there at all.

It connects rows to writers (`scheduler.parquet`, `scheduler.bundle`) and says what came out.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import typer

from db import audit as records
from routet2i.errors import UsageError
from routet2i.images import ImageStore
from scheduler.bundle import write_bundle
from scheduler.cli.session import open_repository, read_settings
from scheduler.cli.show import console, write_csv
from scheduler.parquet import write_parquet


def write_file(ctx: typer.Context, batch: str, *, fmt: str, output: Path) -> None:
    """Write a batch's results to a file; one of this name is replaced once the new one is whole.

    Raises:
        UsageError: it cannot be written, or pyarrow is not installed.
        NotFound: there is no such batch.
    """
    settings = read_settings(ctx)
    repository = open_repository(settings)
    batch_id = repository.resolve_batch(batch)
    zipped = fmt == "zip"
    with (
        closing(records.rows(repository.engine, batch_id=batch_id, numbered=zipped)) as found,
        _whole(output) as file,
    ):
        if zipped:
            store = ImageStore(root=settings.pictures)
            bundled = write_bundle(found, file=file, store=store, write_csv=_write_csv)
            told = f"{bundled.rows} rows, {bundled.pictures} pictures"
            if bundled.missing:
                told += (
                    f"; {bundled.missing} pictures are not whole in the store, type: routet2i doctor --deep"
                )
        else:
            told = f"{write_parquet(found, file=file, batch_id=batch_id)} rows"
    console(stderr=True).print(f"{output}: {told}", soft_wrap=True)


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """Yield where to write; what was written gets its name only if nothing went wrong."""
    begun = output.with_name(f".{output.name}.{uuid4().hex}.tmp")
    try:
        with begun.open("xb"):
            pass
        yield begun
        with begun.open("rb") as file:
            os.fsync(file.fileno())
        begun.replace(output)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}; name another --output") from error
    finally:
        begun.unlink(missing_ok=True)


def _write_csv(rows: Iterable[Mapping[str, Any]], stream: IO[str]) -> None:
    waiting = iter(rows)
    first = next(waiting, None)
    if first is not None:
        write_csv(chain([first], waiting), columns=list(first), stream=stream)
