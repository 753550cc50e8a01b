"""Runs documented commands in forks of a process that has imported what they import, which takes each of them seconds.

    python tests/support/forks.py SOCKET                           # the process that forks; it ends when its input does
    python -S tests/support/forks.py SOCKET PROGRAM ARGUMENTS...   # ends as the command does, in this folder

No device is in use before a fork, so that JAX begins in it as in a new process.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serving(environment: dict[str, str]) -> Iterator[Path]:
    """A context in which commands are run that are asked for at the socket."""
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


def _ask(path: str, arguments: list[str]) -> int:
    """Has a command run with the input, output and environment of this process. Returns its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [b" "], [0, 1, 2])
        connection.sendall(json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode())
        connection.shutdown(socket.SHUT_WR)
        return int(connection.makefile().read())


def _serve(path: str) -> None:
    """Waits for commands. Returns in a fork that is to run one, and in no other process."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if not os.fork():
                    return _become(connection)
    # So that the time they took is that of this process.
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    sys.exit()


def _become(connection: socket.socket) -> None:
    """Becomes the process of a command that was asked for. The process above it waits for its end, and tells it."""
    _, descriptors, *_ = socket.recv_fds(connection, 1, 3)
    arguments, folder, environment = json.loads(connection.makefile().read())
    if process := os.fork():
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}".encode())
        os._exit(0)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # The streams know whether they are files, pipes or terminals.
    encoding = sys.stdout.encoding
    sys.stdin = os.fdopen(0, encoding=encoding, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["documented.py", *arguments]


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
        sys.exit(_ask(sys.argv[1], sys.argv[2:]))
    import documented

    _import_all()
    _serve(sys.argv[1])
    documented.main()
