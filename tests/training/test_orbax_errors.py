"""Orbax's reports of errors are dropped while this package uses Orbax, and only then and there."""

import _thread
import logging
import sys
import threading
import warnings
from pathlib import Path

import orbax.checkpoint
import pytest

from seanet_jax.training import orbax_errors
from seanet_jax.training.orbax_errors import raised_only

ORBAX = str(Path(orbax.checkpoint.__file__).with_name("manager.py"))


@pytest.fixture
def heard():
    """The messages that reach the handlers of absl's and asyncio's loggers."""

    class Handler(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    messages, handler = [], Handler()
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addHandler(handler)
    yield messages
    for name in ("absl", "asyncio"):
        logging.getLogger(name).removeHandler(handler)


def report(message, path=ORBAX, logger="absl"):
    record = logging.LogRecord(logger, logging.ERROR, path, 1, message, None, None)
    logging.getLogger(logger).handle(record)


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


def test_reports_are_dropped_in_the_context_and_in_threads_that_start_in_it(heard):
    with raised_only():
        report("save failed")
        in_thread(report, "commit failed")
        report("Task exception was never retrieved <orbax/serialization.py>", "base_events.py", "asyncio")
        report("of JAX", "jax/compiler.py")
        report("Task exception was never retrieved <server.py>", "base_events.py", "asyncio")
    assert heard == ["of JAX", "Task exception was never retrieved <server.py>"]


def test_the_program_and_its_threads_keep_theirs(heard):
    begin, end = threading.Event(), threading.Event()

    def host():
        begin.wait()
        report("of the program's thread")
        end.set()

    thread = threading.Thread(target=host)
    thread.start()
    report("before")
    with raised_only():
        begin.set()
        end.wait()
    thread.join()
    report("after")
    assert heard == ["before", "of the program's thread", "after"]


def test_a_thread_that_python_did_not_start_may_report_in_one_context_after_another(heard):
    use, done, again = (threading.Semaphore(0) for _ in range(3))

    def of_tensorstore():
        for _ in range(2):
            use.acquire()
            # The logger asks for the current thread, by which Python takes note of a foreign one until it ends.
            report("save failed")
            done.release()
        again.acquire()

    _thread.start_new_thread(of_tensorstore, ())
    for _ in range(2):
        with raised_only():
            use.release()
            done.acquire()
    again.release()
    assert heard == []


def state():
    filters = [list(logging.getLogger(name).filters) for name in ("absl", "asyncio")]
    return filters, list(warnings.filters), sys.unraisablehook


def test_everything_is_as_before_once_the_last_of_several_contexts_is_left():
    before = state()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with raised_only():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with raised_only():
        thread.start()
        inside.wait()
    assert state() != before
    leave.set()
    thread.join()
    assert state() == before
    with pytest.raises(ValueError, match="error of the caller"), raised_only():
        raise ValueError("error of the caller")
    assert state() == before


def test_a_hook_that_the_program_sets_meanwhile_stays(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    mine = lambda unraisable: None  # noqa: E731
    with raised_only():
        sys.unraisablehook = mine
    assert sys.unraisablehook is mine


def test_what_cannot_be_raised_is_dropped_only_if_it_is_of_orbax(monkeypatch):
    class Unraisable:
        def __init__(self, value, code=None):
            self.exc_value, self.object = value, None if code is None else self
            if code is not None:
                self.cr_code = type("Code", (), {"co_filename": code})

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    of_orbax = [Unraisable(RuntimeError("Event loop is closed")), Unraisable(RuntimeError("never awaited"), ORBAX)]
    others = [Unraisable(RuntimeError("other")), Unraisable(RuntimeError("never awaited"), "/app/server.py")]
    with raised_only():
        for one in (*of_orbax, *others):
            sys.unraisablehook(one)
    assert seen == others
    orbax_errors._hook(of_orbax[0])  # as a hook would that was set in the context and calls the one before it
    assert seen[-1] is of_orbax[0]
