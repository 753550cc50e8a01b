"""Names as Markdown, in which none can be taken for markup."""

import re

from seanet_jax.printable import shortened

# What begins markup inside a line. An underscore inside a word begins none, and preset names have many.
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$#!]|(?<![^\W_])_|_(?![^\W_])")


def markdown_text(name: str, longest: int = 120) -> str:
    """Returns a name as Markdown that shows it as it is written, on one line and cut if it is long.

    Args:
        name: A name that others have chosen, for example of a network or a data set, or a sentence that has some.
        longest: Largest number of characters, before those of markup are escaped.
    """
    return _MARKUP.sub(r"\\\g<0>", shortened(name, longest))
