"""A process that is ended by a power cut, and what it said until then."""

import contextlib
import re
import subprocess
from collections.abc import Iterator

from seanet_jax.errors import InputError


class Process:
    """A process that the power cut ends. Leaving the context kills it.

    Args:
        command: The command line.

    Attributes:
        lines: The lines that it has printed and that were read.
    """

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self.lines: list[str] = []

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def read_to(self, pattern: str) -> bool:
        """Reads lines up to one that matches a pattern. Returns whether there was one before the end of the output."""
        for line in self._output:
            self.lines.append(line)
            if re.match(pattern, line):
                return True
        return False

    def has_ended(self) -> bool:
        """Whether the process ended by itself."""
        return self._process.poll() is not None

    def has_failed(self) -> bool:
        """Whether the process ended by itself with an error."""
        return self._process.poll() not in (None, 0)

    def end(self) -> None:
        """Kills the process and reads the rest of its output."""
        self._process.kill()
        with self._output:
            self.lines += self._output
            self._process.wait()

    def printed(self, pattern: str) -> list[tuple[str, ...]]:
        """Returns the groups of all lines read that match a pattern."""
        return [match.groups() for line in self.lines if (match := re.match(pattern, line))]


@contextlib.contextmanager
def noting(problems: list[str], what: str) -> Iterator[None]:
    """Turns an error raised inside, which a damaged file causes, into a problem."""
    try:
        yield
    except (InputError, OSError) as error:
        problems.append(f"{what}: {error}")
