"""Uploads on disk: whole or not at all, once, and gone only when nobody is about to need them."""

import errno
import io
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from routet2i.errors import ServiceUnavailable, UsageError
from scheduler.file_store import FileStore


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
    assert store.sweep_temporary() == 1
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


def test_a_name_that_is_no_hash_is_no_path(store):
    for wrong in ("../../etc/passwd", "", "A" * 64):
        with pytest.raises(UsageError):
            store.path_of(wrong)
