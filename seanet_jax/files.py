"""Writing files atomically, and printing their names safely."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file completely or not at all, even if the process is killed or the machine stops.

    Args:
        path: The file to write. It is replaced if it exists.
        content: The content. Text is written as UTF-8.

    Raises:
        OSError: If the file cannot be written.
    """
    temporary = temporary_path(path)
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        # Without this, the machine could stop with the new name on disk and the content not.
        os.fsync(file.fileno())
    # Atomic on POSIX: a reader sees the old file or the new one.
    temporary.replace(path)


def temporary_path(path: Path) -> Path:
    """Returns the file that ``write_whole`` leaves beside ``path`` if the process is killed while writing."""
    return path.with_name(path.name + ".tmp")


def printable(text: object) -> str:
    r"""Returns a text in which every unprintable character is escaped, for example as ``\n`` or ``\x1b``.

    Unescaped, these would break the line or send commands to the terminal.

    Args:
        text: A name, or a path. A path may hold bytes that are not UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
