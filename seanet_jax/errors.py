"""The two exceptions whose messages are shown to the user, and the checks of numbers that raise the first.

Users give Python's numbers, NumPy's and JAX's. ``plain`` makes them Python's, which can be checked by their type,
hashed, and written as JSON.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from seanet_jax.printable import printable

MOST_VALUES = 2**31 - 1
"""Largest number of values of a parameter, and the largest size: what JAX's 32-bit integers count."""


class InputError(ValueError):
    """An argument, flag or file of the user is invalid.

    The message is one sentence that names what is wrong and what would be right. The command line prints it without a
    traceback and exits with status 2. Names and values from files may be part of it, so it is made printable.
    """

    def __init__(self, *args: object):
        super().__init__(*map(printable, args))


class RunError(RuntimeError):
    """A run cannot continue for a reason outside the input and the code, such as a full disk or a NaN loss.

    The message says what happened and what is left on disk. The command line prints it without a traceback and exits
    with status 1. It is made printable, as that of an ``InputError``.
    """

    def __init__(self, *args: object):
        super().__init__(*map(printable, args))


def plain(value: Any) -> Any:
    """Returns the Python value of a scalar of NumPy or JAX, and any other value unchanged.

    Args:
        value: A value of any type. The elements of a tuple are converted.
    """
    if type(value) is tuple:
        return tuple(map(plain, value))
    if getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except TypeError:  # inside a transformation of JAX, an array has no value yet
        return value


def store_plain(config: Any) -> None:
    """Replaces the fields of a dataclass by their ``plain`` values. The dataclass may be frozen."""
    for field in dataclasses.fields(config):
        object.__setattr__(config, field.name, plain(getattr(config, field.name)))


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Returns ``did you mean NAME?`` for the known name that is most similar to a word, or an empty string.

    Args:
        word: What the user wrote in place of a name.
        known: The names that exist.
    """
    # Python's get_close_matches prefers the last of equally similar names, such as seanet32 to seanet20 for seanet21.
    similarity = {name: difflib.SequenceMatcher(None, name, str(word)).ratio() for name in known}
    closest = max(similarity, key=similarity.__getitem__, default="")
    return f"did you mean {closest}?" if similarity.get(closest, 0) >= 0.6 else ""


def is_integer(value: Any, *, minimum: int) -> bool:
    """Returns whether a plain value is an int of at least ``minimum``.

    Args:
        value: The value. True and False do not count, although they are ints in Python.
        minimum: The smallest integer that is allowed.
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_number(value: Any) -> bool:
    """Returns whether a plain value is a finite int or float. True and False do not count."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def positive_integers(where: str, **values: Any) -> tuple[int, ...]:
    """Checks that all values are positive integers, and returns them as ints.

    Args:
        where: Name of the function or class that was called, with which the message begins.
        **values: The values by the names of their arguments.

    Returns:
        The integers, in the order of the arguments.

    Raises:
        InputError: If a value is not a positive integer.
    """
    return _plain_values(where, values, lambda value: is_integer(value, minimum=1), "a positive integer")


def check_array_size(where: str, shape: Sequence[int]) -> None:
    """Checks that an array is small enough to be made, before memory is exhausted.

    Args:
        where: Name of the function or class that was called, with which the message begins.
        shape: The shape of the array.

    Raises:
        InputError: If the array has more than ``MOST_VALUES`` values.
    """
    if math.prod(shape) > MOST_VALUES:
        raise InputError(f"{where}: these sizes give an array of more than {MOST_VALUES:,} values; give smaller ones")


def finite_numbers(where: str, **values: Any) -> tuple[float, ...]:
    """Checks that all values are finite numbers, and returns them as ints or floats.

    Args:
        where: Name of the function or class that was called, with which the message begins.
        **values: The values by the names of their arguments.

    Returns:
        The numbers, in the order of the arguments.

    Raises:
        InputError: If a value is not a finite number.
    """
    return _plain_values(where, values, is_number, "a finite number")


def _plain_values(
    where: str, values: Mapping[str, Any], is_allowed: Callable[[Any], bool], allowed: str
) -> tuple[Any, ...]:
    for name, value in values.items():
        if not is_allowed(plain(value)):
            raise InputError(f"{where}: {name} is {value!r}; it must be {allowed}")
    return plain(tuple(values.values()))
