"""The published recipes train as they did before recipes had other fields: ``tests/support/published_run.py``."""

import json

import numpy as np
import pytest
from cpu_devices import on_devices
from published_run import GOLDEN, RUNS, measure

from seanet_jax.training.config import TrainConfig

# Largest relative differences of losses and of arrays. The first are 400 times what two versions of XLA differ by.
# Adam divides by the size of gradients, among them those that are nothing but rounding, of biases before normalization.
BOUNDS = {"seanet": (1e-4, 1e-4), "seanet_on_two_devices": (1e-4, 1e-4), "encapnet": (1e-3, 1e-2)}


def golden(name):
    return json.loads(GOLDEN.read_text())[name]


def assert_as_before(name, found):
    expected = golden(name)
    assert found["images"] == expected["images"], "the order of the images or their augmentation"
    for exact in ("learning_rates", "num_correct"):
        assert found[exact] == expected[exact], exact
    of_losses, of_arrays = BOUNDS[name]
    for losses in ("loss_sums", "test_losses"):
        np.testing.assert_allclose(found[losses], expected[losses], rtol=of_losses, err_msg=losses)
    for moment in ("first", "last"):
        assert list(found[moment]) == list(expected[moment])
        for array, (mean, norm, product) in expected[moment].items():
            if name == "encapnet" and array.startswith("opt_state"):
                continue
            difference = np.abs(np.subtract(found[moment][array], (mean, norm, product))).max()
            assert difference <= of_arrays * abs(norm), f"{array} after the {moment} step"


def test_the_defaults_are_the_published_recipe():
    config = TrainConfig()
    expected = {
        **{"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 64},
        **{"epochs": 200, "decay_every": 80, "decay_at": (), "decay_factor": 0.1, "augment": True, "seed": 0},
        **{"dtype": "float32", "conv_method": "auto", "batch_statistics": "global", "validation_fraction": 0.0},
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_twenty_steps_of_seanet_are_those_of_before():
    assert_as_before("seanet", measure("seanet"))


@pytest.mark.slow
def test_twenty_steps_of_encapnet_are_those_of_before():
    assert_as_before("encapnet", measure("encapnet"))


@pytest.mark.slow
def test_twenty_steps_with_the_statistics_of_each_device_are_those_of_before():
    done = on_devices(2, "published_run.py", "seanet_on_two_devices")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert_as_before("seanet_on_two_devices", found)
    # Both devices get the images that one gets.
    assert found["images"] == golden("seanet")["images"]
    assert RUNS["seanet_on_two_devices"].keys() - RUNS["seanet"].keys() == {"batch_statistics"}
