import hashlib
import os
import threading
from pathlib import Path

import pytest

from routet2i.errors import StoreFull, UsageError
from routet2i.images import ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(root=tmp_path / "images")


def test_a_picture_lies_under_its_hash_in_a_fan_of_folders(store: ImageStore) -> None:
    name = store.put(b"a picture")
    assert name == hashlib.sha256(b"a picture").hexdigest()
    path = store.path_of(name)
    assert path == store.root / name[:2] / name[2:4] / f"{name}.png"
    assert path.read_bytes() == b"a picture"
    assert not list(store.root.rglob("*.tmp"))


def test_the_same_picture_is_written_once(store: ImageStore) -> None:
    first = store.path_of(store.put(b"a picture")).stat()
    second = store.path_of(store.put(b"a picture")).stat()
    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)


def test_writers_of_the_same_picture_do_not_disturb_each_other(store: ImageStore) -> None:
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(store.put(b"x" * 100_000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 1
    assert len(names) == 8
    assert store.path_of(names[0]).read_bytes() == b"x" * 100_000
    assert len([path for path in store.root.rglob("*") if path.is_file()]) == 1


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", "0" * 62 + "/x"]
)
def test_a_name_that_is_no_hash_is_refused(store: ImageStore, name: str) -> None:
    with pytest.raises(UsageError):
        store.path_of(name)


def test_the_janitor_deletes_old_temporary_files_only(store: ImageStore) -> None:
    # Given a picture, an old leftover and one that is being written
    name = store.put(b"a picture")
    folder = store.path_of(name).parent
    old, new = folder / "old.tmp", folder / "new.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    # When the janitor passes
    assert store.sweep_temporary() == 1
    # Then the leftover alone is gone
    assert not old.exists()
    assert new.exists()
    assert store.path_of(name).exists()


def test_too_little_room_is_told_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(StoreFull, match="free some space"):
        ImageStore(root=tmp_path, low_water_bytes=1 << 60).check_room()


def test_enough_room_passes(tmp_path: Path) -> None:
    ImageStore(root=tmp_path / "new", low_water_bytes=1).check_room()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always-full device")
def test_a_full_disk_is_a_store_full_and_leaves_no_leftover(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a disk on which every write fails: the temporary file is the always-full device
    really_open = os.open

    def on_full_device(path: Path, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith(".tmp"):
            return really_open("/dev/full", os.O_WRONLY)
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", on_full_device)
    # When a picture is stored
    with pytest.raises(StoreFull):
        store.put(b"a picture")
    # Then there is neither a picture nor a temporary file
    assert not [path for path in store.root.rglob("*") if path.is_file()]
