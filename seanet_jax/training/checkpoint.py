"""Checkpoints of a run: the only file that knows Orbax.

``checkpoints/latest/<step>`` and ``checkpoints/best/<step>`` each hold the whole training state, the records of the
epochs that led to it, and the SHA-256 of both: what comes back is what was saved, bit for bit, or it does not come
back, on whatever devices and number of processes. Writing goes on in the background; leaving the context waits for it.
Several processes save jointly: all of them call every method, in the same order.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import textwrap
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from seanet_jax.errors import InputError, RunError
from seanet_jax.training import processes, sharding

State = TypeVar("State")
Records = list[dict[str, Any]]

# The newest one may be unreadable after a crash of the machine; its predecessor is then still there.
_KEEP_LATEST = 2


class Checkpoints:
    """The checkpoints in one run's folder. One run at a time may write them (``RunFolder.locked``).

    Args:
        run_folder: of the run; created when the first checkpoint is written.
    """

    def __init__(self, run_folder: Path):
        self._folder = run_folder.absolute() / "checkpoints"
        self._managers: dict[str, ocp.CheckpointManager] = {}
        _silence_echoes()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if error is not None and jax.process_count() > 1:
            return  # the others may be gone, and the wait for them in vain
        try:
            self.close()
        except RunError:
            # What went wrong first is what the user needs to know.
            if error is None:
                raise

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            RunError: it could not be.
        """
        for manager in self._managers.values():
            self._attempt(manager.wait_until_finished)

    def close(self) -> None:
        """Waits until everything is written, and lets go of Orbax's threads.

        Raises:
            RunError: it could not be.
        """
        managers = list(self._managers.values())
        self._managers.clear()
        with contextlib.ExitStack() as stack:  # closes them all, though one fails
            for manager in managers:
                stack.callback(self._attempt, manager.close)

    def save_latest(self, step: int, state: Any, history: Records) -> None:
        """Saves a state to continue from.

        Args:
            step: optimiser steps done.
            state: a pytree of arrays; may be donated as soon as this returns.
            history: records of the finished epochs.

        Raises:
            RunError: this or an earlier checkpoint could not be written; those before it stay.
        """
        self._save("latest", step, state, history)

    def save_best(self, step: int, state: Any, history: Records) -> None:
        """Saves a state better than all before; arguments and errors as for ``save_latest``."""
        self._save("best", step, state, history)

    def exist(self) -> bool:
        """Whether there is any checkpoint, good or damaged."""
        return bool(processes.from_first(self._steps("latest") or self._steps("best")))

    def restore_latest(self, template: State) -> tuple[State, Records]:
        """Reads the newest good checkpoint, of either kind; a line on stderr names each newer one that is damaged.

        Args:
            template: a state of the same structure, of arrays or of ``jax.ShapeDtypeStruct``; arrays come back with its
              shapes, dtypes and shardings, or on the first device, on whatever number of devices they were saved from.

        Returns:
            The state and the records of the epochs that led to it.

        Raises:
            InputError: there is no checkpoint, or none is good.
        """
        return self._restore(("latest", "best"), template)

    def restore_best(self, template: State) -> tuple[State, Records]:
        """Reads the best checkpoint; arguments and errors as for ``restore_latest``."""
        return self._restore(("best",), template)

    def _steps(self, kind: str) -> list[int]:
        """Of the checkpoints whose writing ended; read anew, since Orbax leaves out some that are damaged."""
        folder = self._folder / kind
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            # Both kinds may be written at the same time; each waits at barriers of its own.
            options = ocp.CheckpointManagerOptions(
                max_to_keep=_KEEP_LATEST if kind == "latest" else 1,
                cleanup_tmp_directories=True,
                multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=kind),
            )
            self._managers[kind] = _Manager(self._folder / kind, options=options)
        return self._managers[kind]

    def _save(self, kind: str, step: int, state: Any, history: Records) -> None:
        def save() -> None:
            manager = self._manager(kind)
            manager.wait_until_finished()
            # Later ones are damaged, or of a run that was killed and continues from before them.
            if stale := processes.from_first([later for later in self._steps(kind) if later >= step]):
                with processes.failing_together():
                    for later in stale if processes.is_first() else ():
                        shutil.rmtree(self._folder / kind / str(later))
                manager.reload()
            records = {"epochs": history, "sha256": _sha256(state, history)}
            manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(records))
            )

        self._attempt(save)

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
        except Exception as error:  # Orbax and TensorStore raise a dozen types for a disk that is full
            if processes.is_lost_process(error):
                raise
            raise RunError(
                f"a checkpoint could not be written to {self._folder} ({reason(error)}); the earlier ones stay, "
                "and --resume continues from the newest once this is mended"
            ) from error

    def _restore(self, kinds: Sequence[str], template: State) -> tuple[State, Records]:
        self.wait()
        where = " and ".join(str(self._folder / kind) for kind in kinds)
        found = sorted(((step, kind) for kind in kinds for step in self._steps(kind)), reverse=True)
        found = processes.from_first(found)
        # Of equal steps "latest" comes first: they sort by name.
        if not found:
            raise InputError(f"{where}: there is no checkpoint; train first, or name the folder of a run")
        here = SingleDeviceSharding(jax.local_devices()[0])
        local = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), template)
        for step, kind in found:
            restored, damage = None, ""
            try:
                restored = self._read(kind, step, local)
            except Exception as error:  # damage shows as any of a dozen types
                damage = reason(error)
            # What one process cannot read, none uses.
            damage = next(filter(None, processes.gather(damage)), "")
            if restored is not None and not damage:
                state, history = restored
                return jax.tree.map(_like, template, state), history
            if processes.is_first():
                path = self._folder / kind / str(step)
                print(f"warning: the checkpoint {path} is damaged ({damage})", file=sys.stderr, flush=True)
        raise InputError(f"{where}: every checkpoint is damaged; restore one from a copy, or start over elsewhere")

    def _read(self, kind: str, step: int, abstract: State) -> tuple[State, Records]:
        # Without a manager, which would take what another process is writing for something left behind. And each
        # process for itself: one that fails would leave the others waiting.
        this = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process{this}"
        )
        handler = ocp.CompositeCheckpointHandler(
            state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
            history=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        )
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
            restored = reader.restore(
                self._folder / kind / str(step),
                args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), history=ocp.args.JsonRestore()),
            )
        history: Records = restored.history["epochs"]
        if _sha256(restored.state, history) != restored.history["sha256"]:
            raise ValueError("its SHA-256 is not that of what was saved")
        return restored.state, history


class _Manager(ocp.CheckpointManager):
    """Orbax's, which saves when it is told to and not when it has heard of a preemption.

    To hear of it, it would ask JAX's service where processes stop together, with steps as the count of its questions;
    ``StopRequest`` asks there too, and of two counts neither is sure to meet the one agreed on.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def _like(template: Any, restored: jax.Array) -> jax.Array:
    """A restored array where its template lies, or on the first device."""
    placement = getattr(template, "sharding", None)
    return restored if placement is None else sharding.place(np.asarray(restored), placement)


def _sha256(state: Any, history: Records) -> str:
    """Of everything in a checkpoint: the records, and names, dtypes, shapes and bytes of the arrays."""
    digest = hashlib.sha256(json.dumps(history).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.ascontiguousarray(leaf)
        digest.update(f"\0{jax.tree_util.keystr(path)}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def reason(error: BaseException) -> str:
    """What a person can use of an error of Orbax or TensorStore: the operating system's words, or the first line.

    Args:
        error: what they raised, or an ``OSError``.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    if code := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(code[1]))
    # TensorStore adds its whole configuration.
    return textwrap.shorten(text.partition("[tensorstore_spec=")[0], 200) if text else type(error).__name__


@functools.cache
def _silence_echoes() -> None:
    """Keeps off stderr, from now on, what Orbax prints of an error that it raises as well: a page for each array."""

    def is_news(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_echo = "was never retrieved" in message and ("orbax" in message or "OCDBT" in message)
        return not is_echo and "orbax" not in Path(record.pathname).parts

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        # TensorStore is done with an array after Orbax gave up over another, and calls back into a loop that is gone.
        is_late = unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine given up
        if not is_late and (code is None or "orbax" not in Path(code.co_filename).parts):
            before(unraisable)

    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(is_news)
    warnings.filterwarnings("ignore", r"coroutine 'async_serialize\w*", RuntimeWarning)
    before, sys.unraisablehook = sys.unraisablehook, hook
