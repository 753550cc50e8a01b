"""The one exception that means: the input, not the code, is at fault; and the check most often made before it."""

from typing import Any


class InputError(ValueError):
    """Something the user gave cannot work.

    The message is one sentence that names what was wrong and what would be right; the command line prints it as it is
    and exits with status 2.
    """


def is_integer(value: Any, *, minimum: int) -> bool:
    """Whether a value is an int of at least ``minimum``; True and False, though ints to Python, are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum
