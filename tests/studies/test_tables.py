"""Names in Markdown are shown as they are, whatever they are."""

import pytest

from seanet_jax.studies.tables import markdown_text


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
