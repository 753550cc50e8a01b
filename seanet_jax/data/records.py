"""The files in which TFDS stores examples, ArrayRecord and TFRecord, read without TensorFlow."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from seanet_jax.errors import InputError
from seanet_jax.paths import check_readable, is_file

_BATCH = 1000  # records read at once
# A record of TFRecord is its length, a checksum of the length, its bytes, and a checksum of these.
# https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
_HEADER = struct.Struct("<QI")
_CHECKSUM_BYTES = 4


def read_records(path: Path, file_format: str) -> Iterator[bytes]:
    """Reads the records of a file in order.

    The checksums of ArrayRecord are compared. Those of TFRecord are not, because Python computes no CRC-32C. A file
    that was cut off is found by its lengths.

    Args:
        path: The file.
        file_format: A name in ``FORMATS``.

    Raises:
        InputError: If the file is missing, unreadable or damaged.
    """
    if not is_file(path):
        raise InputError(f"{path} is missing, but {path.parent / 'dataset_info.json'} names it")
    check_readable(path)
    try:
        yield from FORMATS[file_format](path)
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path} is truncated or damaged: {error}") from error


def _array_records(path: Path) -> Iterator[bytes]:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        count = reader.num_records()
        for start in range(0, count, _BATCH):
            yield from reader.read(list(range(start, min(start + _BATCH, count))))
    finally:
        reader.close()


def _tfrecords(path: Path) -> Iterator[bytes]:
    left = path.stat().st_size
    with path.open("rb") as file:
        while left:
            header = file.read(_HEADER.size)
            length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else left
            left -= _HEADER.size + length + _CHECKSUM_BYTES
            # Compared before the record is read, because a wrong length can be larger than the memory.
            if left < 0:
                raise ValueError("the last record is incomplete")
            yield file.read(length)
            file.read(_CHECKSUM_BYTES)


FORMATS: dict[str, Callable[[Path], Iterator[bytes]]] = {"array_record": _array_records, "tfrecord": _tfrecords}
"""The functions that read the formats of TFDS, by their names in ``dataset_info.json``."""
