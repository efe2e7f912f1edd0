"""Folders that are small file systems of their own, so that one alone can be filled to the last byte.

A file system in memory, since one on a disk cannot shrink while it is used. It needs root. It knows folders,
not who writes into them.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Place = Literal["pictures", "broker", "database"]  # whose folder may be one
MARGIN_KIB = 8  # what is left when it is full: less than anybody writes at once
SYS_ADMIN = 21  # the capability that mounting needs


class Disk:
    """One such folder."""

    def __init__(self, folder: Path) -> None:
        """Know a folder that is mounted already."""
        self._folder = folder

    def fill(self) -> None:
        """Shrink it to what is used."""
        said = subprocess.check_output(["df", "--output=used", "-k", str(self._folder)], text=True)
        _mount("-o", f"remount,size={int(said.split()[-1]) + MARGIN_KIB}k", str(self._folder))

    def free(self) -> None:
        """Let it grow again."""
        _mount("-o", "remount,size=2g", str(self._folder))


@contextmanager
def own_disk(folder: Path) -> Iterator[Disk]:
    """Put a new folder on a file system of its own until the end."""
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", "size=2g,mode=755", "none", str(folder))
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def can_mount() -> bool:
    """Whether we may mount a file system."""
    return os.geteuid() == 0 and shutil.which("mount") is not None and _has_admin()


def _has_admin() -> bool:
    with Path("/proc/self/status").open() as lines:
        effective = next(line for line in lines if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> SYS_ADMIN & 1)
