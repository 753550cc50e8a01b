"""TensorBoard events of a run."""

import contextlib
import socket
import time
from pathlib import Path
from typing import Any

from seanet_jax.training.run_folder import Record


class Events:
    """TensorBoard events of a run, one point per epoch over optimiser steps.

    Args:
        folder: for the events.
        step: events of later steps, written before a run was killed, are struck out.
    """

    def __init__(self, folder: Path, step: int):
        self._folder = folder
        self._step = step
        self._writer: Any = None

    def write(self, record: Record) -> None:
        """Writes an epoch's numbers; they are in the file when this returns.

        Raises:
            OSError: they cannot be written.
        """
        # Not at the start of a run: where PyTorch is installed tensorboardX imports it, which takes seconds. Not its
        # SummaryWriter either, whose thread dies of a full disk and leaves a run waiting for it without a word.
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import scalar

        events = []
        if self._writer is None:
            self._folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{self._step}"
            self._writer = RecordWriter(str(self._folder / name))
            events.append(Event(file_version="brain.Event:2"))
            events.append(Event(step=self._step + 1, session_log=SessionLog(status=SessionLog.START)))
        values = {name: record[name] for name in ("learning_rate", "images_per_second")}
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy"):
            if name in record:
                split, quantity = name.split("_")
                values[f"{quantity}/{split}"] = record[name]
        events += [Event(step=record["step"], summary=scalar(name, value)) for name, value in values.items()]
        try:
            for event in events:
                event.wall_time = time.time()
                self._writer.write(event.SerializeToString())
            self._writer.flush()
        except OSError:
            with contextlib.suppress(OSError):  # what could not be written cannot be when it is closed
                self.close()
            self._writer = None
            raise

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._writer is not None:
            self._writer.close()
