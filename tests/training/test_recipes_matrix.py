"""Every recipe under what a run may meet: a stop, several devices, bfloat16, other settings of JAX.

``everything`` has what no named recipe has. The published recipe is trained everywhere else: ``test_run.py`` stops it,
``test_sharding.py`` trains it on several devices, and ``tests/earlier`` continues a run of version 0.1.0. What needs
two devices is computed by a process that runs this file.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from cpu_devices import on_devices
from jax.sharding import AxisType
from training_fixtures import TINIEST, TINY_RUN, assert_same_run, latest_state, made_dataset, records, small

from seanet_jax.models import PRESETS
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.recipe_presets import recipe
from seanet_jax.training.run import fit
from seanet_jax.training.trainer import Evaluation, Trainer

RECIPES = {
    "fast": recipe("fast"),
    "modern": recipe("modern", ema_decay=0.8),
    "everything": recipe(
        "published",
        **{"optimizer": "muon", "schedule": "cosine", "warmup_epochs": 0.5, "decay_vectors": False},
        **{"sam_rho": 0.05, "clip_norm": 1.0, "class_weights": "balanced", "ema_decay": 0.5},
        **{"padding": "reflect", "cutout": 3, "erasing": 0.5, "mixup": 0.3, "cutmix": 0.5},
    ),
}
# Three epochs of five steps. A smaller rate than the recipes', which would amplify rounding.
SHORT = {"batch_size": 8, "epochs": 3, "learning_rate": 0.01}
# Enough for the warm-up and for a second epoch.
STEPS = 7
# Adam, which is a part of Muon, divides small gradients by their own size, and so rounding too.
ROUNDING = {"modern": 1e-4, "everything": 2e-3}
recipes = pytest.mark.parametrize("name", RECIPES)
# ``fast`` has nothing that a step of ``modern`` does not have, but for the schedule.
recipes_by_step = pytest.mark.parametrize("name", ["modern", "everything"])


def fields(name, **changes):
    return TINY_RUN | RECIPES[name] | SHORT | changes


# Resume


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns a function that trains by a recipe once, from beginning to end, and returns the config."""
    trained = {}

    def run(name):
        if name not in trained:
            trained[name] = TrainConfig(out=tmp_path_factory.mktemp(name) / "run", **fields(name))
            fit(trained[name])
        return trained[name]

    with small(made_dataset()), pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINIEST)
        yield run


@pytest.mark.slow
@recipes
def test_a_run_stopped_inside_an_epoch_ends_as_one_left_in_peace_bit_for_bit(name, whole, tmp_path):
    config = dataclasses.replace(whole(name), out=tmp_path / "run")
    fit(dataclasses.replace(config, max_steps=7))
    fit(dataclasses.replace(config, resume=True))
    assert_same_run(whole(name), config)
    assert (latest_state(config.out).ema is None) == (name == "fast")


@pytest.mark.slow
@recipes_by_step
def test_a_recipe_learns_in_half_precision_too(name, whole, tmp_path):
    config = dataclasses.replace(whole(name), out=tmp_path / "run", dtype="bfloat16", epochs=6)
    fit(config)
    found = records(config.out)
    losses = [value for record in found for key, value in record.items() if key.endswith("loss")]
    assert all(math.isfinite(loss) for loss in losses)
    assert found[-1]["test_accuracy"] > 0.8  # half of the images are dark, half are bright
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(latest_state(config.out).params)} == {"float32"}


# Devices and settings


def trainer(name, devices=1):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINIEST)
        # 45 images are no multiple of the devices.
        return Trainer(TrainConfig(**fields(name)), made_dataset(train=45), mesh, {})


def trained(name, devices=1):
    """Returns the state after all steps, on the host."""
    run = trainer(name, devices)
    step, state = run.lower_train_step().compile(), run.initial_state()
    for number in range(STEPS):
        state, _ = step(state, run.images, run.order(number // run.steps_per_epoch), run.augment_key)
    return jax.device_get(state)


def difference(state, other):
    """Returns the largest difference between two arrays, relative to the largest value of the second."""
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True)
    return max(float(abs(a - b).max() / max(abs(b).max(), 1e-3)) for a, b in pairs)


@functools.cache
def trained_on_one(name):
    return trained(name)


@pytest.fixture(scope="module")
def on_two_devices(tmp_path_factory):
    """A folder with the arrays of each recipe's state, which two devices trained."""
    folder = tmp_path_factory.mktemp("devices")
    done = on_devices(2, __file__, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@recipes_by_step
def test_two_devices_train_as_one_does(name, on_two_devices):
    with np.load(on_two_devices / f"{name}.npz") as arrays:
        assert difference([arrays[key] for key in arrays], trained_on_one(name)) < ROUNDING[name]


@pytest.mark.slow
@recipes_by_step
def test_other_settings_of_jax_change_nothing(name):
    expected = trained_on_one(name)
    # Adam, which is a part of Muon, promotes dtypes in optax. A run fixes this setting therefore.
    promotion = jax.numpy_dtype_promotion("strict" if name == "modern" else "standard")
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"), promotion:
        found = trained(name)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [leaf.dtype for leaf in jax.tree.leaves(expected)]
    assert difference(found, expected) < ROUNDING[name]


# Early stopping


@contextlib.contextmanager
def scripted(*accuracies):
    """A context in which the accuracy after each epoch is the next of these, on validation and on test images."""
    real, calls = Evaluation.__call__, itertools.count()

    def evaluate(evaluation, *arguments):
        accuracy = accuracies[next(calls) // 2]
        return real(evaluation, *arguments) | {"accuracy": accuracy, "mean_class_accuracy": accuracy}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "__call__", evaluate)
        yield


@pytest.mark.slow
def test_a_run_stops_early_once_its_patience_is_over_and_a_resume_does_nothing(tiny, capsys):
    config = tiny(epochs=9, patience=2, validation_fraction=0.2)
    with scripted(0.5, 0.7, 0.7, 0.6):
        summary = fit(config)
    assert summary["stopped_early"] and summary["finished"]
    assert (summary["last"]["epoch"], summary["best"]["epoch"]) == (4, 2)
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert fit(dataclasses.replace(config, resume=True)) == summary
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_more_patience_continues_a_run_that_stopped_early(tiny):
    impatient, patient = (tiny(name, epochs=5, validation_fraction=0.2) for name in ("impatient", "patient"))
    with scripted(0.7, 0.6, 0.5, 0.8, 0.9):
        fit(patient)
    with scripted(0.7, 0.6):
        assert fit(dataclasses.replace(impatient, patience=1))["last"]["epoch"] == 2
    with scripted(0.5, 0.8, 0.9):
        assert not fit(dataclasses.replace(impatient, patience=3, resume=True))["stopped_early"]
    assert_same_run(patient, impatient)


if __name__ == "__main__":
    for name in ("modern", "everything"):
        np.savez(Path(sys.argv[1], name), *jax.tree.leaves(trained(name, 2)))
