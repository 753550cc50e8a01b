"""A file system in an image file, whose power can be cut. It needs root, loop devices and the file system's mkfs.

A cut shrinks the loop device below the mounted file system to one sector. From then on every write fails, as after a
power cut, and whatever the file system still holds in memory is lost. Mounting the image again replays the file
system's log, as the next start of a machine does.
"""

import contextlib
import fcntl
import gc
import os
import shutil
import struct
import subprocess
import time
import types
from pathlib import Path

# By default ext4 and btrfs write everything to disk after seconds, and ext4 also before some renames. Without that,
# only what a program synchronizes survives a cut. XFS has no such options; it waits for half a minute.
_OPTIONS = {"ext4": "loop,commit=600,noauto_da_alloc", "xfs": "loop", "btrfs": "loop,commit=600"}
_MKFS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q"), "btrfs": ("mkfs.btrfs", "-q")}
FILE_SYSTEMS = tuple(_MKFS)

_BYTES = 380 * 2**20  # XFS needs 300 MiB; the file is sparse

# From linux/loop.h: two requests, the bytes of struct loop_info64, and the place of its field lo_sizelimit.
_GET_STATUS, _SET_STATUS, _STATUS_BYTES, _SIZE_LIMIT = 0x4C05, 0x4C04, 232, 32
_SECTOR = 512


class DiskImage:
    """A mounted file system in an image file. Leaving the context unmounts it and deletes the image.

    Args:
        file_system: One of ``FILE_SYSTEMS``.
        scratch: An existing folder, for the image and the mount point.

    Attributes:
        folder: The root folder of the file system.
    """

    def __init__(self, file_system: str, scratch: Path):
        self._file_system = file_system
        self._image = scratch / f"{file_system}.img"
        self.folder = scratch / file_system

    def __enter__(self) -> "DiskImage":
        with contextlib.ExitStack() as stack:
            stack.callback(self._delete)
            self.folder.mkdir()
            with self._image.open("xb") as file:
                file.truncate(_BYTES)
            _run(*_MKFS[self._file_system], str(self._image))
            self.mount()
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._delete()

    def _delete(self) -> None:
        self.unmount()
        self._image.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.folder.rmdir()

    def mount(self) -> None:
        """Mounts the file system, which replays its log if the power was cut."""
        _run("mount", "-o", _OPTIONS[self._file_system], str(self._image), str(self.folder))

    def cut(self) -> None:
        """Cuts the power: nothing is written to the image any more. Programs that write get an error."""
        device = os.open(self._mounted_device(), os.O_RDWR)
        try:
            status = bytearray(_STATUS_BYTES)
            fcntl.ioctl(device, _GET_STATUS, status)
            struct.pack_into("=Q", status, _SIZE_LIMIT, _SECTOR)
            fcntl.ioctl(device, _SET_STATUS, bytes(status))
        finally:
            os.close(device)

    def unmount(self) -> None:
        """Unmounts the file system if it is mounted, which also detaches the loop device.

        Raises:
            RuntimeError: If a process still has a file open there. The file system then vanishes with that process.
        """
        for attempt in range(50):
            if not self._mounted_device():
                return
            if subprocess.run(["umount", self.folder], capture_output=True, check=False).returncode:
                gc.collect()  # the files of restored checkpoints may be open still
                time.sleep(0.02 * attempt)
        subprocess.run(["umount", "--lazy", self.folder], check=False)
        raise RuntimeError(f"{self.folder} was in use and could not be unmounted at once")

    def restart(self) -> None:
        """Unmounts the file system and mounts it again, as the next start of a machine does."""
        self.unmount()
        self.mount()

    def _mounted_device(self) -> str:
        # Not by the file system itself, which need not answer without power.
        find = ["findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", str(self.folder)]
        return subprocess.run(find, capture_output=True, text=True, check=False).stdout.strip()

    def synchronize(self) -> None:
        """Writes everything to the image, so that a later cut does not touch it."""
        _run("sync", "--file-system", str(self.folder))


def missing(file_system: str, scratch: Path) -> str:
    """Returns why images with a file system cannot be mounted here, or "" if they can.

    Args:
        file_system: One of ``FILE_SYSTEMS``.
        scratch: An existing folder in which to try.
    """
    if os.geteuid():
        return "only root may mount images"
    for program in (_MKFS[file_system][0], "mount", "umount", "findmnt"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    try:
        with DiskImage(file_system, scratch):
            return ""
    except subprocess.CalledProcessError as error:
        return f"an image with {file_system} cannot be mounted ({error.stderr.strip()})"


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
