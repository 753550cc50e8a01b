import os

import numpy as np
import pytest
from array_record.python import array_record_module
from path_fixtures import obeying_permissions
from prepared_fixtures import write_tfrecord

from seanet_jax.data import records
from seanet_jax.data.records import FORMATS, read_records
from seanet_jax.errors import InputError

RECORDS = [os.urandom(int(length)) for length in np.random.default_rng(0).integers(0, 300, 25)]


def write_array_records(path, content):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in content:
        writer.write(record)
    writer.close()


WRITERS = {"array_record": write_array_records, "tfrecord": write_tfrecord}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("count", [0, 1, 25])
def test_records_are_read_in_order(tmp_path, monkeypatch, file_format, count):
    monkeypatch.setattr(records, "_BATCH", 4)
    WRITERS[file_format](tmp_path / "file", RECORDS[:count])
    assert list(read_records(tmp_path / "file", file_format)) == RECORDS[:count]


def test_tfrecords_are_written_as_tensorboard_writes_its_events(tmp_path):
    from tensorboardX.record_writer import RecordWriter

    writer = RecordWriter(str(tmp_path / "events"))
    for record in RECORDS:
        writer.write(record)
    writer.close()
    write_tfrecord(tmp_path / "file", RECORDS)
    assert (tmp_path / "file").read_bytes() == (tmp_path / "events").read_bytes()
    assert list(read_records(tmp_path / "events", "tfrecord")) == RECORDS


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("cut", [1, 3, 14, 100])
def test_a_file_that_was_cut_off_is_named(tmp_path, file_format, cut):
    path = tmp_path / "file"
    WRITERS[file_format](path, RECORDS)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="truncated or damaged") as error:
        list(read_records(path, file_format))
    assert str(path) in str(error.value)


def test_a_length_beyond_the_end_of_the_file_is_never_read(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match="the last record is incomplete"):
        list(read_records(tmp_path / "file", "tfrecord"))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_that_is_missing_or_closed_is_named(tmp_path, file_format):
    path = tmp_path / "file"
    with pytest.raises(InputError, match=r"file is missing, but .*dataset_info.json names it"):
        list(read_records(path, file_format))
    WRITERS[file_format](path, RECORDS)
    path.chmod(0)
    with obeying_permissions(), pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        list(read_records(path, file_format))
