"""Files that are written whole or not at all, and their names as text that is safe to print."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, whatever happens to the process or the machine.

    Args:
        path: of the file, which is replaced if it exists.
        content: text is written as UTF-8.
    """
    temporary = temporary_of(path)
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def temporary_of(path: Path) -> Path:
    """What a process leaves that is killed while it writes ``path``."""
    return path.with_name(path.name + ".tmp")


def printable(text: object) -> str:
    r"""A text without the characters that would break its line or command a terminal: they become ``\n``, ``\x1b``.

    Args:
        text: a name, or a path, which may have been no UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
