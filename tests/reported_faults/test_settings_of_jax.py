"""Settings of JAX that a process may have: none changes a training silently."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_fixtures import TINIEST, TINY_RUN, made_dataset, records, small

from seanet_jax import TrainConfig, fit
from seanet_jax.data.augment import augment
from seanet_jax.models import PRESETS

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parents[1] / "support"
# Together, because a process is expensive. If a run fixed all but one, its numbers would change, or it would fail.
SET_OTHERWISE = {
    **{"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"},
    **{"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_DISABLE_JIT": "1"},
}


def train_set_otherwise(folder, *flags):
    """Trains in a process of its own, in which JAX is set otherwise. Returns the records without the times."""
    command = [sys.executable, SUPPORT / "tiny_experiment.py", "--epochs", "2", "--no-tune-cpu", "--out", folder]
    subprocess.run([*command, *flags], env=os.environ | SET_OTHERWISE, check=True)
    return records(folder)


@pytest.fixture(scope="module")
def by_default(tmp_path_factory):
    """The config of two epochs, which are trained under JAX's default settings."""
    with small(made_dataset()), pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINIEST)
        config = TrainConfig(out=tmp_path_factory.mktemp("default") / "run", **(TINY_RUN | {"epochs": 2}))
        fit(config)
        yield config


def test_the_same_seed_has_the_same_numbers_whatever_the_process_sets(tmp_path, by_default):
    assert train_set_otherwise(tmp_path / "run") == records(by_default.out)


def test_a_run_resumed_in_a_process_set_otherwise_stays_the_same_run(tmp_path, by_default):
    fit(dataclasses.replace(by_default, out=tmp_path / "run", max_steps=7))
    assert train_set_otherwise(tmp_path / "run", "--resume") == records(by_default.out)


def test_augmentation_is_the_same_with_64_bits():
    images, key = np.arange(64 * 32 * 32 * 3, dtype=np.uint8).reshape(64, 32, 32, 3), jax.random.key(0)
    expected = augment(key, jnp.asarray(images), flip=True)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(augment(key, jnp.asarray(images), flip=True), expected)
