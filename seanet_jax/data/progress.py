"""Messages and progress bars on stderr while data are read."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from seanet_jax import console
from seanet_jax.console import print_error


def shows_bar(progress: bool) -> bool:
    """Returns whether a progress bar is wanted and stderr is a terminal, which can show it.

    Args:
        progress: Whether a progress bar is wanted.
    """
    return progress and console.stderr.isatty()


@contextmanager
def progress_bar(message: str, total: int, progress: bool) -> Iterator[tqdm]:
    """Shows a progress bar on a terminal, and otherwise prints the message once.

    Args:
        message: Text beside the bar.
        total: Number of images to process.
        progress: Whether a progress bar is wanted.

    Yields:
        The bar, to be updated by the number of processed images. It is invisible if there is no terminal.
    """
    if not shows_bar(progress):
        print_error(message)
    with bar_on_terminal(message, total, progress) as bar:
        yield bar


def bar_on_terminal(message: str, total: int, progress: bool = True) -> tqdm:
    """Returns a progress bar that is shown if stderr is a terminal. Otherwise nothing is printed.

    Args:
        message: Text beside the bar.
        total: Number of images to process.
        progress: Whether a progress bar is wanted.
    """
    return tqdm(total=total, desc=message, unit=" images", file=console.stderr, disable=not shows_bar(progress))
