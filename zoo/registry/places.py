"""Places on this machine: folders that are made, and disks that are really elsewhere."""

import os
import re
from pathlib import Path

from zoo.errors import UsageError

MOUNTS = Path("/proc/self/mountinfo")
# Their locks are not seen by all machines, or their memory maps are not: SQLite needs both.
NETWORKED = {
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "davfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "pvfs2",
    "smb3",
    "smbfs",
    "wekafs",
}
THROUGH_FUSE = re.compile(
    r"fuse\.(ceph.*|curlftpfs|davfs.*|gcsfuse|glusterfs|goofys|juicefs|mount-s3|moosefs|mfs|"
    r"rclone|s3fs|sshfs|blobfuse.*)"
)


def beside(url: str) -> str:
    """Say where weights are unless somebody chooses: beside the file of a SQLite catalogue.

    >>> beside("sqlite:///team/registry.db"), beside("postgresql+psycopg://db.example/zoo")
    ('team/blobs', 'checkpoints/blobs')
    """
    file = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", url)
    return str(Path(file[1]).parent / "blobs") if file else "checkpoints/blobs"


def make_folder(folder: Path, option: str) -> None:
    """Make a folder and its parents.

    Raises:
        UsageError: where that fails, naming the path and the option that chooses another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made: {error.strerror}; choose another place with {option}"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def network_filesystem(path: Path) -> str | None:
    """Name the network file system that a path is on, whether it exists or not.

    None where it is on none, or where the system does not tell (it does on Linux).
    """
    try:
        mounts = MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return None
    kind = mounted(path.resolve(), mounts)
    return kind if kind in NETWORKED or THROUGH_FUSE.fullmatch(kind) else None


def mounted(path: Path, mounts: str) -> str:
    """Return the type of the file system of an absolute path, given ``/proc/self/mountinfo``.

    >>> lines = "1 0 0:1 / / rw - ext4 /dev/sda rw"
    >>> lines += chr(10) + "2 1 0:2 / /mnt/my\\\\040disk rw shared:1 - nfs4 host:/x rw"
    >>> mounted(Path("/mnt/my disk/zoo"), lines), mounted(Path("/mnt/my"), lines)
    ('nfs4', 'ext4')
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split()[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:  # the last hides the others
            best, kind = len(point.parts), after.split()[0]
    return kind
