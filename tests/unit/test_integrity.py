"""A damaged SQLite file and one on a network disk are found, and not worked with."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from db.integrity import damage, file_system, refuse_network_disk
from db.session import make_engine
from routet2i.errors import ServiceUnavailable, UsageError
from routet2i.settings import Settings
from scheduler.local import Stack


@pytest.fixture
def file(tmp_path: Path, sqlite_template: bytes) -> Path:
    path = tmp_path / "routet2i.db"
    path.write_bytes(sqlite_template)
    return path


def spoil(path: Path) -> None:
    """Overwrite some pages behind the first ones, as a disk may."""
    content = bytearray(path.read_bytes())
    for page in range(4, 12):
        content[4096 * page : 4096 * page + 2048] = b"\xff" * 2048
    path.write_bytes(content)


def test_a_whole_file_has_no_damage_and_a_spoilt_one_has(file: Path) -> None:
    engine = make_engine(f"sqlite+pysqlite:///{file}")
    assert damage(engine) is None
    engine.dispose()
    spoil(file)
    engine = make_engine(f"sqlite+pysqlite:///{file}")
    assert str(file) in str(damage(engine))
    engine.dispose()


def test_a_reference_that_points_nowhere_is_damage(file: Path) -> None:
    engine = make_engine(f"sqlite+pysqlite:///{file}")
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        raw.execute("PRAGMA foreign_keys=OFF")
        raw.execute("INSERT INTO rejected VALUES('nobody', 1, 'r', 'r', 'h', NULL, NULL)")
    assert damage(engine) == "1 references point nowhere"
    engine.dispose()


def test_sqlite_on_a_network_disk_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a home on NFS, and one below it on a local disk
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(file.parent.resolve()), fstype="nfs4"),
        SimpleNamespace(mountpoint=str(file.parent.resolve() / "local"), fstype="xfs"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    # Then the first is refused, and says what to do
    assert file_system(file) == "nfs4"
    with pytest.raises(UsageError, match="PostgreSQL"):
        refuse_network_disk(make_engine(f"sqlite+pysqlite:///{file}"))
    # And the other is not, nor is a server
    refuse_network_disk(make_engine(f"sqlite+pysqlite:///{file.parent / 'local' / 'a.db'}"))
    refuse_network_disk(make_engine("postgresql+psycopg://h/d"))


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        *(
            (kind, True)
            for kind in ("9p", "nfs", "NFS4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "afs")
        ),
        *((kind, True) for kind in ("fuse.sshfs", "fuse.glusterfs", "fuse.ceph-fuse", "fuse.s3fs", "vboxsf")),
        *((kind, True) for kind in ("fuse.rclone", "fuse.juicefs", "fuse.vmhgfs-fuse", "lustre", "davfs")),
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "zfs", "apfs", "overlay", "tmpfs", "fuseblk")),
        *((kind, False) for kind in ("fuse.fuse-overlayfs", "fuse.gocryptfs", "f2fs", "hfs", "ntfs3")),
    ],
)
def test_each_kind_of_disk_is_taken_or_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, kind: str, refused: bool
) -> None:
    mounts = [SimpleNamespace(mountpoint="/", fstype=kind)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    with pytest.raises(UsageError, match=f"lies on {kind.lower()}") if refused else nullcontext():
        refuse_network_disk(make_engine(f"sqlite+pysqlite:///{file}"))


def test_after_a_crash_a_damaged_file_starts_nothing(file: Path) -> None:
    # Given a spoilt file, beside what a killed stack leaves behind
    spoil(file)
    run = file.parent / "run"
    run.mkdir()
    (run / "stack.json").write_text(json.dumps({"pid": 1}))
    # When a stack is started there
    with pytest.raises(ServiceUnavailable, match="routet2i restore"):
        Stack(Settings(home=file.parent), say=print).start()
