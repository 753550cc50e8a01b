"""Writes the TensorBoard events of a run.

A file of events is a sequence of records in TensorFlow's TFRecord format, and each record is a protocol buffer of the
type ``Event``: https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto. They are
encoded here, because the packages that write them import PyTorch where it is installed, which takes seconds, or wait
forever for a thread that died of a full disk.
"""

import contextlib
import os
import re
import socket
import struct
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np

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
        self._file: BinaryIO | None = None

    def write(self, record: Record) -> None:
        """Writes the numbers of an epoch. They are in the file when this returns.

        Args:
            record: The epoch's record.

        Raises:
            OSError: If they cannot be written.
        """
        events = []
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{self._step}"
            self._file = (self._folder / name).open("wb")
            events.append(_text(3, b"brain.Event:2"))  # file_version
            start = _integer(1, 1)  # SessionLog.status: START
            events.append(_integer(2, self._step + 1) + _text(7, start))  # step, session_log
        values = {name: record[name] for name in ("learning_rate", "images_per_second")}
        for name, value in record.items():
            if found := re.fullmatch(r"((?:ema_)?(?:train|val|test))_(loss|accuracy|mean_class_accuracy)", name):
                values[f"{found[2]}/{found[1]}"] = value
        for name, value in values.items():
            point = _text(1, name.encode()) + _float(2, value)  # Summary.Value: tag, simple_value
            events.append(_integer(2, record["step"]) + _text(5, _text(1, point)))  # step, summary
        try:
            for event in events:
                self._file.write(_framed(_double(1, time.time()) + event))  # wall_time
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # closing writes what is left, which fails again
                self.close()
            self._file = None
            raise

    def close(self) -> None:
        """Closes the file, if one was opened."""
        if self._file is not None:
            self._file.close()


# The fields of a protocol buffer: the number of the field and the kind of its value, then the value.
# https://protobuf.dev/programming-guides/encoding


def _varint(value: int) -> bytes:
    """Encodes an integer in groups of seven bits, the lowest first. All groups but the last have the eighth bit."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _text(field: int, value: bytes) -> bytes:
    """Encodes a string, or a protocol buffer within another one."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    with np.errstate(over="ignore"):  # larger numbers become infinite
        return _varint(field << 3 | 5) + np.array(value, "<f4").tobytes()


def _framed(record: bytes) -> bytes:
    """Returns a record of a TFRecord file: its length and itself, each with a checksum.

    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    length = struct.pack("<Q", len(record))
    return length + _checksum(length) + record + _checksum(record)


def _checksum(data: bytes) -> bytes:
    """Returns the masked CRC-32C of some bytes, computed bit by bit, as the records are short."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
