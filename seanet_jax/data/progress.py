"""What the user sees on stderr while data are read."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


def say(message: str) -> None:
    """Prints one line on stderr."""
    print(message, file=sys.stderr, flush=True)


def shows_bar(progress: bool) -> bool:
    """Whether a progress bar is wanted and stderr can show one."""
    return progress and sys.stderr.isatty()


@contextmanager
def progress_bar(message: str, total: int, progress: bool) -> Iterator[tqdm]:
    """Gives a progress bar where one can be shown, and otherwise says the message once.

    Args:
        message: What is being done.
        total: Number of steps.
        progress: Whether a bar is wanted.
    """
    visible = shows_bar(progress)
    if not visible:
        say(message)
    with tqdm(total=total, desc=message, unit=" images", disable=not visible) as bar:
        yield bar
