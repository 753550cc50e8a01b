"""Being asked to stop: SIGTERM and SIGINT end a run after the step in flight, with a checkpoint."""

import signal
import threading
import types


class StopRequest:
    """Inside this context the first SIGTERM or SIGINT is noted and nothing else; SIGINT after that stops at once.

    A signal that is ignored, as SIGINT is in a script's background job, stays so. Python lets only the main thread
    handle signals: in any other the context does nothing.

    Attributes:
        signal: the one that came, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class StoppedError(Exception):
    """A run was asked to stop, and did.

    Args:
        number: the signal.
        message: what is left, and how to go on.
    """

    def __init__(self, number: signal.Signals, message: str):
        super().__init__(message)
        self.signal = number
