"""The two exceptions whose message is for the user as it stands, and the checks most often made before the first."""

from typing import Any


class InputError(ValueError):
    """Something the user gave cannot work.

    The message is one sentence that names what was wrong and what would be right; the command line prints it as it is
    and exits with status 2.
    """


class RunError(RuntimeError):
    """A run cannot go on, and neither the input nor the code is at fault: the disk is full, the loss is NaN.

    The message says what happened and what is left; the command line prints it as it is and exits with status 1.
    """


def is_integer(value: Any, *, minimum: int) -> bool:
    """Whether a value is an int of at least ``minimum``; True and False, though ints to Python, are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def demand_positive_integers(where: str, **values: Any) -> None:
    """Demands that sizes are sizes.

    Args:
        where: what the message begins with.
        **values: the sizes, by name.

    Raises:
        InputError: one is not a positive integer.
    """
    for name, value in values.items():
        if not is_integer(value, minimum=1):
            raise InputError(f"{where}: {name} is {value!r}; it must be a positive integer")
