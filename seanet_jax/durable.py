"""Writes that a power cut does not undo. Every file and folder that matters is written by these functions.

A file system keeps what was written in memory for a while, the names of files apart from their contents. After a power
cut, a file may have its name and no content, or the name of a folder may be gone with all that is in it. Each function
here returns only once the contents are on disk, and then the names: files first, then their folders, then the rename,
then the folder that holds the new name.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".tmp"
_LONGEST = 50  # letters, each of up to four bytes

# Age at which an unfinished file or folder is one of a killed process. Nothing here takes that long to write.
_ABANDONED_SECONDS = 24 * 3600

# What file systems answer that cannot synchronize a folder, or anything (POSIX's fsync, and some of FUSE).
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file completely or not at all, even if the process is killed or the machine stops.

    Several processes may write the same file at once. Each version is whole, and the last one stays.

    Args:
        path: The file to write. It is replaced if it exists.
        content: The content. Text is written as UTF-8.

    Raises:
        OSError: If the file cannot be written.
    """
    with file_written_whole(path) as file:
        file.write(_bytes(content))


@contextlib.contextmanager
def file_written_whole(path: Path) -> Iterator[BinaryIO]:
    """Gives an open file to write to, which gets its name at the end; see ``write_whole``.

    Nothing is left of it after an error.

    Args:
        path: The file to write. It is replaced if it exists.

    Raises:
        OSError: If the file cannot be written.
    """
    with _temporary(path) as temporary:
        with _on_disk(temporary) as file:
            yield file
        replace(temporary, path)


def write_together(folder: Path, files: Mapping[str, str | bytes | None]) -> None:
    """Writes files that belong together. A reader under ``locked`` sees the files of one call, never of two.

    All contents are on disk before the first file gets its name, so a full disk leaves the old files. A process that
    dies between the first name and the last one leaves files of two calls. For this case the last file should hold the
    SHA-256 of the others, or another file that of the last one.

    Args:
        folder: The folder to lock while the files get their names, which takes no longer than renaming them.
        files: The contents by path in the folder, in the order in which the files get their names. Existing files are
            replaced, and those whose content is None are removed. Folders in the paths must exist.

    Raises:
        OSError: If a file cannot be written.
    """
    paths = {folder / name: content for name, content in files.items()}
    temporaries: dict[Path, Path] = {}
    with contextlib.ExitStack() as stack:
        for path, content in paths.items():
            if content is not None:
                temporaries[path] = stack.enter_context(_temporary(path))
                with _on_disk(temporaries[path]) as file:
                    file.write(_bytes(content))
        with locked(folder):
            for path in paths:
                if path in temporaries:
                    temporaries[path].replace(path)
                else:
                    path.unlink(missing_ok=True)
        for parent in {path.parent for path in paths}:
            sync_folder(parent)


@contextlib.contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keeps other processes from replacing files by ``write_together`` until the context ends. Waits for those that do.

    The lock is on the folder itself, so it leaves no file, and it ends with the process. On file systems that cannot
    lock a folder, such as NFS, there is no lock.

    Args:
        folder: The folder.
        shared: Whether other processes may hold the lock too, for those that only read.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Gives a name beside a path for a file or folder that is renamed to it. It is removed if an error is raised."""
    with contextlib.suppress(OSError):
        for left in leftovers(path):
            if time.time() - left.lstat().st_mtime > _ABANDONED_SECONDS:
                _remove(left)
    temporary = unique_beside(path)
    try:
        yield temporary
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, if it exists."""
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):  # what Linux and POSIX answer for a folder
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[BinaryIO]:
    """Gives a new file to write to, whose content is on disk at the end."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def append(path: Path, text: str) -> None:
    """Appends to a file, which is created if it is missing. What is appended is on disk when this returns.

    A power cut before that may leave a part of the text.

    Args:
        path: The file.
        text: The text, which is written as UTF-8.

    Raises:
        OSError: If the file cannot be written.
    """
    with path.open("ab") as file:
        is_new = file.tell() == 0
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


@contextlib.contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which gets its name at the end, complete and on disk.

    Nothing is left of it after an error.

    Args:
        path: The folder to write. It must not exist, or be empty.

    Raises:
        OSError: If the folder cannot be written.
    """
    with _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        sync_tree(temporary)
        replace(temporary, path)


def replace(source: Path, target: Path) -> None:
    """Renames a file or folder whose content is on disk. A reader sees the old one or the new one, also after a cut.

    Args:
        source: The file or folder.
        target: Its new name, on the same file system. A file is replaced, and so is an empty folder by a folder.

    Raises:
        OSError: If it cannot be renamed.
    """
    source.replace(target)  # atomic on POSIX
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def make_folders(path: Path) -> None:
    """Creates a folder and its missing parents. Their names are on disk when this returns.

    Args:
        path: The folder. It may exist.

    Raises:
        OSError: If the folder cannot be created.
    """
    try:
        path.mkdir()
    except FileNotFoundError:
        make_folders(path.parent)
        path.mkdir(exist_ok=True)
    except FileExistsError:
        path.mkdir(exist_ok=True)  # raises the error again unless it is a folder
        return
    sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Puts all files below a folder on disk, then the folders. The folder's own name is its parent's to keep.

    Args:
        folder: The folder.

    Raises:
        OSError: If a file cannot be read or written to disk.
    """
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before the folder
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # opening a pipe would wait for its writer
            _sync(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Puts the names of the files in a folder on disk, not their contents.

    Args:
        folder: The folder.

    Raises:
        OSError: If the folder cannot be written to disk.
    """
    # A folder may be writable and not readable, which nothing can synchronize.
    with contextlib.suppress(PermissionError):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def unique_beside(path: Path) -> Path:
    """Returns a name beside a path that no other process takes, for a file or folder that is renamed to it later.

    Args:
        path: The path.
    """
    # Not by tempfile, whose files only their owner can read. Cut, because a file system allows names of 255 bytes.
    return path.with_name(f".{path.name[:_LONGEST]}-{os.urandom(8).hex()}{_SUFFIX}")


def leftovers(path: Path) -> list[Path]:
    """Returns what killed processes left in the folder of ``path`` while they wrote it.

    If another process is writing ``path`` now, its unfinished file or folder is among them.

    Args:
        path: The file or folder that they were writing.
    """
    pattern = re.compile(re.escape(f".{path.name[:_LONGEST]}-") + "[0-9a-f]{16}" + re.escape(_SUFFIX))
    return [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)]
