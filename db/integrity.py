"""Whether the database's file is whole, and lies where it may: on a disk of this machine.

SQLite's log and locks need a local disk; on a network file system two machines may write at once and lose
both. PostgreSQL looks after its own files. It changes nothing.
"""

from pathlib import Path

import psutil
from sqlalchemy import Engine

from db.session import reading
from routet2i.errors import UsageError

NETWORKED = (  # how the names of kinds begin, behind `fuse.` too; also what hosts lend to virtual machines
    *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "gluster", "gpfs", "lustre", "ncp", "nfs"),
    *("ocfs2", "orangefs", "prl_fs", "pvfs", "smb", "vboxsf", "vmhgfs"),
    *("blobfuse", "curlftpfs", "gcsfuse", "goofys", "grpcfuse", "juicefs", "mountpoint-s3", "rclone"),
    *("s3fs", "seaweedfs", "sshfs"),
)


def damage(engine: Engine) -> str | None:
    """Return what is wrong with an SQLite file or its references, None if nothing is."""
    if engine.dialect.name != "sqlite":
        return None
    with reading(engine) as connection:
        found = connection.exec_driver_sql("PRAGMA integrity_check(5)").scalars().all()
        if list(found) != ["ok"]:
            return f"{engine.url.database} is damaged: {found[0]}"
        dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return f"{len(dangling)} references point nowhere" if dangling else None


def refuse_network_disk(engine: Engine) -> None:
    """Make sure that an SQLite file is on a local disk.

    Raises:
        UsageError: it is on a network file system.
    """
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return
    kind = file_system(Path(engine.url.database))
    if kind is not None and kind.removeprefix("fuse.").startswith(NETWORKED):
        raise UsageError(
            f"{engine.url.database} lies on {kind}, where SQLite loses data; put ROUTET2I_HOME on a local "
            "disk, or use PostgreSQL: ROUTET2I_DATABASE_URL"
        )


def file_system(path: Path) -> str | None:
    """Return the kind of file system that a path lies on, None where nobody says."""
    path = path.resolve()
    found = {
        Path(part.mountpoint): part.fstype.lower()
        for part in psutil.disk_partitions(all=True)
        if path.is_relative_to(part.mountpoint)
    }
    return found[max(found, key=lambda mount: len(mount.parts))] if found else None
