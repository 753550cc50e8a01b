"""Drops what Orbax prints of errors that it also raises, a page for each array, while this package uses it.

Nothing is dropped for the rest of a program that imports this package: neither before nor after, nor in its threads.
"""

import contextlib
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

_LOGGERS = ("absl", "asyncio")

# Orbax abandons the coroutines of other arrays when it gives up because of one. The tuple is an entry of
# ``warnings.filters``.
_ABANDONED = ("ignore", re.compile(r"coroutine 'async_serialize\w*", re.IGNORECASE), RuntimeWarning, None, 0)

_lock = threading.Lock()
# For each open context, the threads that are not its own.
_open: list[set[threading.Thread]] = []
_hook_before: Callable[["sys.UnraisableHookArgs"], object] = sys.unraisablehook


@contextlib.contextmanager
def raised_only() -> Iterator[None]:
    """While the context is open, drops reports of Orbax's errors by this thread and by threads that start meanwhile.

    Python cannot tell which thread started another. Those that exist already are taken for the host program's, except
    threads that Python did not start: TensorStore keeps its own from one use to the next.
    """
    others = {thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)}
    others.discard(threading.current_thread())
    with _lock:
        if not _open:
            _install()
        _open.append(others)
    try:
        yield
    finally:
        with _lock:
            _open.remove(others)
            if not _open:
                _remove()


def _install() -> None:
    global _hook_before
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_news)
    warnings.filters.insert(0, _ABANDONED)  # type: ignore[attr-defined]
    _hook_before, sys.unraisablehook = sys.unraisablehook, _hook


def _remove() -> None:
    for name in _LOGGERS:
        logging.getLogger(name).removeFilter(_is_news)
    with contextlib.suppress(ValueError):  # if the program has set all filters anew
        warnings.filters.remove(_ABANDONED)  # type: ignore[attr-defined]
    if sys.unraisablehook is _hook:  # or else the program has set its own, which may call this one
        sys.unraisablehook = _hook_before


def _is_own_thread() -> bool:
    thread = threading.current_thread()
    return any(thread not in others for others in list(_open))  # copied, as another thread may open or close one


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    is_orbax = "orbax" in Path(record.pathname).parts or (
        record.name == "asyncio" and ("orbax" in message or "OCDBT" in message)
    )
    return not (is_orbax and _is_own_thread())


def _hook(unraisable: "sys.UnraisableHookArgs") -> None:
    # Orbax gave up because of one array; TensorStore finishes another and calls back into the closed event loop.
    is_late = unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"
    code = getattr(unraisable.object, "cr_code", None)  # set if it is a coroutine that Orbax abandoned
    is_orbax = is_late or (code is not None and "orbax" in Path(code.co_filename).parts)
    if not (is_orbax and _is_own_thread()):
        _hook_before(unraisable)
