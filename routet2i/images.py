"""The picture store: PNG files named by the SHA-256 of their bytes, written once, whole or not at all.

It knows bytes, names and free space. It does not know which job a picture belongs to (that is in SQL) nor
what is in it. Layout: `ROOT/ab/cd/<64 hex digits>.png`, a and c being the first bytes of the name.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

from routet2i import failpoints
from routet2i.errors import GenerationFailed, StoreFull, UsageError

SHA256 = re.compile(r"[0-9a-f]{64}")
LOW_WATER_BYTES = 1 << 30  # below 1 GiB the database beside the pictures is in danger, too
STALE_SECONDS = 3600.0  # a temporary file this old belongs to a dead writer (invariant I7)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Removal(StrEnum):
    """What became of a picture that is to go."""

    GONE = "gone"
    ABSENT = "absent"  # it was gone already
    IN_USE = "in_use"  # written or found again within the last hour: a worker may be about to record it


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageStore:
    """A folder of pictures on a local disk; safe for any number of writers."""

    root: Path
    low_water_bytes: int = LOW_WATER_BYTES

    def path_of(self, sha256: str) -> Path:
        """Return where the picture of this name lies, existing or not.

        Raises:
            UsageError: the name is not 64 lower-case hex digits.
        """
        if not SHA256.fullmatch(sha256):
            raise UsageError(f"{sha256!r} is no picture name; it must be the 64 hex digits of a SHA-256")
        return self.root / f"{sha256[:2]}/{sha256[2:4]}/{sha256}.png"

    def check_room(self) -> None:
        """Refuse to begin work that could not be stored.

        Raises:
            StoreFull: less than `low_water_bytes` are free.
        """
        self._make(self.root)
        free = shutil.disk_usage(self.root).free
        if free < self.low_water_bytes:
            raise StoreFull(
                f"{self.root} has {free >> 20} MiB left, less than {self.low_water_bytes >> 20} MiB; "
                "free some space"
            )

    def put(self, png: bytes) -> str:
        """Store a picture durably and return its name; a picture already there is touched, so that it stays.

        Raises:
            StoreFull: the disk or its quota is full.
        """
        name = hashlib.sha256(png).hexdigest()
        target = self.path_of(name)
        with contextlib.suppress(FileNotFoundError):
            os.utime(target)  # complete: it got its name by os.replace
            return name
        self._make(target.parent)
        temporary = target.with_name(f"{name}.{uuid4().hex}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(png)
                file.flush()
                os.fsync(file.fileno())
            failpoints.reach("after_tmp")
            temporary.replace(target)
            _sync(target.parent)
            failpoints.reach("after_replace")
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if error.errno in _NO_ROOM:
                raise StoreFull(f"no room for a picture in {self.root}; free some space") from error
            raise
        return name

    def read(self, sha256: str) -> bytes:
        """Return a stored picture.

        Raises:
            GenerationFailed: it is gone.
        """
        try:
            return self.path_of(sha256).read_bytes()
        except FileNotFoundError as error:
            raise GenerationFailed(f"picture {sha256} was bought, but is gone from the store") from error

    def remove(self, sha256: str) -> Removal:
        """Delete a picture unless a worker may need it.

        The file is moved aside before it is judged: a worker that makes the same picture either touched it
        before, and it comes back, or does not find it and writes it anew.
        """
        target = self.path_of(sha256)
        aside = target.with_name(f"{sha256}.{uuid4().hex}.aside")
        try:
            target.rename(aside)
        except FileNotFoundError:
            return Removal.ABSENT
        if aside.stat().st_mtime > time.time() - STALE_SECONDS:
            aside.replace(target)
            return Removal.IN_USE
        aside.unlink()
        _sync(target.parent)
        return Removal.GONE

    def put_back(self) -> int:
        """Return to their names the files that a removal cut off left aside; return how many."""
        returned = 0
        for path in self.root.glob("*/*/*.aside"):
            with contextlib.suppress(FileNotFoundError):
                path.replace(self.path_of(path.name.partition(".")[0]))
                returned += 1
        return returned

    def names(self, *, older_than_seconds: float = 0.0) -> Iterator[str]:
        """Yield the names of pictures whose files are so old, in no order."""
        deadline = time.time() - older_than_seconds
        for path in self.root.glob("*/*/*.png"):
            with contextlib.suppress(FileNotFoundError):
                if SHA256.fullmatch(path.stem) and path.stat().st_mtime <= deadline:
                    yield path.stem

    def size_of(self, sha256: str) -> int:
        """Return a picture's bytes on disk, 0 if it is not there."""
        try:
            return self.path_of(sha256).stat().st_size
        except FileNotFoundError:
            return 0

    def is_whole(self, sha256: str) -> bool:
        """Whether the picture is there and its bytes are those that its name tells."""
        try:
            with self.path_of(sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False

    def sweep_temporary(self, *, older_than_seconds: float = STALE_SECONDS) -> int:
        """Delete temporary files that their writers left behind, and return how many."""
        deadline = time.time() - older_than_seconds
        deleted = 0
        for path in self.root.glob("*/*/*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # another janitor was faster
                if path.stat().st_mtime < deadline:
                    path.unlink()
                    deleted += 1
        return deleted

    def _make(self, folder: Path) -> None:
        """Create a folder and its missing parents, each entry durable in the one above it."""
        if folder.is_dir():
            return
        if folder != folder.parent:
            self._make(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
            _sync(folder.parent)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise StoreFull(f"no room for a folder in {self.root}; free some space") from error
            raise


def _sync(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
