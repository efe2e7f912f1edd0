"""Uploads on disk: whole or not at all, once, and gone only when nobody is about to need them."""

import errno
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from routet2i import failpoints
from routet2i.errors import ServiceUnavailable, UsageError
from scheduler.file_store import FileStore

DYING = """
import os, sys
from pathlib import Path
from routet2i import failpoints
from scheduler.file_store import FileStore
root, name, stored_again = sys.argv[1:]
if stored_again:  # after the look at it, before it is moved
    rename = Path.rename
    Path.rename = lambda self, target: (os.utime(self), rename(self, target))[1]
failpoints.arm("after_aside:1")
FileStore(root=Path(root)).remove(name)
"""


def nobody(sha256):
    return False


@pytest.fixture
def store(tmp_path):
    return FileStore(root=tmp_path / "files")


def test_bytes_are_stored_under_their_hash_and_read_only_by_us(store):
    name, size = store.put(io.BytesIO(b"lines"))
    assert (name, size) == (sha256(b"lines").hexdigest(), 5)
    path = store.path_of(name)
    assert path.read_bytes() == b"lines"
    assert path.stat().st_mode & 0o077 == 0


def test_the_same_bytes_from_many_writers_are_one_file(store):
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: store.put(io.BytesIO(b"x" * 3_000_000))[0], range(16)))
    assert len(set(names)) == 1
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == [names[0]]


def test_a_writer_that_breaks_off_leaves_nothing(store):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(ServiceUnavailable, match="free some space"):
        store.put(Broken())
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_what_a_dead_writer_left_is_swept_after_a_day(store):
    store.root.mkdir()
    old, new = (store.root / f"{word}.tmp" for word in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert store.sweep_temporary(nobody) == 1
    assert not old.exists()
    assert new.exists()


def test_bytes_that_were_just_stored_are_not_removed(store):
    name, _ = store.put(io.BytesIO(b"lines"))
    assert store.remove(name) is False
    assert store.path_of(name).is_file()
    os.utime(store.path_of(name), (1, 1))
    assert store.remove(name) is True
    assert not store.path_of(name).exists()
    assert store.remove(name) is True


def files(store):
    return [path for path in store.root.rglob("*") if path.is_file()]


def dies_while_it_removes(store, name, *, stored_again=False):
    """Let a process move bytes aside and die there; return where they are."""
    os.utime(store.path_of(name), (1, 1))
    died = subprocess.run(
        [sys.executable, "-c", DYING, str(store.root), name, "yes" if stored_again else ""],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert died.returncode == failpoints.DIED, died.stderr
    (aside,) = files(store)
    assert aside.parent == store.root
    return aside


@pytest.mark.parametrize(
    ("stored_again", "needed", "stays"),
    [(False, False, False), (False, True, True), (True, False, True), (True, True, True)],
)
def test_what_died_while_it_removed_bytes_leaves_none_that_nobody_needs_and_all_others(
    store, stored_again, needed, stays
):
    # Given bytes that a process moved aside before it died
    name, _ = store.put(io.BytesIO(b"lines"))
    dies_while_it_removes(store, name, stored_again=stored_again)
    # When the next one sweeps
    asked = []
    swept = store.sweep_temporary(lambda sha256: asked.append(sha256) or needed)
    # Then they are back under their name, and young, or gone
    assert (swept, store.path_of(name).exists()) == (int(not stays), stays)
    assert files(store) == ([store.path_of(name)] if stays else [])
    assert set(asked) <= {name}
    assert not stays or store.remove(name) is False


def test_bytes_that_are_asked_for_come_back_before_any_sweep(store):
    name, _ = store.put(io.BytesIO(b"lines"))
    dies_while_it_removes(store, name)
    assert store.find(name) == store.path_of(name)
    assert store.path_of(name).read_bytes() == b"lines"
    assert store.find("0" * 64) is None


def test_bytes_that_were_stored_anew_are_not_replaced_by_what_is_swept(store):
    # Given bytes that were moved aside, here and where that was done before, and stored again since
    name, _ = store.put(io.BytesIO(b"lines"))
    aside = dies_while_it_removes(store, name)
    aside.rename(store.path_of(name).parent / aside.name)
    name, _ = store.put(io.BytesIO(b"lines"))
    stored_at = store.path_of(name).stat().st_mtime
    # When they are swept
    assert store.sweep_temporary(lambda _: True) == 1
    # Then the new ones stay
    assert files(store) == [store.path_of(name)]
    assert store.path_of(name).stat().st_mtime == stored_at


@pytest.mark.parametrize("needed", [True, False])
def test_a_sweep_in_the_midst_of_a_removal_disturbs_nobody(store, monkeypatch, needed):
    # Given a removal in whose midst another process sweeps
    name, _ = store.put(io.BytesIO(b"lines"))
    os.utime(store.path_of(name), (1, 1))
    monkeypatch.setattr(failpoints, "reach", lambda _: store.sweep_temporary(lambda _: needed))
    # Then the removal has nothing to say, and what is needed is there
    assert store.remove(name) is False
    assert store.path_of(name).exists() is needed
    assert len(files(store)) == needed


def test_a_name_that_is_no_hash_is_no_path(store):
    for wrong in ("../../etc/passwd", "", "A" * 64):
        with pytest.raises(UsageError):
            store.path_of(wrong)
