"""Printing to the user, whatever stdout and stderr are.

A stream may be missing (None, as under pythonw or after ``>&-``), closed, a pipe that nobody reads any more, a file on
a full disk, or in an encoding that lacks letters. Reports of progress and errors go to this module's ``stdout`` and
``stderr``, which drop what cannot be written: no work is lost because of them. The result of a command goes through
``print_result``, which fails if the result cannot be written. In both, a letter that the encoding lacks is escaped.
"""

import atexit
import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from seanet_jax.errors import RunError
from seanet_jax.printable import printable_lines

_T = TypeVar("_T")


class SafeStream:
    """A file-like object that writes to ``sys.stdout`` or ``sys.stderr``, and drops what these cannot take.

    The first loss of stdout is reported on stderr. Later writes are tried again, since a full disk may get room.

    Args:
        name: Which of the two. It is looked up at every write, because programs replace these streams.
    """

    def __init__(self, name: Literal["stdout", "stderr"]):
        self._name = name
        self._is_loss_reported = False

    def write(self, text: str) -> int:
        r"""Writes a text, with escapes like ``\xe9`` for letters that the encoding lacks.

        Args:
            text: The text, with its line breaks.
        """
        self._attempt(lambda stream: stream.write(_encodable(text, stream)), None)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        self._attempt(lambda stream: stream.flush(), None)

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._attempt(lambda stream: stream.isatty(), False)

    def fileno(self) -> int:
        """Returns the stream's file descriptor.

        Raises:
            io.UnsupportedOperation: If it has none.
        """
        if (number := self._attempt(lambda stream: stream.fileno(), None)) is None:
            raise io.UnsupportedOperation("fileno")
        return number

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return getattr(getattr(sys, self._name), "encoding", None) or "utf-8"

    def _attempt(self, use: Callable[[TextIO], _T], otherwise: _T) -> _T:
        stream = getattr(sys, self._name)
        if stream is None:
            return otherwise
        try:
            return use(stream)
        except io.UnsupportedOperation:
            return otherwise
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            if self._name == "stdout" and not self._is_loss_reported:
                self._is_loss_reported = True
                reason = getattr(error, "strerror", None) or error
                print(f"warning: stdout cannot be written ({reason}); the work continues", file=stderr, flush=True)
            return otherwise


stdout = SafeStream("stdout")
stderr = SafeStream("stderr")


def print_result(text: str) -> None:
    """Prints the result of a command on stdout. Without a stdout, it does nothing.

    Args:
        text: The result. Characters that could command a terminal are escaped.

    Raises:
        BrokenPipeError: If the reader of stdout has closed it.
        RunError: If stdout cannot be written for another reason, such as a full disk.
    """
    if sys.stdout is None:
        return
    try:
        print(_encodable(printable_lines(text), sys.stdout), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"the output could not be written ({error.strerror})") from None


def print_error(text: str) -> None:
    """Prints a message on stderr at once, or drops it if it cannot be written.

    Args:
        text: The message. Characters that could command a terminal are escaped.
    """
    print(printable_lines(text), file=stderr, flush=True)


def prepare() -> None:
    """Makes stdout and stderr of this process writable by any code, such as argument parsers and progress bars.

    Only commands call this; importing the package never changes a process.
    """
    for number in range(3):
        # A file that is opened later would get the number of a missing stream, and the messages of C++ libraries, which
        # write to numbers 1 and 2, would end up in it. os.open takes the lowest free number.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (it stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    atexit.register(discard_unwritten)


def discard_unwritten() -> None:
    """Flushes stdout and stderr, and discards what they cannot take.

    At its end the interpreter flushes them too. If that fails, it prints an error and changes the exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _encodable(text: str, stream: TextIO) -> str:
    """Returns the text with an escape for every letter that the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
