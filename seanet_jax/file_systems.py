"""Says whether a path is on a network file system, whose locks and flushed writes may not hold."""

import os
from pathlib import Path

# Types in /proc/self/mountinfo, see proc_pid_mountinfo(5). A "fuse.NAME" is another program, for example sshfs. A
# "fuseblk" is a disk.
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "vboxsf", "fuse", "afs", "coda", "ceph", "lustre"),
    *("gpfs", "beegfs", "glusterfs", "orangefs", "pvfs2", "panfs", "wekafs", "ocfs2", "gfs2"),
}


def network_file_system(path: Path) -> str | None:
    """Returns the type of the network file system that a path is on, for example "nfs4".

    Args:
        path: A file or folder that exists.

    Returns:
        The type, or None if the path is on a local file system or the system does not say.
    """
    try:
        device = path.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return None
    kind = _type_of_device(mounts, f"{os.major(device)}:{os.minor(device)}")
    return kind if kind in _NETWORK or (kind or "").startswith("fuse.") else None


def _type_of_device(mounts: str, device: str) -> str | None:
    """Returns the type of the file system of a device, or None if no mount is of the device.

    The device tells the file system whatever is mounted where: bind mounts, and mounts below or over others.

    Args:
        mounts: Contents of ``/proc/self/mountinfo``.
        device: Major and minor number, for example "0:52".
    """
    for line in mounts.splitlines():
        # 36 35 98:0 /root /mount/point options optional fields - type source options. No field holds a space.
        mount, _, file_system = line.partition(" - ")
        if mount.split()[2:3] == [device] and file_system:
            return file_system.split()[0]
    return None
