"""The one exception that means: the input, not the code, is at fault."""


class InputError(ValueError):
    """Something the user gave cannot work.

    The message is one sentence that names what was wrong and what would be right; the command line prints it as it is
    and exits with status 2.
    """
