"""The two exceptions whose messages are shown to the user, and the checks that most often raise the first."""

from typing import Any


class InputError(ValueError):
    """An argument, flag or file of the user is invalid.

    The message is one sentence that names what is wrong and what would be right. The command line prints it without a
    traceback and exits with status 2.
    """


class RunError(RuntimeError):
    """A run cannot continue for a reason outside the input and the code, such as a full disk or a NaN loss.

    The message says what happened and what is left on disk. The command line prints it without a traceback and exits
    with status 1.
    """


def is_integer(value: Any, *, minimum: int) -> bool:
    """Returns whether a value is an int of at least ``minimum``.

    Args:
        value: The value. True and False do not count, although they are ints in Python.
        minimum: The smallest integer that is allowed.
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def check_positive_integers(where: str, **values: Any) -> None:
    """Checks that all values are positive integers.

    Args:
        where: Name of the function or class that was called, with which the message begins.
        **values: The values by the names of their arguments.

    Raises:
        InputError: If a value is not a positive integer.
    """
    for name, value in values.items():
        if not is_integer(value, minimum=1):
            raise InputError(f"{where}: {name} is {value!r}; it must be a positive integer")
