"""Starts Python programs as forks of a process that has imported what they import, which takes each of them seconds.

    python tests/support/forks.py SOCKET                           # the process that forks; it ends when its input does
    python -S tests/support/forks.py SOCKET ARGUMENTS...           # ends as "python ARGUMENTS..." does, in this folder

No device is in use before a fork, so that JAX begins in it as in a new process. Python and JAX read their variables
when they start. A program that is given others than the first one is therefore a new process.
"""

import atexit
import contextlib
import functools
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from garbage import collect_rarely

_PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
# As if a command had restarted itself with malloc tuned: the restart would be a new process.
_TUNED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@contextlib.contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[Path]:
    """A context in which programs are run that are asked for at the socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        with subprocess.Popen(
            [sys.executable, "-W", "error", __file__, path],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            yield path


def start(arguments: list[Any], *, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """Starts ``python -W error`` with arguments, as a child of this process.

    Args:
        arguments: A script, or ``-m`` and a module, or ``-c`` and code, with its arguments.
        env: The environment; None is that of this process.
        options: Further options of ``subprocess.Popen``.

    Returns:
        The process, whose output is text.
    """
    environment = dict(os.environ if env is None else env)
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    if sys.platform == "linux" and _read_at_start(environment) == _own_server()[1]:
        return _Fork(command, env=environment | _TUNED, text=True, **options)
    return subprocess.Popen(command, env=environment, text=True, **options)


def run(arguments: list[Any], *, timeout: float = 600, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs ``python -W error`` with arguments to its end; see ``start``. Its output is captured."""
    with start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        try:
            out, error = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(("JAX_", "PYTHON"))}


class _Fork(subprocess.Popen):
    """A process that is forked elsewhere and handed over to this one as its child."""

    def _execute_child(self, *values: Any) -> None:
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *values).arguments
        ends = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        descriptors = [standard if end == -1 else end for standard, end in enumerate(ends)]
        folder = os.fspath(given["cwd"] or Path.cwd())
        with _request(_own_server()[0], descriptors, given["args"][3:], folder, given["env"], wait=False) as answer:
            self.pid = int(answer.read())
        self._child_created = True
        self._close_pipe_fds(*(given[name] for name in _PIPES))


_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


@functools.cache
def _own_server() -> tuple[Path, dict[str, str]]:
    """Starts the process that forks for this one, which adopts its grandchildren. It ends with this process.

    Returns:
        Its socket, and the variables that it has read.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(serving({})), _read_at_start(os.environ)


def _request(
    path: Path, descriptors: list[int], arguments: list[str], folder: str, environment: Mapping[str, str], *, wait: bool
) -> Any:
    """Asks for a program. The answer is its exit status if it is waited for, and else the number of the process."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.fspath(path))
        socket.send_fds(connection, [b" "], descriptors)
        connection.sendall(json.dumps([wait, arguments, folder, dict(environment)]).encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile()


def _serve(path: str) -> None:
    """Waits for requests. Returns in a fork that is to run a program, and in no other process."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if _forked(connection):
                    return
    # So that the time they took is that of this process.
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    sys.exit()


def _forked(connection: socket.socket) -> bool:
    """Answers a request. Returns True in the process of the program, and False in this one."""
    _, descriptors, *_ = socket.recv_fds(connection, 1, 3)
    wait, arguments, folder, environment = json.loads(connection.makefile().read())
    reading, writing = os.pipe()
    between = os.fork()
    if between:
        for descriptor in (*descriptors, writing):
            os.close(descriptor)
        with os.fdopen(reading) as pipe:
            process = pipe.read()
        if not wait:
            # When it has ended, the program is a child of the process that asked for it.
            os.waitpid(between, 0)
            connection.sendall(process.encode())
        return False
    os.close(reading)
    process = os.fork()
    if process:
        os.write(writing, f"{process}".encode())
        os.close(writing)
        if wait:
            for descriptor in descriptors:
                os.close(descriptor)
            connection.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}".encode())
        os._exit(0)
    os.close(writing)
    _become(descriptors, arguments, folder, environment)
    return True


def _become(descriptors: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Gives this process the streams, arguments, folder and environment of a program."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    # The streams know whether they are files, pipes or terminals.
    encoding = sys.stdout.encoding
    sys.stdin = os.fdopen(0, encoding=encoding, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _run_program() -> None:
    """Runs the program of ``sys.argv`` as Python does."""
    kind, *rest = sys.argv
    if kind == "-c":
        code, *rest = rest
        sys.argv = ["-c", *rest]
        sys.path[0] = ""
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        sys.path[0] = str(Path.cwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


def _import_all() -> None:
    """Imports the modules of the commands, and what those import when they are called."""
    import importlib
    import pkgutil

    import matplotlib.pyplot  # noqa: F401
    import scipy.stats  # noqa: F401
    import tensorboardx_alone  # noqa: F401

    for room in ("commands", "studies", "inference", "training"):
        for module in pkgutil.iter_modules(importlib.import_module(f"seanet_jax.{room}").__path__):
            importlib.import_module(f"seanet_jax.{room}.{module.name}")


if __name__ == "__main__":
    if sys.argv[2:]:
        with _request(Path(sys.argv[1]), [0, 1, 2], sys.argv[2:], str(Path.cwd()), os.environ, wait=True) as answer:
            sys.exit(int(answer.read()))
    _import_all()
    # Nothing of what was imported is garbage. Looking at it would copy the memory that a fork shares.
    collect_rarely()
    _serve(sys.argv[1])
    _run_program()
