"""A batch's pictures and their rows as one zip file, written as it is read, the same bytes each time.

It knows names inside the file and how a picture gets there, not where rows come from. A picture is named by
its line and a harmless form of the user's id: no name leaves its folder, and no two are the same, not even
where capitals do not count.
"""

import hashlib
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import orjson

from routet2i.errors import GenerationFailed
from routet2i.images import ImageStore

FOLDER = "pictures"
LONGEST = 60  # letters of a user's id in a name: with folder and line far from every system's limit
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip can name: the same rows are the same bytes
BLOCK = 1 << 20  # bytes copied at once
CsvWriter = Callable[[Iterable[Mapping[str, Any]], IO[str]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundled:
    """What came into the file."""

    rows: int
    pictures: int
    missing: int  # pictures that are on record, but no longer, or not whole, in the store


def write_bundle(
    rows: Iterable[Mapping[str, Any]], *, file: Path, store: ImageStore, write_csv: CsvWriter
) -> Bundled:
    """Write pictures, then manifest.jsonl and manifest.csv, to a new file.

    Args:
        rows: of `job_audit` with `line_no`, in the order of lines, a job's pictures together.
        write_csv: writes rows as CSV to a stream.
    """
    counted = {"rows": 0, "pictures": 0, "missing": 0}
    with (
        ZipFile(file, "w", allowZip64=True) as bundle,
        tempfile.TemporaryFile("w+b") as manifest,
    ):
        for row, name in named(rows):
            counted["rows"] += 1
            kept = name if name is not None and _put(bundle, name, row["image_sha256"], store) else None
            if kept is not None:
                counted["pictures"] += 1
            elif name is not None:
                counted["missing"] += 1
            manifest.write(orjson.dumps({"picture": kept, **row}, default=float) + b"\n")
        _copy(bundle, "manifest.jsonl", manifest)
        with tempfile.TemporaryFile("w+b") as table:
            text = io.TextIOWrapper(table, encoding="utf-8", newline="")
            manifest.seek(0)
            write_csv(map(orjson.loads, manifest), text)
            text.flush()
            _copy(bundle, "manifest.csv", table)
            text.detach()
    return Bundled(**counted)


def named(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Yield each row with its picture's name in the file; None where it has none, or it was deleted."""
    job_id, index = None, 0
    for row in rows:
        index = index + 1 if row["job_id"] == job_id else 0
        job_id = row["job_id"]
        has_picture = row["image_sha256"] is not None and row["image_deleted_at"] is None
        yield row, picture_name(row["line_no"], index, row["custom_id"]) if has_picture else None


def picture_name(line_no: int, index: int, custom_id: str) -> str:
    """Return a picture's name: unique by line and index, whatever the id is made of."""
    safe = _UNSAFE.sub("_", custom_id)[:LONGEST].strip("._-")
    return f"{FOLDER}/{line_no:07d}-{index:02d}" + (f"-{safe}" if safe else "") + ".png"


def _put(bundle: ZipFile, name: str, sha256: str, store: ImageStore) -> bool:
    """Copy one picture; False if it is gone or its bytes are not what its name tells."""
    try:
        png = store.read(sha256)
    except GenerationFailed:
        return False
    if hashlib.sha256(png).hexdigest() != sha256:
        return False
    bundle.writestr(_entry(name, ZIP_STORED), png)  # it is compressed already
    return True


def _copy(bundle: ZipFile, name: str, source: IO[bytes]) -> None:
    source.seek(0)
    with bundle.open(_entry(name, ZIP_DEFLATED), "w", force_zip64=True) as target:
        while block := source.read(BLOCK):
            target.write(block)


def _entry(name: str, compression: int) -> ZipInfo:
    entry = ZipInfo(name, date_time=_EPOCH)
    entry.compress_type = compression
    entry.create_system = 3  # Unix, wherever it was made
    entry.external_attr = 0o644 << 16
    return entry
