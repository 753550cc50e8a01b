import csv
import io
from pathlib import Path

import pytest

from seanet_jax.printable import aligned, csv_text, printable, printable_lines, printable_list, short_repr, shortened


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 字", "plain é 字"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\udcff", r"\udcff"),
        (Path("a\rb"), r"a\rb"),
        ("\u202eleft", r"\u202eleft"),
    ],
)
def test_what_would_break_a_line_or_command_a_terminal_is_escaped(text, expected):
    assert printable(text) == expected


def test_a_long_value_is_cut():
    assert short_repr(["a", 1]) == "['a', 1]"
    assert short_repr(10**400) == "1" + 299 * "0" + "…"


def test_a_list_of_texts_is_cut_and_printable():
    assert printable_list(["a", "b\n"], "; ") == r"a; b\n" and printable_list([]) == ""
    assert printable_list([str(number) for number in range(22)]).endswith("18, 19, and 2 more")
    assert printable_list(["x" * 301]) == "x" * 300 + "…"


def test_of_several_lines_only_the_line_breaks_stay():
    assert printable_lines("a\x1b[2J\nb\r\n") == "a\\x1b[2J\nb\\r\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 10, "x" * 10),
        ("x" * 11, "x" * 9 + "…"),
        ("\n" * 6, "\\n" * 4 + "\\…"),
        ("\u0301" * 99, "\u0301" * 9 + "…"),
    ],
)
def test_a_name_is_cut_to_any_length(text, expected):
    assert shortened(text, 10) == expected


def test_a_text_in_csv_is_no_formula():
    formulas, others = (
        ["=1+1", "+1", "-2", "@SUM(A1)"],
        {"a=1": "a=1", "\t=1": r"\t=1", "\r=1": r"\r=1", 'x"\n,': r'x"\n,'},
    )
    rows = [{"name": text, "number": -2.5, "none": None} for text in [*formulas, *others]]
    found = list(csv.DictReader(io.StringIO(csv_text(rows), newline="")))
    assert [row["name"] for row in found] == [*(f"'{text}" for text in formulas), *others.values()]
    assert {row["number"] for row in found} == {"-2.5"} and {row["none"] for row in found} == {""}
    assert csv_text([]) == ""


def test_the_columns_of_a_table_are_below_each_other():
    table = [("a", "long", "1"), ("{b}", "", "100")]
    assert aligned(table) == "a    long  1\n{b}        100"
    assert aligned(table, left=2) == "a    long    1\n{b}        100"
