from pathlib import Path

import pytest

from seanet_jax.printable import printable, printable_list


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


def test_a_list_of_texts_is_cut_and_printable():
    assert printable_list(["a", "b\n"], "; ") == r"a; b\n" and printable_list([]) == ""
    assert printable_list([str(number) for number in range(22)]).endswith("18, 19, and 2 more")
    assert printable_list(["x" * 301]) == "x" * 300 + "…"
