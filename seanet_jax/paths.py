"""Paths that a user gives: how they are read, looked at, and refused in one sentence.

Every path argument of a command or a public function passes through ``user_path``. Every question whether a path exists
passes through ``exists``, ``is_file`` or ``is_folder``: if a folder of another user is in the way, the methods of
``pathlib.Path`` raise a ``PermissionError`` before Python 3.14, and return False from 3.14 on.
"""

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from seanet_jax.durable import make_folders
from seanet_jax.errors import InputError
from seanet_jax.printable import printable

# The records of a million epochs fit in this.
_MOST_BYTES = 2**28

UserPath = str | os.PathLike[str]
"""A path as a user gives it."""

# One slash is enough, because Path turns "gs://bucket" into "gs:/bucket". A single letter is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def user_path(path: UserPath, *, name: str = "") -> Path:
    """Returns a path that a user gave as a ``Path``, with ``~`` and ``~name`` expanded.

    A path that was returned by this function is returned unchanged.

    Args:
        path: The path.
        name: Name of the field or variable that holds the path, with which an error begins.

    Raises:
        InputError: If the path is a URL, such as ``gs://bucket/run``, is empty or not text, or begins with ``~`` and
            there is no such home folder.
    """
    start = f"{name}: " if name else ""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise InputError(f"{start}{path!r} is not a path; give a string or a pathlib.Path")
    if not text or "\0" in text:
        wrong = "not a valid name" if text else "empty"
        raise InputError(f"{start}the path {text!r} is {wrong}; name a file or a folder")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise InputError(f"{start}the path {text!r} is not a valid name; name a file or a folder") from None
    if _URL.match(text):
        raise InputError(f"{start}{printable(text)} is a URL; only local folders and files can be used")
    given = Path(text)
    try:
        return given.expanduser()
    except RuntimeError:
        # A file may have such a name, as in "~draft.png". A shell leaves it as it is, too.
        if exists(Path(given.parts[0])):
            return given
        why = f"{printable(given.parts[0])} has no home folder here; give the whole path"
        raise InputError(f"{start}{printable(text)}: {why}") from None


def home_folder() -> Path | None:
    """Returns the user's home folder, or None if ``HOME`` is not set and the system does not know the user."""
    try:
        return Path.home()
    except RuntimeError:
        return None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` raised inside into an ``InputError`` that names the path and the reason.

    Args:
        path: The file that is read, or the folder that is listed.

    Raises:
        InputError: If an ``OSError`` is raised inside.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{printable(path)} cannot be read ({error.strerror or error})") from None


def exists(path: Path) -> bool:
    """Returns whether a path exists.

    Raises:
        InputError: If this cannot be found out, for example because a folder of another user is in the way.
    """
    return _mode(path) is not None


def is_file(path: Path) -> bool:
    """Returns whether a path is a regular file. Raises the same errors as ``exists``."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: Path) -> bool:
    """Returns whether a path is a folder. Raises the same errors as ``exists``."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: Path) -> int | None:
    """Returns the type and permissions of what a path leads to, or None if there is nothing."""
    with reading(path):
        try:
            return path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None


def check_regular(path: Path) -> None:
    """Checks that a path is a regular file, or that there is nothing.

    Reading a named pipe waits for a writer, and a device such as ``/dev/zero`` has no end.

    Args:
        path: The file.

    Raises:
        InputError: If it is a folder, a pipe, a socket or a device. The message names the kind.
    """
    if (mode := _mode(path)) is not None and not stat.S_ISREG(mode):
        kind = next((name for name, is_kind in _KINDS.items() if is_kind(mode)), "no file")
        raise InputError(f"{path} cannot be read (it is {kind}); a file must be there")


_KINDS = {
    "a folder": stat.S_ISDIR,
    "a named pipe": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
}


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file that others may have made.

    Args:
        path: The file.

    Raises:
        InputError: If it is missing, no regular file, larger than 256 MiB, or cannot be read.
    """
    check_regular(path)
    with reading(path), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > _MOST_BYTES:
            raise InputError(f"{path} cannot be read (it has more than {_MOST_BYTES:,} bytes); name another one")
        return file.read()


def check_readable(path: Path) -> None:
    """Checks that a file, or every file in a folder and its subfolders, is a regular file that can be opened.

    Libraries report a file that they may not open as damaged or missing.

    Args:
        path: A file or a folder.

    Raises:
        InputError: If one cannot be opened. The message names it.
    """
    if is_folder(path):
        with reading(path):
            inside = sorted(path.iterdir())
        for entry in inside:
            check_readable(entry)
        return
    check_regular(path)
    with reading(path), path.open("rb"):
        pass


def make_folder(path: Path) -> None:
    """Creates a folder, with its parents, unless it exists, and checks that files can be written in it.

    Args:
        path: The folder.

    Raises:
        InputError: If the folder cannot be created or written.
    """
    try:
        make_folders(path)
        # A file system may be mounted read-only, or a quota used up, which the permissions of the folder do not show.
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError:
        raise InputError(f"{printable(path)} is a file; name a folder") from None
    except OSError as error:
        raise InputError(f"{printable(path)} cannot be written ({error.strerror}); name another folder") from None
