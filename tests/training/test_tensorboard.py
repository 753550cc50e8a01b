import pytest
from training_fixtures import read_points, records

from seanet_jax.training.run import fit


def test_tensorboard_has_a_point_per_epoch(tiny):
    config = tiny()
    fit(config)
    points = read_points(config.out)
    for record in records(config.out):
        assert points["accuracy/test", record["step"]] == pytest.approx(record["test_accuracy"])
        assert points["loss/train", record["step"]] == pytest.approx(record["train_loss"])
