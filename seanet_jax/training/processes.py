"""Several processes that train one network together: how they connect, exchange values and end.

All of this is JAX's distributed runtime. Process 0 runs a coordinator, which the others connect to and which notices
processes that are gone. Values travel by collectives between the devices. A single process needs none
of this: the functions return at once.
"""

import contextlib
import dataclasses
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from seanet_jax import console
from seanet_jax.errors import InputError, RunError, is_integer, store_plain

# JAX ends the processes that have not heard from another one for this long. Most end earlier, when a connection breaks.
HEARTBEAT_SECONDS = 30

# JAX ends the others as soon as the first process is gone. This leaves them time to print their own errors.
_LAST_WORDS_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """How this process finds the others. If no value is given, JAX detects Slurm, Open MPI, Kubernetes or a TPU pod.

    Attributes:
        coordinator: ``host:port`` at which process 0 listens.
        num_processes: Number of processes.
        process_id: Index of this process, from 0.

    Raises:
        InputError: If one value is given without the others, or a value cannot work.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        store_plain(self)
        coordinator, count, number = self.coordinator, self.num_processes, self.process_id
        if coordinator is None and count is None and number is None:
            return
        if coordinator is None or count is None or number is None:
            raise InputError("--coordinator, --num-processes and --process-id go together; give all three or none")
        if not isinstance(coordinator, str) or not re.fullmatch(r".+:\d{1,5}", coordinator):
            raise InputError(f"coordinator is {coordinator!r}; it must be host:port, for example 10.0.0.1:4321")
        if not is_integer(count, minimum=1):
            raise InputError(f"num_processes is {count!r}; it must be a positive integer")
        if not is_integer(number, minimum=0) or number >= count:
            raise InputError(f"process_id is {number!r}; it must be from 0 to {count - 1}")


def start(group: ProcessGroup) -> None:
    """Connects this process to the others. Must be called before any other use of JAX.

    Waits up to five minutes for all processes. If one does not come, or dies later, JAX ends this process.

    Args:
        group: How to find the other processes.

    Raises:
        InputError: If JAX detects no job, or process 0 cannot listen at the coordinator's port.
    """
    if group.process_id == 0:
        _check_free_port(str(group.coordinator))
    try:
        jax.distributed.initialize(
            group.coordinator, group.num_processes, group.process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except ValueError as error:
        raise InputError(
            f"--distributed: JAX detects no Slurm, Open MPI, Kubernetes or TPU job here ({error}); "
            "give --coordinator, --num-processes and --process-id"
        ) from None


def _check_free_port(coordinator: str) -> None:
    # JAX itself ends with a segmentation fault if the port is taken.
    port, both = int(coordinator.rpartition(":")[2]), socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        with socket.create_server(("", port), family=family, dualstack_ipv6=both):
            pass
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--coordinator: process 0 cannot listen at port {port} ({reason}); name a free port to all processes"
        ) from None


def is_first() -> bool:
    """Whether this is the first process, the one that writes and prints."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """Returns the texts of all processes, ordered by process index. Every process must call this.

    Args:
        text: This process's text.
    """
    if jax.process_count() == 1:
        return [text]
    # Collectives need equal shapes: the lengths are exchanged first, then the texts, padded to the longest.
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def from_first(value: Any) -> Any:
    """Returns the first process's value in every process. Every process must call this.

    Args:
        value: This process's value, made of JSON types.
    """
    return value if jax.process_count() == 1 else json.loads(gather(json.dumps(value))[0])


def check_same(**values: Any) -> None:
    """Checks that all processes were started with the same values. Every process must call this.

    Args:
        **values: This process's values, made of JSON types.

    Raises:
        InputError: If a value differs between processes. It is raised in all of them.
    """
    everyone = [json.loads(text) for text in gather(json.dumps(values))]
    differences = [
        f"{name} is {everyone[0].get(name)!r} in process 0 and {other.get(name)!r} in process {number}"
        for number, other in enumerate(everyone)
        for name in sorted(everyone[0].keys() | other.keys())
        if everyone[0].get(name) != other.get(name)
    ]
    if differences:
        raise InputError(f"the processes of a run must be started alike: {'; '.join(differences)}")


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Raises an error of one process in all of them, at the end of the context. Every process must enter it.

    Otherwise the others would wait forever, in their next collective, for the one that failed.

    Raises:
        InputError: If a process raised one inside: its own, or that of the first process that has one.
        RunError: If a process raised one inside, in the same way.
    """
    if jax.process_count() == 1:
        yield
        return
    found: InputError | RunError | None = None
    try:
        yield
    except (InputError, RunError) as error:
        found = error
    kinds = {"": None, "input": InputError, "run": RunError}
    kind = "" if found is None else "input" if isinstance(found, InputError) else "run"
    everyone = [json.loads(text) for text in gather(json.dumps((kind, str(found))))]
    if found is not None:
        raise found
    for number, (name, message) in enumerate(everyone):
        if error_type := kinds[name]:
            raise error_type(f"process {number}: {message}")


def is_lost_process(error: Exception) -> bool:
    """Whether an error, raised by a collective or by JAX's coordinator, means that another process is gone."""
    # Its type does not tell: it is ValueError or JaxRuntimeError, depending on where the loss is noticed.
    signs = r"Gloo|NCCL|[Cc]oordination|UNAVAILABLE|DEADLINE_EXCEEDED|Barrier"
    return jax.process_count() > 1 and re.search(signs, str(error)) is not None


@contextlib.contextmanager
def reporting_lost_process() -> Iterator[None]:
    """Turns the error of a collective into a ``RunError`` which says that another process is gone.

    Raises:
        RunError: If an error raised inside means that another process is gone.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError | RunError) or not is_lost_process(error):
            raise
        raise RunError(
            f"process {jax.process_index()} lost another process of this run ({str(error).splitlines()[0]}); "
            "the checkpoints stay, and the same command with --resume, in all processes, continues the run"
        ) from error


def exit_now(status: int) -> NoReturn:
    """Ends this process at once. At a normal exit JAX would wait for the others, which may be waiting for this one.

    Args:
        status: The process's exit status.
    """
    console.discard_unwritten()
    try:
        first = is_first()
    except Exception:  # JAX has no devices, which may be why this process ends
        first = True
    if first:
        time.sleep(_LAST_WORDS_SECONDS)
    os._exit(status)
