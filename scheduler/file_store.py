"""Uploads on disk: files named by the SHA-256 of their bytes, written once, whole or not at all.

It knows bytes and names; whose they are is in SQL. Layout: `ROOT/ab/<64 hex digits>`, a file that is being
written beside it.
"""

import contextlib
import errno
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

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
        """
        target = self.path_of(sha256)
        aside = target.with_name(f"{sha256}.{uuid4().hex}.tmp")
        try:
            target.rename(aside)
        except FileNotFoundError:
            return True
        if aside.stat().st_mtime > time.time() - STALE_SECONDS:
            aside.replace(target)
            return False
        aside.unlink()
        return True

    def sweep_temporary(self, *, older_than_seconds: float = 24 * STALE_SECONDS) -> int:
        """Delete what writers left that died a day ago, and return how many files that were."""
        deadline = time.time() - older_than_seconds
        deleted = 0
        for path in self.root.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < deadline:
                    path.unlink()
                    deleted += 1
        return deleted


def _sync(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
