"""A process that a power cut ends, and what it printed until then."""

import contextlib
import re
import subprocess
from collections.abc import Iterator

from seanet_jax.errors import InputError


class Process:
    """A process whose output is read line by line. Leaving the context kills it.

    Args:
        command: The command line.

    Attributes:
        lines: The lines of its stdout and stderr that were read so far.
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
        """Reads lines up to the first that matches a pattern. Returns whether there was one.

        Args:
            pattern: Regular expression of the start of the line.
        """
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
        """Returns the groups of all lines read that match a pattern.

        Args:
            pattern: Regular expression of the start of a line.
        """
        return [match.groups() for line in self.lines if (match := re.match(pattern, line))]


@contextlib.contextmanager
def errors_as_problems(problems: list[str], what: str) -> Iterator[None]:
    """A context that turns an error, such as a damaged file raises, into a problem.

    Args:
        problems: The list to which the problem is appended.
        what: Name of what is read inside.
    """
    try:
        yield
    except (InputError, OSError) as error:
        problems.append(f"{what}: {error}")
