import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from routet2i.errors import StoreFull, UsageError
from routet2i.images import ImageStore, Removal


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
    path = store.path_of(store.put(b"a picture"))
    first = path.stat()
    os.utime(path, (0, 0))
    second = store.path_of(store.put(b"a picture")).stat()
    assert first.st_ino == second.st_ino
    assert second.st_mtime >= first.st_mtime - 1  # touched: whoever removes old pictures leaves it alone


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


def test_an_old_picture_can_be_removed_and_stored_again(store: ImageStore) -> None:
    name = store.put(b"a picture")
    os.utime(store.path_of(name), (0, 0))
    assert store.remove(name) is Removal.GONE
    assert not store.path_of(name).exists()
    assert store.remove(name) is Removal.ABSENT
    assert store.is_whole(store.put(b"a picture"))


def test_a_picture_that_a_worker_has_just_found_again_stays(store: ImageStore) -> None:
    # Given an old picture that a worker makes once more
    name = store.put(b"a picture")
    os.utime(store.path_of(name), (0, 0))
    store.put(b"a picture")
    # When it is to go
    assert store.remove(name) is Removal.IN_USE
    # Then it is still there, and nothing lies aside
    assert store.is_whole(name)
    assert list(store.root.rglob("*.aside")) == []


def test_a_removal_that_was_cut_off_is_taken_back(store: ImageStore) -> None:
    name = store.put(b"a picture")
    path = store.path_of(name)
    path.rename(path.with_name(f"{name}.0.aside"))
    assert store.put_back() == 1
    assert store.is_whole(name)


def test_writers_and_a_remover_of_one_picture_leave_it_there(store: ImageStore) -> None:
    # Given a picture that is old at every moment but those in which a writer has just found or written it
    name = store.put(b"x" * 10_000)
    stop = threading.Event()
    missing: list[int] = []

    def remove() -> None:
        while not stop.is_set():
            store.remove(name)

    remover = threading.Thread(target=remove)
    remover.start()
    # When writers store it again and again
    for turn in range(300):
        with contextlib.suppress(FileNotFoundError):
            os.utime(store.path_of(name), (0, 0))
        store.put(b"x" * 10_000)
        stop_here = time.monotonic() + 5.0
        while not (seen := store.path_of(name).exists()) and time.monotonic() < stop_here:
            pass  # it may lie aside for a moment
        if not seen:
            missing.append(turn)
    stop.set()
    remover.join()
    # Then it was there after each of them
    assert missing == []


def test_a_picture_is_whole_only_with_the_bytes_of_its_name(store: ImageStore) -> None:
    name = store.put(b"a picture")
    assert store.is_whole(name)
    assert store.size_of(name) == 9
    store.path_of(name).write_bytes(b"another")
    assert not store.is_whole(name)
    store.path_of(name).unlink()
    assert not store.is_whole(name)
    assert store.size_of(name) == 0
