"""Contestants that take turns: each in a process of its own, a few steps at a time.

Whatever else the machine does hits all of them alike, and a ratio compares steps of the same round.
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

from contestants import Task

from seanet_jax.commands import cpu_tuning

# Ends the names of contestants that run as Python starts.
UNTUNED = "untuned"

# PyTorch gives back and asks for memory more often than XLA: huge pages alone make it slower than this does, which also
# keeps what is freed. That, in turn, makes seanet_jax no faster, and larger.
PYTORCH_MALLOC = {
    **cpu_tuning.MALLOC,
    "glibc.malloc.mmap_max": "0",  # large blocks come from the heap as well,
    "glibc.malloc.trim_threshold": str(2**63 - 1),  # which never shrinks
    "glibc.malloc.top_pad": str(2**28),  # and grows in large strides
}


class Worker:
    """A contestant's process."""

    def __init__(self, name: str, task: Task):
        self.name = name
        environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
        environment["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        if not name.endswith(UNTUNED):
            malloc = PYTORCH_MALLOC if name.startswith("torch") else cpu_tuning.MALLOC
            environment |= cpu_tuning.tuned_environment(environment, malloc)
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115  open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("contestants.py"), name, json.dumps(dataclasses.asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=environment,
        )
        self.compile_seconds: float = self._answer()["compile_seconds"]

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer."""
        assert self._process.stdin is not None
        print(json.dumps({"do": do} | details), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._complaints.seek(0)
            raise SystemExit(f"{self._complaints.read()}error: {self.name} ended with status {status}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._complaints.close()


@dataclasses.dataclass
class Result:
    """Of one contestant.

    Attributes:
        compile_seconds: to trace and compile the training step.
        memory: largest resident set in bytes after training.
        seconds: for "train", "evaluate" and "matmul", the mean step of each round.
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
    """Lets contestants take turns.

    Args:
        task: what each of them computes.
        names: of ``contestants.CONTESTANTS``.
        rounds: turns of each contestant.
        steps: that count in a turn of training, after one that does not; what is quicker takes four times as many.
        do: what they do, one after the other.

    Returns:
        Each contestant's result.
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
                # Nobody always follows the same neighbour.
                for worker in workers if turn % 2 else reversed(workers):
                    count = steps if what == "train" else 4 * steps
                    # The first does not count: a system may have taken back the memory of a process that waited.
                    _, *seconds = worker.ask(what, steps=1 + count)["seconds"]
                    results[worker.name].seconds[what].append(statistics.fmean(seconds))
            if what == "train":
                for worker in workers:
                    results[worker.name].memory = worker.ask("memory")["bytes"]
        return results
    finally:
        for worker in workers:
            worker.close()
