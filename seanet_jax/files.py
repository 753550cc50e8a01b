"""Writing files atomically, and printing their names safely."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

_SUFFIX = ".tmp"
_MOST_LISTED, _LONGEST_LISTED = 20, 300
_LONGEST = 50  # letters, each of up to four bytes


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file completely or not at all, even if the process is killed or the machine stops.

    Several processes may write the same file at once. Each version is whole, and the last one stays.

    Args:
        path: The file to write. It is replaced if it exists.
        content: The content. Text is written as UTF-8.

    Raises:
        OSError: If the file cannot be written.
    """
    # A name of its own, because another process may be writing the same file. Not by tempfile, whose files only their
    # owner can read. The name is cut, because a file system allows names of 255 bytes.
    temporary = path.with_name(f".{path.name[:_LONGEST]}-{os.urandom(8).hex()}{_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            # Without this, the machine could stop with the new name on disk and the content not.
            os.fsync(file.fileno())
        # Atomic on POSIX: a reader sees the old file or the new one.
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def leftovers(path: Path) -> list[Path]:
    """Returns the files that killed processes left in the folder of ``path`` while they wrote it.

    If another process is writing ``path`` now, its unfinished file is among them.
    """
    pattern = re.compile(re.escape(f".{path.name[:_LONGEST]}-") + "[0-9a-f]{16}" + re.escape(_SUFFIX))
    return [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)]


def printable_list(texts: Sequence[str], separator: str = ", ") -> str:
    """Joins texts of a file, such as the names in it. Long texts are cut, and long lists end in their number.

    Args:
        texts: The texts, in order.
        separator: Text between two of them.
    """
    cut = (text if len(text) <= _LONGEST_LISTED else f"{text[:_LONGEST_LISTED]}…" for text in texts[:_MOST_LISTED])
    shown = [printable(text) for text in cut]
    if (others := len(texts) - _MOST_LISTED) > 0:
        shown.append(f"and {others:,} more")
    return separator.join(shown)


def printable(text: object) -> str:
    r"""Returns a text in which every unprintable character is escaped, for example as ``\n`` or ``\x1b``.

    Unescaped, these would break the line or send commands to the terminal.

    Args:
        text: A name, or a path. A path may hold bytes that are not UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
