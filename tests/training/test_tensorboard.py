import contextlib

import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar
from training_fixtures import made_record, read_points, records

from seanet_jax.training.run import fit
from seanet_jax.training.tensorboard import Events


def test_tensorboard_has_a_point_per_epoch(tiny):
    config = tiny()
    fit(config)
    points = read_points(config.out)
    for record in records(config.out):
        assert points["accuracy/test", record["step"]] == pytest.approx(record["test_accuracy"])
        assert points["loss/train", record["step"]] == pytest.approx(record["train_loss"])


def test_a_resumed_run_hides_the_points_that_it_writes_anew(tmp_path):
    # The first run was killed after its third epoch, of which there is no checkpoint.
    for start, epochs, loss in ((0, (1, 2, 3), 1.0), (8, (3, 4), 2.0)):
        with contextlib.closing(Events(tmp_path / "tensorboard", start)) as events:
            for epoch in epochs:
                events.write(made_record(epoch, train_loss=loss))
    points = read_points(tmp_path)
    assert [points["loss/train", step] for step in (4, 8, 12, 16)] == [1.0, 1.0, 2.0, 2.0]


def test_nothing_is_written_before_the_first_epoch_ends(tmp_path):
    with contextlib.closing(Events(tmp_path / "tensorboard", 0)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_files_are_those_of_tensorboards_protocol_byte_by_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("seanet_jax.training.tensorboard.time.time", lambda: 1234567890.125)
    tags = {
        **{"learning_rate": "learning_rate", "images_per_second": "images_per_second"},
        **{"train_loss": "loss/train", "ema_test_accuracy": "accuracy/ema_test", "test_loss": "loss/test"},
    }
    values = dict(zip(tags, (1e-9, np.inf, np.nan, 0.0, 1e39), strict=True))
    step = 2**40 + 300
    with contextlib.closing(Events(tmp_path / "ours", 2**31)) as events:
        events.write({"step": step} | values)
    theirs = RecordWriter(str(tmp_path / "theirs"))
    for event in (
        event_pb2.Event(file_version="brain.Event:2"),
        event_pb2.Event(step=2**31 + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)),
        *(event_pb2.Event(step=step, summary=scalar(tags[name], value)) for name, value in values.items()),
    ):
        event.wall_time = 1234567890.125
        theirs.write(event.SerializeToString())
    theirs.close()
    (ours,) = (tmp_path / "ours").iterdir()
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()
