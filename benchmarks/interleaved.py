"""Compares implementations that take turns. Each runs in its own process, a few steps at a time.

Other load on the machine thus affects all of them alike, and a ratio compares steps of the same round.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from implementations import Task

from seanet_jax.commands import cpu_tuning

# Suffix of the names of implementations whose process is not tuned.
UNTUNED = "untuned"

# PyTorch frees and allocates memory more often than XLA. Huge pages alone make it slower than these settings, which
# also keep freed memory. Keeping it would not make seanet_jax faster, only larger.
PYTORCH_MALLOC = {
    **cpu_tuning.MALLOC,
    "glibc.malloc.mmap_max": "0",  # large blocks come from the heap as well,
    "glibc.malloc.trim_threshold": str(2**63 - 1),  # which never shrinks
    "glibc.malloc.top_pad": str(2**28),  # and grows in large strides
}


class WorkerError(SystemExit):
    """An implementation failed or took too long. Unless it is caught, it ends the program with what was written.

    Args:
        line: What happened, in one line.
        log: What the process wrote to stderr.

    Attributes:
        line: What happened, in one line.
        log: What the process wrote to stderr.
    """

    def __init__(self, line: str, log: str):
        super().__init__(f"{log}error: {line}")
        self.line = line
        self.log = log


class Worker:
    """The process of one implementation.

    Args:
        name: Name from ``implementations.IMPLEMENTATIONS``. Flags of XLA may follow it, each after a space.
        task: What the implementation computes.
        patience: Seconds that a reply may take; None waits for ever.

    Raises:
        WorkerError: If the implementation cannot be created, or takes longer.
    """

    def __init__(self, name: str, task: Task, patience: float | None = None):
        self.name = name
        implementation, *flags = name.split(" --")
        environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
        environment["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # all processes share the memory of a GPU
        environment["XLA_FLAGS"] = " ".join([environment.get("XLA_FLAGS", ""), *(f"--{flag}" for flag in flags)])
        if not name.endswith(UNTUNED):
            malloc = PYTORCH_MALLOC if name.startswith("torch") else cpu_tuning.MALLOC
            environment |= cpu_tuning.tuned_environment(environment, malloc)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  must stay open as long as the process
        self._process = subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("implementations.py"),
                implementation,
                json.dumps(dataclasses.asdict(task)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        try:
            self.compile_seconds: float = self._reply(patience)["compile_seconds"]
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, *, patience: float | None = None, **details: Any) -> dict[str, Any]:
        """Sends a request and waits for the reply.

        Args:
            do: What to do; see ``implementations``.
            patience: Seconds that the reply may take; None waits for ever.
            **details: The rest of the request.

        Raises:
            WorkerError: If the implementation fails or takes longer.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # an ended process has no reply, and the reply says why
            print(json.dumps({"do": do} | details), file=self._process.stdin, flush=True)
        return self._reply(patience)

    def _reply(self, patience: float | None) -> dict[str, Any]:
        assert self._process.stdout is not None
        # A reply is one line, so nothing is left in Python's buffer, and the pipe itself tells whether one is there.
        ready, _, _ = select.select([self._process.stdout], [], [], patience)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        if ready:
            what = f"{self.name} ended with status {self._process.wait()}"
        else:
            what = f"{self.name} did not answer within {patience:.0f} s"
        self._errors.seek(0)
        log = self._errors.read()
        raise WorkerError(f"{what}{_reason(log)}", log)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):  # of a request that the process did not read
            self._process.communicate()
        self._errors.close()


def _reason(log: str) -> str:
    """Returns the line of a log that says best why a process ended, after a colon."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"Error\b|^F\d{4} ", line)]
    return "".join(f": {line[:300]}" for line in (telling or lines)[-1:])


@dataclasses.dataclass
class Result:
    """The measurements of one implementation.

    Attributes:
        compile_seconds: Seconds to trace and compile the training step.
        memory: Most memory in use after training, in bytes: of the GPU, or on a CPU the largest resident set.
        seconds: Mean seconds per step of each round, for "train", "evaluate" and "matmul".
    """

    compile_seconds: float
    memory: int
    seconds: dict[str, list[float]]


def compare(
    task: Task,
    names: Sequence[str],
    *,
    rounds: int,
    steps: int,
    do: Sequence[str] = ("train", "evaluate", "matmul"),
    on_error: Callable[[str, WorkerError], None] | None = None,
    seconds: float = math.inf,
) -> dict[str, Result]:
    """Measures implementations, which take turns.

    Args:
        task: What each implementation computes.
        names: Names from ``implementations.IMPLEMENTATIONS``, which flags of XLA may follow.
        rounds: Number of turns of each implementation.
        steps: Measured steps in a turn of training, after one that is not measured. Evaluation and matrix products are
            quicker and take four times as many.
        do: What to measure, in this order.
        on_error: What to do with the name and the error of an implementation that fails, which is left out of the
            result. None ends the program.
        seconds: Time in which to be done. An implementation that is not started in three quarters of it fails, and once
            all of it is over no turn begins.

    Returns:
        The result of each implementation, by name.
    """
    ends, started = time.monotonic() + seconds, time.monotonic() + 0.75 * seconds
    workers: dict[str, Worker] = {}
    results: dict[str, Result] = {}

    @contextlib.contextmanager
    def going_on(name: str) -> Iterator[None]:
        try:
            yield
        except WorkerError as error:
            if on_error is None:
                raise
            on_error(name, error)
            results.pop(name, None)
            if name in workers:
                workers.pop(name).close()

    def patience(until: float = ends) -> float | None:
        return None if math.isinf(until) else max(1.0, until - time.monotonic())

    try:
        for name in names:
            print(f"starting {name}", file=sys.stderr)
            with going_on(name):
                workers[name] = worker = Worker(name, task, patience(started))
                results[name] = Result(worker.compile_seconds, 0, {what: [] for what in do})
        for what in do:
            for turn in range(rounds):
                if time.monotonic() > ends:
                    break
                print(f"{what}: round {turn + 1} of {rounds}", file=sys.stderr)
                # The order alternates, so that no implementation always follows the same one.
                for name, worker in list(workers.items())[:: 1 if turn % 2 else -1]:
                    count = steps if what == "train" else 4 * steps
                    with going_on(name):
                        # The first step is not measured: the system may have reclaimed memory while the process waited.
                        _, *spent = worker.ask(what, patience=patience(), steps=1 + count)["seconds"]
                        results[name].seconds[what].append(statistics.fmean(spent))
            if what == "train":
                for name, worker in list(workers.items()):
                    with going_on(name):
                        results[name].memory = worker.ask("memory", patience=patience())["bytes"]
        return results
    finally:
        for worker in workers.values():
            worker.close()
