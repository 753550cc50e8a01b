"""Being asked to stop: SIGTERM and SIGINT end a run after the step in flight, with a checkpoint."""

import os
import signal
import threading
import types

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Inside this context the first SIGTERM or SIGINT is noted and nothing else; SIGINT after that stops at once.

    A signal that is ignored, as SIGINT is in a script's background job, stays so. Python lets only the main thread
    handle signals: in any other the context does nothing.

    Of several processes one is enough to be asked: JAX's preemption service, which handles SIGTERM itself, has them
    all stop at the same step.

    Attributes:
        signal: the one that came, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, object] = {}
        self._several = jax.process_count() > 1
        self._interrupted = False
        self._asked = 0

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = True
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = signal.Signals(number)

    def came(self) -> bool:
        """Whether a request came. All processes get the same answer; they have to ask equally often."""
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
    """A run was asked to stop, and did.

    Args:
        number: the signal.
        message: where, and what is left.
    """

    def __init__(self, number: signal.Signals, message: str):
        super().__init__(message)
        self.signal = number
