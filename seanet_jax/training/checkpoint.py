"""The checkpoints of a run. This is the only file that uses Orbax.

``checkpoints/latest/<step>`` and ``checkpoints/best/<step>`` each hold the whole training state, the records of the
epochs that led to it, and the SHA-256 of both. A checkpoint is restored bit for bit or, if it is damaged, not at all.
It may be restored on other devices, and by another number of processes, than it was saved by. Checkpoints are written
in the background; leaving the context waits until they are complete. If several processes train together, each of them
must call every method, in the same order.
"""

import contextlib
import gc
import hashlib
import json
import os
import re
import shutil
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from seanet_jax import console
from seanet_jax.errors import InputError, RunError
from seanet_jax.json_files import json_value, with_nan
from seanet_jax.paths import UserPath, check_readable, is_folder, reading, user_path
from seanet_jax.training import orbax_errors, processes, sharding

State = TypeVar("State")
Records = list[dict[str, Any]]

# After a crash of the machine the newest one may be damaged. The one before it is then still there.
_KEEP_LATEST = 2


class Checkpoints:
    """The checkpoints in the folder of a run. Only one run at a time may write them (``RunFolder.locked``).

    Args:
        run_folder: The run's folder. It is created when the first checkpoint is written.
    """

    def __init__(self, run_folder: UserPath):
        self._folder = user_path(run_folder).absolute() / "checkpoints"
        self._managers: dict[str, ocp.CheckpointManager] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Checkpoints":
        self._stack.enter_context(orbax_errors.raised_only())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None and jax.process_count() > 1:
                return  # the other processes may be gone; waiting for them would never end
            try:
                self.close()
            except RunError:
                # The first error is the one that the user needs to see.
                if error is None:
                    raise

    def wait(self) -> None:
        """Waits until all checkpoints are written.

        Raises:
            RunError: If one could not be written.
        """
        for manager in self._managers.values():
            self._attempt(manager.wait_until_finished)

    def close(self) -> None:
        """Waits until all checkpoints are written, and ends Orbax's threads.

        Raises:
            RunError: If one could not be written.
        """
        managers = list(self._managers.values())
        self._managers.clear()
        with contextlib.ExitStack() as stack:  # closes all of them, even if one fails
            for manager in managers:
                stack.callback(self._attempt, manager.close)

    def save_latest(self, step: int, state: Any, history: Records) -> None:
        """Saves a state to continue from.

        Args:
            step: Optimizer steps done.
            state: A pytree of arrays. They may be donated as soon as this returns.
            history: Records of the finished epochs. Inside an epoch, a last record may hold the step and the seconds of
                the epoch so far.

        Raises:
            RunError: If this or an earlier checkpoint could not be written. Those before it stay.
        """
        self._save("latest", step, state, history)

    def save_best(self, step: int, state: Any, history: Records) -> None:
        """Saves the best state so far, in place of the previous best. Takes the arguments of ``save_latest``."""
        self._save("best", step, state, history)

    def exist(self) -> bool:
        """Whether there is any checkpoint, intact or damaged."""
        return bool(processes.from_first(self._steps("latest") or self._steps("best")))

    def restore_latest(self, template: State) -> tuple[State, Records]:
        """Restores the newest intact checkpoint, latest or best. Prints a warning for each newer one that is damaged.

        Args:
            template: A state of the same structure, of arrays or of ``jax.ShapeDtypeStruct``. The restored arrays have
                its shapes, dtypes and shardings. Without shardings, they are on the first device.

        Returns:
            The state, and the records of the epochs that led to it.

        Raises:
            InputError: If there is no checkpoint, all are damaged, or the newest may not be read.
        """

        def newest_first() -> list[tuple[str, int]]:
            found = [(step, kind) for kind in ("best", "latest") for step in self._steps(kind)]
            return [(kind, step) for step, kind in sorted(found, reverse=True)]

        return self._restore(newest_first, template, "latest", "best")

    def restore_best(self, template: State) -> tuple[State, Records]:
        """Restores the best checkpoint, or the latest of the same step, which holds the same.

        Takes the arguments of ``restore_latest``, and returns and raises the same.
        """

        def best_first() -> list[tuple[str, int]]:
            latest = self._steps("latest")
            kinds = {step: ("best", "latest") if step in latest else ("best",) for step in self._steps("best")}
            return [(kind, step) for step in sorted(kinds, reverse=True) for kind in kinds[step]]

        return self._restore(best_first, template, "best")

    def _steps(self, kind: str) -> list[int]:
        """Lists the steps of all complete checkpoints. Orbax's own list leaves out some that are damaged."""
        folder = self._folder / kind
        if not is_folder(folder):
            return []
        with reading(folder):
            return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            # Both kinds may be written at the same time, so each needs its own barriers between processes.
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
            # Checkpoints of later steps are damaged, or were saved before the run was killed and resumed further back.
            if stale := processes.from_first([later for later in self._steps(kind) if later >= step]):
                with processes.failing_together():
                    for later in stale if processes.is_first() else ():
                        shutil.rmtree(self._folder / kind / str(later))
                manager.reload()
            epochs = json_value(history)
            records = {"epochs": epochs, "sha256": _sha256(state, epochs)}
            manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(records))
            )

        self._attempt(save)

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
        except Exception as error:  # Orbax and TensorStore raise a dozen types for a disk that is full
            if processes.is_lost_process(error):
                raise  # ``reporting_lost_process`` turns it into a message of its own
            raise RunError(
                f"a checkpoint could not be written to {self._folder} ({reason(error)}); the earlier ones stay, "
                "and --resume continues from the newest once this is fixed"
            ) from error

    def _restore(
        self, candidates: Callable[[], list[tuple[str, int]]], template: State, *kinds: str
    ) -> tuple[State, Records]:
        self.wait()
        here = SingleDeviceSharding(jax.local_devices()[0])
        local = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), template)
        tried: list[tuple[str, int]] = []
        # Listed again each time, because a process that trains may replace a checkpoint while this one reads it.
        while fresh := [one for one in self._listed(candidates) if one not in tried]:
            kind, step = fresh[0]
            tried.append((kind, step))
            path = self._folder / kind / str(step)
            restored, damage = None, ""
            try:
                # Orbax would call a file that may not be read damaged, and an older checkpoint would be taken.
                with processes.failing_together():
                    check_readable(path)
                restored = self._read(kind, step, local)
            except InputError:
                if self._is_there(path):
                    raise
                continue
            except Exception as error:  # Orbax raises a dozen types for damaged files
                damage = reason(error)
            # A checkpoint that one process cannot read is used by none.
            damage = next(filter(None, processes.gather(damage)), "")
            if restored is not None and not damage:
                state, history = restored
                return jax.tree.map(_like, template, state), history
            gc.collect()  # what Orbax abandoned is reported now or never, see orbax_errors
            if self._is_there(path) and processes.is_first():
                print(f"warning: the checkpoint {path} is damaged ({damage})", file=console.stderr, flush=True)
        where = " and ".join(str(self._folder / kind) for kind in kinds)
        if not tried:
            raise InputError(f"{where}: there is no checkpoint; train first, or name the folder of a run")
        instead = "take the latest instead of the best, " if "latest" not in kinds and self._steps("latest") else ""
        raise InputError(
            f"{where}: every checkpoint is damaged; restore one from a copy, {instead}or start over elsewhere"
        )

    def _listed(self, candidates: Callable[[], list[tuple[str, int]]]) -> list[tuple[str, int]]:
        return [(kind, step) for kind, step in processes.from_first(candidates())]

    def _is_there(self, path: Path) -> bool:
        return bool(processes.from_first(is_folder(path)))

    def _read(self, kind: str, step: int, abstract: State) -> tuple[State, Records]:
        # A CheckpointManager is not used: it would delete what another process is writing as a leftover. Each process
        # reads on its own: in a joint read, one that fails would leave the others waiting.
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
        return restored.state, [with_nan(record) for record in history]


class _Manager(ocp.CheckpointManager):
    """Orbax's ``CheckpointManager``, without its own reaction to a preemption.

    Orbax would ask JAX's preemption service at which step all processes stop, counting its questions by training steps.
    ``StopRequest`` asks the same service with a count of its own. With two counts, neither is sure to reach the step on
    which the processes agreed.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def _like(template: Any, restored: jax.Array) -> jax.Array:
    """Places a restored array like its template, or leaves it on the first device if that has no sharding."""
    placement = getattr(template, "sharding", None)
    return restored if placement is None else sharding.place(np.asarray(restored), placement)


def _sha256(state: Any, history: Records) -> str:
    """Returns the SHA-256 of a checkpoint: its records, and the names, dtypes, shapes and bytes of its arrays."""
    digest = hashlib.sha256(json.dumps(history).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.ascontiguousarray(leaf)
        digest.update(f"\0{jax.tree_util.keystr(path)}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def reason(error: BaseException) -> str:
    """Returns the readable part of an error of Orbax or TensorStore.

    This is the operating system's message if there is one, or else the start of the error's text.

    Args:
        error: An error of Orbax or TensorStore, or an ``OSError``.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    if code := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(code[1]))
    # TensorStore appends its whole configuration to the message.
    return textwrap.shorten(text.partition("[tensorstore_spec=")[0], 200) if text else type(error).__name__
