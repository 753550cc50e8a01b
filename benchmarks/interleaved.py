"""Compares implementations that take turns. Each runs in its own process, a few steps at a time.

Other load on the machine thus affects all of them alike, and a ratio compares steps of the same round.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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


class Worker:
    """The process of one implementation."""

    def __init__(self, name: str, task: Task):
        self.name = name
        environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
        environment["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        if not name.endswith(UNTUNED):
            malloc = PYTORCH_MALLOC if name.startswith("torch") else cpu_tuning.MALLOC
            environment |= cpu_tuning.tuned_environment(environment, malloc)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  must stay open as long as the process
        self._process = subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("implementations.py"),
                name,
                json.dumps(dataclasses.asdict(task)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.compile_seconds: float = self._reply()["compile_seconds"]

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Sends a request and waits for the reply."""
        assert self._process.stdin is not None
        print(json.dumps({"do": do} | details), file=self._process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            raise SystemExit(f"{self._errors.read()}error: {self.name} ended with status {status}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


@dataclasses.dataclass
class Result:
    """The measurements of one implementation.

    Attributes:
        compile_seconds: Seconds to trace and compile the training step.
        memory: Largest resident set after training, in bytes.
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
) -> dict[str, Result]:
    """Measures implementations, which take turns.

    Args:
        task: What each implementation computes.
        names: Names from ``implementations.IMPLEMENTATIONS``.
        rounds: Number of turns of each implementation.
        steps: Measured steps in a turn of training, after one that is not measured. Evaluation and matrix products are
            quicker and take four times as many.
        do: What to measure, in this order.

    Returns:
        The result of each implementation, by name.
    """
    workers: list[Worker] = []
    try:
        for name in names:
            print(f"starting {name}", file=sys.stderr)
            workers.append(Worker(name, task))
        results = {w.name: Result(w.compile_seconds, 0, {what: [] for what in do}) for w in workers}
        for what in do:
            for turn in range(rounds):
                print(f"{what}: round {turn + 1} of {rounds}", file=sys.stderr)
                # The order alternates, so that no implementation always follows the same one.
                for worker in workers if turn % 2 else reversed(workers):
                    count = steps if what == "train" else 4 * steps
                    # The first step is not measured: the system may have reclaimed memory while the process waited.
                    _, *seconds = worker.ask(what, steps=1 + count)["seconds"]
                    results[worker.name].seconds[what].append(statistics.fmean(seconds))
            if what == "train":
                for worker in workers:
                    results[worker.name].memory = worker.ask("memory")["bytes"]
        return results
    finally:
        for worker in workers:
            worker.close()
