"""JSON that every parser reads, and JSON files of which any content is read or refused in one sentence."""

import collections
import json
import math
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from seanet_jax.errors import MOST_VALUES, InputError, is_integer, is_number
from seanet_jax.paths import read_bytes
from seanet_jax.printable import printable_list, short_repr
from seanet_jax.version import __version__

# The files of this package have at most six levels. Code that recurses, such as ``repr``, fails on a thousand levels.
_MOST_LEVELS = 50


def json_value(value: Any) -> Any:
    """Returns a value as its JSON file holds it: NaN and infinity become None, and tuples become lists.

    JSON has no NaN and no infinity. Python would write them as words that other parsers refuse.

    Args:
        value: A number, text, None, or dicts, lists and tuples of them.
    """
    if isinstance(value, dict):
        return {name: json_value(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record of numbers in which every None is NaN, so that it can be computed with.

    Args:
        record: What ``json_value`` made of a record without None.
    """
    return {name: math.nan if value is None else value for name, value in record.items()}


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Returns the JSON of ``json_value(value)``, with a newline at its end.

    Args:
        value: See ``json_value``.
        indent: Spaces per level. None writes one line, as a file of one record per line needs.
    """
    return json.dumps(json_value(value), indent=indent, allow_nan=False) + "\n"


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Reads a file that holds a JSON object.

    Args:
        path: The file.
        remedy: What the user can do about a damaged file, the end of the error's sentence.

    Raises:
        InputError: If the file cannot be read, or ``parse_json`` refuses its content.
    """
    return parse_json(read_bytes(path), where=str(path), remedy=remedy)


def parse_json(content: str | bytes, *, where: str, remedy: str) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        content: The JSON. Bytes are UTF-8, UTF-16 or UTF-32.
        where: Name of the file, for the error message.
        remedy: See ``read_json``.

    Raises:
        InputError: If the content is not JSON, is nested too deeply, names a field twice, or is not an object.
    """
    try:
        value = json.loads(content, object_pairs_hook=_object)
        damage = "it is not a JSON object" if not isinstance(value, dict) else ""
    except ValueError as error:  # also for bytes that are not text, and for numbers of thousands of digits
        value, damage = {}, str(error)
    except RecursionError:
        value, damage = {}, _TOO_DEEP
    if damage or _is_nested_deeper(value):
        raise InputError(f"{where} is damaged ({damage or _TOO_DEEP}); {remedy}")
    found: dict[str, Any] = value
    return found


_TOO_DEEP = f"it is nested more than {_MOST_LEVELS} levels deep"


def check_fields(found: Iterable[str], known: Iterable[str], *, where: str, version: Any = None) -> None:
    """Checks that a file names no field that this version does not know.

    Args:
        found: Names of the file's fields.
        known: Names of the fields that there are.
        where: Name of the file, for the error message.
        version: The version of seanet_jax that wrote the file; None if the file does not say.

    Raises:
        InputError: If a field is unknown. The message names all of them, and the version.
    """
    if unknown := sorted(set(found) - set(known)):
        fields = f"the field{'s' if len(unknown) > 1 else ''} {printable_list(unknown)}"
        writer = written_by(version)
        raise InputError(
            f"{where} has {fields}, which seanet_jax {__version__} does not know{writer}; "
            f"{'install that version' if writer else 'use the version that wrote it'}, or correct the name"
        )


def written_by(version: Any) -> str:
    """Returns ``; seanet_jax VERSION wrote it`` for a file of another version, or else an empty string.

    Args:
        version: What the file says of its version.
    """
    is_another = isinstance(version, str) and version != __version__
    return f"; seanet_jax {printable_list([version])} wrote it" if is_another else ""


_T = TypeVar("_T")


def checked(value: Any, kind: type[_T], *, where: str, remedy: str) -> _T:
    """Returns a value of a JSON file after checking its type, and the types of all that is in it.

    Args:
        value: The value, as ``parse_json`` returns it.
        kind: The type: ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool``, ``None``, unions of them, lists and
            dicts of them, and subclasses of ``TypedDict``, whose unknown fields are not checked. A bool is no number,
            an int is a float too, and a float must be finite.
        where: Name of the file, for the error message.
        remedy: See ``read_json``.

    Raises:
        InputError: If the value has another type. The message names the first such field.
    """
    if wrong := _mismatch(value, kind, ""):
        raise InputError(f"{where} is damaged ({wrong}); {remedy}")
    found: _T = value
    return found


_WORDS: dict[Any, str] = {
    **{dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a finite number"},
    **{bool: "true or false", type(None): "null"},
}


def _mismatch(value: Any, kind: Any, name: str) -> str:
    """Returns what is wrong with a value, or an empty string. The name is that of its field, such as ``rows[2].x``."""
    if kind is Any:
        return ""
    if typing.is_typeddict(kind):
        if not isinstance(value, dict):
            return _wrong(value, (dict,), name)
        if missing := sorted(kind.__required_keys__ - value.keys()):
            return f"{name.removeprefix('.') or 'it'} has no {printable_list(missing)}"
        fields = typing.get_type_hints(kind)
        return _first(_mismatch(value[field], fields[field], f"{name}.{field}") for field in fields if field in value)
    if isinstance(kind, types.UnionType):
        options = typing.get_args(kind)
        matching = [one for one in options if _is_plainly(value, typing.get_origin(one) or one)]
        return _mismatch(value, matching[0], name) if matching else _wrong(value, options, name)
    plain, inside = typing.get_origin(kind) or kind, typing.get_args(kind)
    if not _is_plainly(value, plain):
        return _wrong(value, (plain,), name)
    if inside and plain is list:
        return _first(_mismatch(one, inside[0], f"{name}[{index}]") for index, one in enumerate(value))
    if inside and plain is dict:
        return _first(_mismatch(one, inside[1], f"{name}.{field}") for field, one in value.items())
    return ""


def _is_plainly(value: Any, kind: Any) -> bool:
    if kind is int:
        return is_integer(value, minimum=-MOST_VALUES) and value <= MOST_VALUES
    return is_number(value) if kind is float else isinstance(value, kind)


def _wrong(value: Any, kinds: Iterable[Any], name: str) -> str:
    allowed = " or ".join(_WORDS[typing.get_origin(kind) or kind] for kind in kinds)
    return f"{name.removeprefix('.') or 'it'} is {short_repr(value)} and must be {allowed}"


def _first(texts: Iterable[str]) -> str:
    return next(filter(None, texts), "")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes the dict of a JSON object. Python would take the last of two values of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = sorted(name for name, count in counts.items() if count > 1)
        raise ValueError(f"it has {printable_list(twice)} twice")
    return found


def _is_nested_deeper(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_LEVELS):
        children = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [child for some in children for child in some]
    return bool(level)
