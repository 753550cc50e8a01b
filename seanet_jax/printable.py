"""Texts of others, such as names in a file, made safe for a terminal, for one line and for a spreadsheet."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_LISTED, _LONGEST_LISTED = 20, 300
# A spreadsheet takes a cell that begins with one of these for a formula, which can start programs.
_FORMULA = ("=", "+", "-", "@")


def printable_list(texts: Sequence[str], separator: str = ", ") -> str:
    """Joins texts of a file, such as the names in it. Long texts are cut, and long lists end in their number.

    Args:
        texts: The texts, in order.
        separator: Text between two of them.
    """
    cut = (text if len(text) <= _LONGEST_LISTED else f"{text[:_LONGEST_LISTED]}…" for text in texts[:_MOST_LISTED])
    shown = [printable(text) for text in cut]
    if (others := len(texts) - _MOST_LISTED) > 0:
        shown.append(f"and {others:,} more")
    return separator.join(shown)


def short_repr(value: object) -> str:
    """Returns the ``repr`` of a value of a file, cut if it is long.

    Args:
        value: The value.
    """
    text = repr(value)
    return text if len(text) <= _LONGEST_LISTED else f"{text[:_LONGEST_LISTED]}…"


def printable(text: object) -> str:
    r"""Returns a text in which every unprintable character is escaped, for example as ``\n`` or ``\x1b``.

    Unescaped, these would break the line or send commands to the terminal.

    Args:
        text: A name, or a path. A path may hold bytes that are not UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def printable_lines(text: str) -> str:
    r"""Returns a text of several lines in which every unprintable character but the line breaks is escaped.

    Args:
        text: The text.
    """
    return "\n".join(printable(line) for line in text.split("\n"))


def shortened(text: object, longest: int = 120) -> str:
    """Returns a printable text, cut if it is long, so that any name fits where names are shown.

    Args:
        text: A name, for example of a class.
        longest: Largest number of characters of the result.
    """
    whole = str(text)
    shown = printable(whole[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def aligned(table: Sequence[Sequence[str]], *, left: int | None = None) -> str:
    """Returns a table for a terminal, with its columns below each other.

    Args:
        table: The rows, all with the same columns.
        left: Number of columns whose texts begin at the left; those of the others end at the right. None is all.
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    marks = ["<" if left is None or column < left else ">" for column in range(len(widths))]
    forms = [f"{{:{mark}{width}}}" for mark, width in zip(marks, widths, strict=True)]
    return "\n".join("  ".join(forms).format(*row).rstrip() for row in table)


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
            {column: _cell(value) if isinstance(value, str) else value for column, value in row.items()} for row in rows
        )
    return text.getvalue()


def _cell(text: str) -> str:
    shown = printable(text)  # a tab before it hides a formula from this check, but not from a spreadsheet
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
