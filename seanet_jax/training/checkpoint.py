"""The checkpoints of a run. This is the only file that uses Orbax.

``checkpoints/<step>`` holds the whole training state, and the records of the epochs that led to it. The file
``complete`` in it, written last, holds the SHA-256 of both: without it, a checkpoint does not count. A checkpoint is
restored bit for bit or, if it is damaged, not at all. It may be restored on other devices, and by another number of
processes, than it was saved by.

Checkpoints are written in the background; leaving the context waits until they are complete. When one is complete, a
power cut does not undo it, and only then those that it replaces are deleted. The two newest are kept, and the best
epoch according to the records of each, which is usually one of them.

Version 0.1.0 wrote ``checkpoints/latest/<step>`` and ``checkpoints/best/<step>``. These are read, and deleted once
newer ones replace them. If several processes train together, each of them must call every method, in the same order.
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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from seanet_jax import console, durable
from seanet_jax.errors import InputError, RunError
from seanet_jax.json_files import json_text, json_value, with_nan
from seanet_jax.paths import UserPath, check_readable, exists, is_file, is_folder, reading, user_path
from seanet_jax.training import orbax_errors, processes, sharding
from seanet_jax.training.records import Record, best_record

State = TypeVar("State")

# A disk may damage the newest one, which a resume finds out by its SHA-256. The one before it is then still there.
_KEEP_NEWEST = 2

_MARKER = "complete"

# Ends the name of a checkpoint while another of the same step is written.
_PREVIOUS = ".previous"

# Folders of version 0.1.0.
_EARLIER = ("best", "latest")


class Checkpoints:
    """The checkpoints in the folder of a run. Only one run at a time may write them (``RunFolder.locked``).

    Args:
        run_folder: The run's folder. It is created when the first checkpoint is written.
    """

    def __init__(self, run_folder: UserPath):
        self._folder = user_path(run_folder).absolute() / "checkpoints"
        self._manager: ocp.CheckpointManager | None = None
        self._policy = _Preservation()
        self._unfinished: tuple[Any, list[Any]] | None = None  # the state and records that are being written
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
        """Waits until all checkpoints are complete and on disk.

        Raises:
            RunError: If one could not be written.
        """
        if self._manager is not None:
            self._attempt(self._finish)

    def close(self) -> None:
        """Waits until all checkpoints are complete and on disk, and ends Orbax's threads.

        Raises:
            RunError: If one could not be written.
        """
        manager, self._manager = self._manager, None
        if manager is not None:
            self._attempt(manager.close)
            self._attempt(self._drop_replaced)

    def save(self, step: int, state: Any, history: Sequence[Record]) -> None:
        """Saves a state to continue from. If the last epoch is the best of the records, it is the best checkpoint too.

        Args:
            step: Optimizer steps done.
            state: A pytree of arrays. They may be donated as soon as this returns.
            history: Records of the finished epochs. Inside an epoch, a last record may hold the step and the seconds of
                the epoch so far.

        Raises:
            RunError: If this or an earlier checkpoint could not be written. Those before it stay.
        """

        def save() -> None:
            manager = self._manager or self._start()
            self._finish()
            if processes.from_first(self._make_way(step)):
                manager.reload()
            epochs = json_value(list(history))
            # Copied, because Orbax's own copy cannot be had, and the SHA-256 is computed while training goes on.
            copied = _copy(state)
            self._policy.history, self._unfinished = epochs, (copied, epochs)
            items = {"state": ocp.args.StandardSave(_stored(copied)), "history": ocp.args.JsonSave({"epochs": epochs})}
            manager.save(step, args=ocp.args.Composite(**items))

        self._attempt(save)

    def exist(self) -> bool:
        """Whether there is any checkpoint, intact or damaged."""
        return bool(processes.from_first(bool(self._listed())))

    def restore_latest(self, template: State) -> tuple[State, list[Record]]:
        """Restores the newest intact checkpoint. Prints a warning for each newer one that is damaged.

        Args:
            template: A state of the same structure, of arrays or of ``jax.ShapeDtypeStruct``. The restored arrays have
                its shapes, dtypes and shardings. Without shardings, they are on the first device.

        Returns:
            The state, and the records of the epochs that led to it.

        Raises:
            InputError: If there is no checkpoint, all are damaged, or the newest may not be read.
        """
        return self._restore(self._newest_first, template, "every checkpoint is damaged; restore one from a copy")

    def restore_best(self, template: State) -> tuple[State, list[Record]]:
        """Restores the best epoch according to the newest checkpoint's records. Without any, the newest is the best.

        Takes the arguments of ``restore_latest``, and returns and raises the same.
        """
        damage = "the best checkpoint is damaged or gone; restore it from a copy, take the latest instead"
        return self._restore(self._best, template, damage)

    def _listed(self) -> dict[int, list[str]]:
        """Lists the checkpoints that count: their paths in the folder by step, the one to prefer first."""
        found: dict[int, list[str]] = {}
        for part in ("", *_EARLIER):
            folder = self._folder / part
            if not is_folder(folder):
                continue
            with reading(folder):
                names = sorted(path.name for path in folder.iterdir())  # "5" comes before "5.previous"
            for name in names:
                step = name.removesuffix("" if part else _PREVIOUS)
                if _is_step(step) and (part or exists(folder / name / _MARKER)):
                    found.setdefault(int(step), []).append(str(Path(part) / name))
        return found

    def _newest_first(self) -> list[str]:
        listed = self._listed()
        return [name for step in sorted(listed, reverse=True) for name in listed[step]]

    def _best(self) -> list[str]:
        listed = self._listed()
        for step in sorted(listed, reverse=True):
            for name in listed[step]:
                file = self._folder / name / "history" / "metadata"
                if not is_file(file):
                    continue
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    best = best_record(json.loads(file.read_bytes())["epochs"])
                    return listed.get(step if best is None else best["step"], [])
        return self._newest_first()

    def _start(self) -> ocp.CheckpointManager:
        """Starts Orbax's manager. Deletes what does not count, as its writing was interrupted."""
        with processes.failing_together():
            if processes.is_first():
                durable.make_folders(self._folder)
                for path in self._folder.iterdir():
                    if _is_step(path.name) and not exists(path / _MARKER):
                        shutil.rmtree(path)
        checkpoints = self

        class DurablePath(ocp.path.atomicity.AtomicRenameTemporaryPath):
            """Orbax's temporary folder of a checkpoint, which counts only once all of it is on disk."""

            async def finalize(self) -> None:
                await super().finalize()
                path = Path(self.get_final())
                if path.parent == checkpoints._folder:  # or else it is a part of a checkpoint
                    checkpoints._complete(path)

        self._manager = _Manager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy, cleanup_tmp_directories=True, temporary_path_class=DurablePath
            ),
        )
        return self._manager

    def _complete(self, path: Path) -> None:
        """Puts a checkpoint on disk and marks it as complete. Runs in Orbax's thread, in the first process alone."""
        assert self._unfinished is not None
        durable.sync_tree(path)
        durable.sync_folder(path.parent)
        durable.write_whole(path / _MARKER, json_text({"sha256": _sha256(*self._unfinished)}))

    def _finish(self) -> None:
        assert self._manager is not None
        self._manager.wait_until_finished()
        self._drop_replaced()

    def _drop_replaced(self) -> None:
        """Deletes what the newest complete checkpoint replaces and Orbax does not know of."""
        finished, self._unfinished = self._unfinished, None
        if finished is None or not processes.is_first():
            return
        listed = self._listed()
        kept = self._policy.kept(listed)
        for step, names in listed.items():
            for name in names:
                if not _is_step(name) and (str(step) in names or step not in kept):
                    shutil.rmtree(self._folder / name)
        for part in _EARLIER:
            with contextlib.suppress(OSError):  # it is missing, or holds a checkpoint
                (self._folder / part).rmdir()

    def _make_way(self, step: int) -> bool:
        """Deletes later checkpoints, which are damaged, and renames one of the same step. Returns whether any was.

        Every process must call this.
        """
        changed = False
        with processes.failing_together():
            for other, names in self._listed().items() if processes.is_first() else ():
                for name in names if other > step else ():
                    shutil.rmtree(self._folder / name)
                    changed = True
                if other == step and str(step) in names:
                    # It counts until the new one does. A run is saved again at a step if it was stopped before the
                    # evaluation of an epoch.
                    shutil.rmtree(self._folder / f"{step}{_PREVIOUS}", ignore_errors=True)
                    durable.replace(self._folder / str(step), self._folder / f"{step}{_PREVIOUS}")
                    changed = True
        return changed

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
        self, candidates: Callable[[], list[str]], template: State, damage_of_all: str
    ) -> tuple[State, list[Record]]:
        self.wait()
        here = SingleDeviceSharding(jax.local_devices()[0])
        local = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), template)
        tried: list[str] = []
        # Listed again each time, because a process that trains may replace a checkpoint while this one reads it.
        while fresh := [name for name in processes.from_first(candidates()) if name not in tried]:
            tried.append(fresh[0])
            path = self._folder / fresh[0]
            restored, damage = None, ""
            try:
                # Orbax would call a file that may not be read damaged, and an older checkpoint would be taken.
                with processes.failing_together():
                    check_readable(path)
                restored = self._read(path, local)
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
                console.print_error(f"warning: the checkpoint {path} is damaged ({damage})")
        if not self.exist():
            raise InputError(f"{self._folder}: there is no checkpoint; train first, or name the folder of a run")
        raise InputError(f"{self._folder}: {damage_of_all}, or start over elsewhere")

    def _is_there(self, path: Path) -> bool:
        return bool(processes.from_first(is_folder(path)))

    def _read(self, path: Path, abstract: Any) -> tuple[Any, list[Record]]:
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
            items = {"state": ocp.args.StandardRestore(_stored(abstract)), "history": ocp.args.JsonRestore()}
            restored = reader.restore(path, args=ocp.args.Composite(**items))
        history: list[Record] = restored.history["epochs"]
        state = restored.state if _stored(abstract) is abstract else abstract._replace(**restored.state)
        marker = path / _MARKER
        # Version 0.1.0 wrote it beside the records.
        saved = json.loads(marker.read_bytes()) if exists(marker) else restored.history
        if _sha256(state, history) != saved["sha256"]:
            raise ValueError("its SHA-256 is not that of what was saved")
        return state, [with_nan(record) for record in history]


class _Preservation:
    """Which checkpoints Orbax keeps.

    Attributes:
        history: Records of the newest checkpoint.
    """

    def __init__(self) -> None:
        self.history: list[Record] = []

    def kept(self, steps: Iterable[int]) -> set[int]:
        """Returns the steps of the newest checkpoints, and of the best epoch at each of these.

        Without the latter, the best epoch would be lost if the newest checkpoint is the best and is damaged.
        """
        newest = sorted(steps)[-_KEEP_NEWEST:]
        best = [best_record([record for record in self.history if record["step"] <= step]) for step in newest]
        return {*newest, *(record["step"] for record in best if record is not None)}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = self.kept(checkpoint.step for checkpoint in checkpoints)
        return [checkpoint.step in kept for checkpoint in checkpoints]


class _Manager(ocp.CheckpointManager):
    """Orbax's ``CheckpointManager``, without its own reaction to a preemption.

    Orbax would ask JAX's preemption service at which step all processes stop, counting its questions by training steps.
    ``StopRequest`` asks the same service with a count of its own. With two counts, neither is sure to reach the step on
    which the processes agreed.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


@jax.jit
def _copy(state: Any) -> Any:
    return jax.tree.map(jnp.copy, state)


def _stored(state: Any) -> Any:
    """Returns what Orbax stores of a state. A field of a named tuple that is None leaves no trace.

    Orbax stores named tuples as dicts, and a None as a value of its own, which a checkpoint of an earlier version of
    the tuple lacks.
    """
    if not hasattr(state, "_asdict"):
        return state
    return {name: value for name, value in state._asdict().items() if value is not None}


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _like(template: Any, restored: jax.Array) -> jax.Array:
    """Places a restored array like its template, or leaves it on the first device if that has no sharding."""
    placement = getattr(template, "sharding", None)
    return restored if placement is None else sharding.place(np.asarray(restored), placement)


def _sha256(state: Any, history: Sequence[Record]) -> str:
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
