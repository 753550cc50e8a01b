import contextlib

import pytest
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
