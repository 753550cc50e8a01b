"""Names and tables as Markdown and CSV, in which no name can be taken for markup or for a formula."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from seanet_jax.printable import printable_cell, shortened

# What begins markup inside a line. An underscore inside a word begins none, and preset names have many.
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$#!]|(?<![^\W_])_|_(?![^\W_])")


def markdown_text(name: str, longest: int = 120) -> str:
    """Returns a name as Markdown that shows it as it is written, on one line and cut if it is long.

    Args:
        name: A name that others have chosen, for example of a network or a data set, or a sentence that has some.
        longest: Largest number of characters, before those of markup are escaped.
    """
    return _MARKUP.sub(r"\\\g<0>", shortened(name, longest))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table as CSV, with a header. Texts are printable, and an apostrophe marks those that would be formulas.

    Args:
        rows: The rows, all with the same columns in the same order. Without rows, the text is empty.
    """
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {column: printable_cell(value) if isinstance(value, str) else value for column, value in row.items()}
            for row in rows
        )
    return text.getvalue()
