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
    visible = shows_bar(progress)
    if not visible:
        print_error(message)
    with tqdm(total=total, desc=message, unit=" images", file=console.stderr, disable=not visible) as bar:
        yield bar
