"""JSON that every parser reads, and JSON files of which any content is read or refused in one sentence."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seanet_jax.errors import InputError
from seanet_jax.paths import reading
from seanet_jax.printable import printable_list
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
    with reading(path):
        content = path.read_bytes()
    return parse_json(content, where=str(path), remedy=remedy)


def parse_json(content: str | bytes, *, where: str, remedy: str) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        content: The JSON. Bytes are UTF-8, UTF-16 or UTF-32.
        where: Name of the file, for the error message.
        remedy: See ``read_json``.

    Raises:
        InputError: If the content is not JSON, is nested too deeply, or is not an object.
    """
    try:
        value = json.loads(content)
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


def check_fields(found: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Checks that a file names no field that this version does not know.

    Args:
        found: Names of the file's fields.
        known: Names of the fields that there are.
        where: Name of the file, for the error message.

    Raises:
        InputError: If a field is unknown. The message names all of them.
    """
    if unknown := sorted(set(found) - set(known)):
        fields = f"the field{'s' if len(unknown) > 1 else ''} {printable_list(unknown)}"
        raise InputError(
            f"{where} has {fields}, which seanet_jax {__version__} does not know; use the version that wrote it, or "
            "correct the name"
        )


def _is_nested_deeper(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_LEVELS):
        children = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [child for some in children for child in some]
    return bool(level)
