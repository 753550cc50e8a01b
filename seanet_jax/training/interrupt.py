"""Requests to stop a run: after SIGTERM, SIGINT or SIGHUP it finishes the current step, saves a checkpoint and ends."""

import os
import signal
import threading
import types

import jax
from jax.experimental import multihost_utils

# Schedulers send SIGTERM, Ctrl-C is SIGINT, and a terminal or an ssh connection that closes is SIGHUP (not on Windows).
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class StopRequest:
    """A context that records the first of these signals instead of ending the process. A second SIGINT ends it.

    A signal that the process ignores, as a script's background job ignores SIGINT and nohup SIGHUP, stays ignored. Only
    the main thread can handle signals in Python: in any other thread the context does nothing.

    If several processes train together, a signal to one of them is enough. JAX's preemption service, which handles
    SIGTERM itself, makes all of them stop at the same step.

    Attributes:
        signal: The signal that was received, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, object] = {}
        self._several = jax.process_count() > 1
        self._interrupted = False
        self._asked = 0

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                by_jax = self._several and number == signal.SIGTERM
                if not by_jax and signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = True
        if self._several:
            # JAX's preemption service listens to SIGTERM alone, so another signal is passed on as one.
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = signal.Signals(number)

    def requested(self) -> bool:
        """Whether the run was asked to stop. The result is the same in all processes, which must ask equally often."""
        if self._several and self.signal is None:
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self.signal = signal.SIGTERM
        return self.signal is not None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class StoppedError(Exception):
    """A run was asked to stop and has stopped.

    Args:
        number: The signal that asked for it.
        message: At which step the run stopped, and what is saved.

    Attributes:
        signal: The signal that asked for it.
    """

    def __init__(self, number: signal.Signals, message: str):
        super().__init__(message)
        self.signal = number
