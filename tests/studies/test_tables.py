"""Names in Markdown and CSV are shown as they are, whatever they are."""

import csv
import io

import pytest

from seanet_jax.studies.tables import csv_text, markdown_text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("seanet20_narrow", "seanet20_narrow"),
        ("CIFAR-100", "CIFAR-100"),
        ("_a_", r"\_a\_"),
        ("a|b`c*d", r"a\|b\`c\*d"),
        ("<b>&amp;", r"\<b\>\&amp;"),
        ("[x](javascript:1)", r"\[x\](javascript:1)"),
        ("$x$\\~#!", r"\$x\$\\\~\#\!"),
        ("two\nlines\x1b", r"two\\nlines\\x1b"),
        ("x" * 10_000, "x" * 119 + "…"),
    ],
)
def test_a_name_is_no_markdown(name, text):
    assert markdown_text(name) == text


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
