"""Devices of one process: however many there are, the run is the same."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from cpu_devices import on_devices
from training_fixtures import made_dataset

from seanet_jax.errors import InputError
from seanet_jax.training import sharding
from seanet_jax.training.run import fit


@pytest.fixture(scope="module")
def found():
    done = on_devices(8, "run_on_devices.py")
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_two_four_and_eight_devices_train_as_one_does(found):
    """Parameters, batch statistics, momentum and metrics after each of 24 steps; ``pytest -s`` prints what is found."""
    assert len(found["differences"]["tiny"]) == 3
    assert max(found["differences"]["tiny"]) < 1e-4
    # Here rounding switches a ReLU, at the 13th step on the machine where it was looked at; until then it is 1e-6.
    assert max(found["differences"]["wide"]) < 1e-2
    assert found["movement"] > 1


@pytest.mark.slow
def test_an_agreement_is_of_all_devices_images_with_each_other(found):
    assert found["agreement"] < 1e-3
    assert found["agreement of parts"] > 0.01


@pytest.mark.slow
def test_batch_statistics_are_of_the_global_batch_unless_asked_for_each_device(found):
    assert found["global"] < 1e-5
    assert found["per device"] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("change", ["1 to 8", "8 to 1", "2 to 4"])
def test_a_checkpoint_is_resumed_on_another_number_of_devices(found, change):
    assert found["resumed"][change]["equal"]  # bit for bit
    assert found["resumed"][change]["difference"] < 1e-4


@pytest.mark.slow
def test_the_command_runs_on_all_devices_and_goes_on_with_any_number(tmp_path):
    arguments = ("--no-tune-cpu", "--log-every", "1", "--out", tmp_path / "run")
    first = on_devices(8, "tiny_experiment.py", *arguments, "--max-steps", "7")
    assert first.returncode == 0, first.stderr
    assert "device: 8 x cpu" in first.stdout
    refused = on_devices(3, "tiny_experiment.py", *arguments, "--resume")
    assert refused.returncode == 2
    assert refused.stderr == "error: batch_size is 8; it must be a multiple of the 3 devices\n"
    resumed = on_devices(1, "tiny_experiment.py", *arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "device: 1 x cpu" in resumed.stdout and "at step 7\n" in resumed.stdout


@pytest.mark.slow
def test_statistics_of_each_device_are_resumed_on_as_many_only(tiny, monkeypatch):
    config = tiny(batch_statistics="device", epochs=1)
    fit(config)
    saved = json.loads((config.out / "config.json").read_text())
    saved["model_config"]["batch_groups"] = 4
    (config.out / "config.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"batch statistics per device on 4 devices, and here are 1; resume it on 4"):
        fit(dataclasses.replace(config, resume=True, epochs=2))


def test_the_data_set_is_filled_up_to_a_multiple_of_the_devices():
    labels = made_dataset(train=45).train_labels
    placed = sharding.pad_and_shard(labels, sharding.make_mesh(), rows=48, fill=-1)
    np.testing.assert_array_equal(placed, [*labels, -1, -1, -1])
    assert placed.sharding == sharding.batch_sharding(sharding.make_mesh())
    assert len(jax.devices()) == 1
