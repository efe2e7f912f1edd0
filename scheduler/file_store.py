"""Uploads on disk: files named by the SHA-256 of their bytes, written once, whole or not at all.

It knows bytes and names; whose they are is in SQL. Layout: `ROOT/ab/<64 hex digits>`; in ROOT lies what is
being written (`*.tmp`), and what is being deleted (`<64 hex digits>.*.tmp`).
"""

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from routet2i import failpoints
from routet2i.errors import ServiceUnavailable, UsageError
from routet2i.images import SHA256, STALE_SECONDS

BLOCK = 1 << 20  # bytes read at once


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStore:
    """A folder on a local disk; safe for any number of writers."""

    root: Path

    def path_of(self, sha256: str) -> Path:
        """Return where the bytes of this name lie, existing or not; raises UsageError if it is no name."""
        if not SHA256.fullmatch(sha256):
            raise UsageError(f"{sha256!r} is no name of a file")
        return self.root / sha256[:2] / sha256

    def find(self, sha256: str) -> Path | None:
        """Return where the bytes of a name that somebody needs lie; None if they are gone.

        What was moved aside by one that died is put back.
        """
        target = self.path_of(sha256)
        if not target.is_file():
            for aside in (*self.root.glob(f"{sha256}.*.tmp"), *target.parent.glob(f"{sha256}.*.tmp")):
                with contextlib.suppress(FileNotFoundError):
                    self._put_back(aside)
        return target if target.is_file() else None

    def put(self, stream: BinaryIO) -> tuple[str, int]:
        """Store a stream's bytes durably; return their name and how many they are.

        Raises:
            ServiceUnavailable: there is no room.
        """
        try:
            return self._put(stream)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ServiceUnavailable(f"no room for a file in {self.root}; free some space") from error
            raise

    def _put(self, stream: BinaryIO) -> tuple[str, int]:
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f"{uuid4().hex}.tmp"
        digest, size = hashlib.sha256(), 0
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                while block := stream.read(BLOCK):
                    digest.update(block)
                    size += file.write(block)
                file.flush()
                os.fsync(file.fileno())
            target = self.path_of(digest.hexdigest())
            target.parent.mkdir(exist_ok=True)
            temporary.replace(target)  # the same bytes, if it was there; and young again
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        for folder in (target.parent, self.root):
            _sync(folder)
        return target.name, size

    def remove(self, sha256: str) -> bool:
        """Delete bytes; False if they were stored again within the hour: somebody is about to need them.

        They are moved aside before they are judged, so that whoever stores them meanwhile writes them anew.
        Whoever dies in between leaves them to `find` and `sweep_temporary`.
        """
        target = self.path_of(sha256)
        aside = self.root / f"{sha256}.{uuid4().hex}.tmp"
        try:
            if _is_young(target):
                return False
            target.rename(aside)
        except FileNotFoundError:
            return True
        failpoints.reach("after_aside")
        try:
            if _is_young(aside):  # stored again between the look and the move
                self._put_back(aside)
                return False
            aside.unlink()
        except FileNotFoundError:  # another's sweep has judged them
            return False
        return True

    def sweep_temporary(
        self, needed: Callable[[str], bool], *, older_than_seconds: float = 24 * STALE_SECONDS
    ) -> int:
        """Delete what writers left that died a day ago, judge what died while it was being deleted.

        Args:
            needed: whether somebody may still read the bytes of this name: then they are put back.
        Returns:
            how many files went.
        """
        deadline = time.time() - older_than_seconds
        deleted = 0
        for path in (*self.root.glob("*.tmp"), *self.root.glob("*/*.tmp")):
            sha256 = path.name.partition(".")[0]
            with contextlib.suppress(FileNotFoundError):  # its owner lives, or another sweeps
                if SHA256.fullmatch(sha256):
                    if not self.path_of(sha256).exists() and (_is_young(path) or needed(sha256)):
                        self._put_back(path)
                        continue
                elif path.stat().st_mtime >= deadline:
                    continue
                path.unlink()
                deleted += 1
        return deleted

    def _put_back(self, aside: Path) -> None:
        """Give bytes their name again, young: whoever stored or needs them has an hour."""
        os.utime(aside)
        target = self.path_of(aside.name.partition(".")[0])
        target.parent.mkdir(exist_ok=True)
        aside.replace(target)
        for folder in (target.parent, self.root):
            _sync(folder)


def _is_young(path: Path) -> bool:
    return path.stat().st_mtime > time.time() - STALE_SECONDS


def _sync(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
