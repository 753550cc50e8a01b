"""Several processes that train one network together: how they find each other, agree and part.

All of it is JAX's distributed runtime: a coordinator in process 0, which the others connect to and which notices those
that are gone, and the collectives between their devices. A single process needs none of it and pays nothing for it.
"""

import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from seanet_jax.errors import InputError, RunError, is_integer

# After so long without a sign of a process JAX ends the others: those that do not see their connections to it break.
HEARTBEAT_SECONDS = 30

# The others end with the first process, in the midst of a sentence.
_LAST_WORDS_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """How this process finds the others. Without any value, as JAX detects it: Slurm, Open MPI, Kubernetes, TPU.

    Attributes:
        coordinator: ``host:port`` that process 0 listens at.
        num_processes: how many there are.
        process_id: which one this is, from 0.

    Raises:
        InputError: one value is given without the others, or cannot work.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
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
    """Connects this process with the others; before anything else is asked of JAX.

    Waits up to five minutes for all of them. Where one does not come, or later dies, JAX ends the process.

    Args:
        group: how to find them.

    Raises:
        InputError: nothing is detected, or process 0 cannot listen at the coordinator's port.
    """
    if group.process_id == 0:
        _demand_free_port(str(group.coordinator))
    try:
        jax.distributed.initialize(
            group.coordinator, group.num_processes, group.process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except ValueError as error:
        raise InputError(
            f"--distributed: JAX detects no Slurm, Open MPI, Kubernetes or TPU job here ({error}); "
            "give --coordinator, --num-processes and --process-id"
        ) from None


def _demand_free_port(coordinator: str) -> None:
    """JAX's own answer to a port that is taken is a segmentation fault."""
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
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """A text of every process, in their order. All processes have to call it."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def of_first(value: Any) -> Any:
    """The first process's value, in all of them. All have to call it.

    Args:
        value: of JSON's types.
    """
    return value if jax.process_count() == 1 else json.loads(gather(json.dumps(value))[0])


def demand_alike(**values: Any) -> None:
    """Demands that all processes were started alike. All have to call it.

    Args:
        **values: of this process, of JSON's types.

    Raises:
        InputError: in all of them, if one has another value.
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
def agreed() -> Iterator[None]:
    """What one process finds wrong inside, all of them raise at the end. All have to come here.

    Raises:
        InputError: or RunError: this process's, or that of the first which has one.
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


def is_loss(error: Exception) -> bool:
    """Whether a collective, or JAX's coordinator, tells by an error that another process is gone."""
    # The type is ValueError or JaxRuntimeError, by where it shows.
    signs = r"Gloo|NCCL|[Cc]oordination|UNAVAILABLE|DEADLINE_EXCEEDED|Barrier"
    return jax.process_count() > 1 and re.search(signs, str(error)) is not None


@contextlib.contextmanager
def noticing_loss() -> Iterator[None]:
    """Says in one sentence that another process is gone.

    Raises:
        RunError: instead of what a collective raised inside.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError | RunError) or not is_loss(error):
            raise
        raise RunError(
            f"process {jax.process_index()} lost another process of this run ({str(error).splitlines()[0]}); "
            "the checkpoints stay, and the same command with --resume, in all processes, goes on"
        ) from error


def leave(status: int) -> NoReturn:
    """Ends a process that cannot go on. At a usual exit JAX waits for the others, who may be waiting for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        time.sleep(_LAST_WORDS_SECONDS)
    os._exit(status)
