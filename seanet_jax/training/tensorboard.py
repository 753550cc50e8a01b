"""Writes the TensorBoard events of a run."""

import contextlib
import re
import socket
import time
from pathlib import Path
from typing import Any

from seanet_jax.training.records import Record


class Events:
    """The TensorBoard events of a run: one point per epoch, over optimizer steps.

    Args:
        folder: The folder to write to.
        step: Optimizer step at which the run starts. TensorBoard hides events of later steps that were written before
            the run was killed and resumed here.
    """

    def __init__(self, folder: Path, step: int):
        self._folder = folder
        self._step = step
        self._writer: Any = None

    def write(self, record: Record) -> None:
        """Writes the numbers of an epoch. They are in the file when this returns.

        Args:
            record: The epoch's record.

        Raises:
            OSError: If they cannot be written.
        """
        # Imported only now: tensorboardX imports PyTorch where it is installed, which takes seconds. Its SummaryWriter
        # is not used: on a full disk its thread dies silently, and the run waits for it forever.
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
        for name, value in record.items():
            if found := re.fullmatch(r"((?:ema_)?(?:train|val|test))_(loss|accuracy|mean_class_accuracy)", name):
                values[f"{found[2]}/{found[1]}"] = value
        events += [Event(step=record["step"], summary=scalar(name, value)) for name, value in values.items()]
        try:
            for event in events:
                event.wall_time = time.time()
                self._writer.write(event.SerializeToString())
            self._writer.flush()
        except OSError:
            with contextlib.suppress(OSError):  # closing writes what is left, which fails again
                self.close()
            self._writer = None
            raise

    def close(self) -> None:
        """Closes the file, if one was opened."""
        if self._writer is not None:
            self._writer.close()
