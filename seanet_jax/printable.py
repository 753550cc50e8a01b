"""Names from files, for a line on a terminal or in a picture."""


def printable(text: object) -> str:
    r"""A text without the characters that would break its line or command a terminal: they become ``\n``, ``\x1b``.

    Args:
        text: a name, or a path, which may have been no UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
