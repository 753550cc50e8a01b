"""Checkpoints of a run: the only file that knows Orbax.

``checkpoints/latest/<step>`` and ``checkpoints/best/<step>`` each hold the whole training state and the records of the
epochs that led to it. Writing goes on in the background; leaving the context waits for it.
"""

import types
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from seanet_jax.errors import InputError

State = TypeVar("State")

# The newest one may be unreadable after a crash of the machine; its predecessor is then still there.
_KEEP_LATEST = 2


class Checkpoints:
    """The checkpoints in one run's folder.

    Args:
        run_folder: of the run; created when the first checkpoint is written.
    """

    def __init__(self, run_folder: Path):
        self._folder = run_folder.absolute() / "checkpoints"
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits until everything is written."""
        for manager in self._managers.values():
            manager.close()
        self._managers.clear()

    def save_latest(self, step: int, state: Any, history: list[dict[str, Any]]) -> None:
        """Saves a state to continue from.

        Args:
            step: optimiser steps done.
            state: a pytree of arrays; may be donated as soon as this returns.
            history: records of the finished epochs.
        """
        self._save("latest", step, state, history)

    def save_best(self, step: int, state: Any, history: list[dict[str, Any]]) -> None:
        """Saves a state better than all before; arguments as for ``save_latest``."""
        self._save("best", step, state, history)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None when there is none."""
        if not (self._folder / "latest").is_dir():
            return None
        return self._manager("latest").latest_step()

    def restore_latest(self, template: State) -> tuple[State, list[dict[str, Any]]]:
        """Reads the newest checkpoint.

        Args:
            template: a state of the same structure; arrays come back with its shapes, dtypes and shardings, on whatever
              number of devices they were saved from.

        Returns:
            The state and the records of the epochs that led to it.

        Raises:
            InputError: there is no checkpoint.
        """
        return self._restore("latest", template)

    def restore_best(self, template: State) -> tuple[State, list[dict[str, Any]]]:
        """Reads the best checkpoint; arguments as for ``restore_latest``."""
        return self._restore("best", template)

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            options = ocp.CheckpointManagerOptions(max_to_keep=_KEEP_LATEST if kind == "latest" else 1)
            self._managers[kind] = ocp.CheckpointManager(self._folder / kind, options=options)
        return self._managers[kind]

    def _save(self, kind: str, step: int, state: Any, history: list[dict[str, Any]]) -> None:
        self._manager(kind).save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), history=ocp.args.JsonSave({"epochs": history})),
        )

    def _restore(self, kind: str, template: State) -> tuple[State, list[dict[str, Any]]]:
        if not (self._folder / kind).is_dir() or (step := self._manager(kind).latest_step()) is None:
            raise InputError(f"{self._folder / kind} holds no checkpoint; train first, or name the folder of a run")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        restored = self._manager(kind).restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), history=ocp.args.JsonRestore())
        )
        return restored.state, restored.history["epochs"]
