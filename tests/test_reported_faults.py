"""Faults that users of such projects report: for each, its smallest input and the right value.

One test stands for one report. Tests of the same kind of fault elsewhere are beside the tests of the module concerned;
``tests/test_transforms.py`` holds what transforms and flags of JAX must not change.
"""

import json
import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_network
from training_fixtures import TINY, records, settled

from seanet_jax import ImageSpec, InputError, SEANetConfig
from seanet_jax.data.augment import augment
from seanet_jax.errors import RunError
from seanet_jax.inference import stablehlo
from seanet_jax.models.fold import fold_batch_norm
from seanet_jax.models.pytorch import read_pytorch, state_dict

# Together they start dozens of processes.
pytestmark = pytest.mark.slow


# ---- Nothing changes a training silently -----------------------------------------------------------------------------


def train_in_a_process(folder, *flags, **variables):
    """Trains on 16 digits, two steps an epoch, in a process of its own. Returns the records without the times."""
    command = "train --dataset digits --model resnet20 --epochs 2 --limit-train 16 --limit-test 10 --batch-size 8"
    subprocess.run(
        [sys.executable, "-m", "seanet_jax", *command.split(), "--out", folder, *flags],
        env=os.environ | variables,
        check=True,
    )
    return records(folder)


@pytest.fixture(scope="module")
def records_by_default(tmp_path_factory):
    """The records of two epochs under JAX's default settings."""
    return train_in_a_process(tmp_path_factory.mktemp("default") / "run")


@pytest.mark.parametrize(
    "variables",
    [
        {"JAX_ENABLE_X64": "1"},
        {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
        {"JAX_THREEFRY_PARTITIONABLE": "0"},
        {"JAX_DISABLE_JIT": "1"},
        {"JAX_NUMPY_RANK_PROMOTION": "raise"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_the_same_seed_has_the_same_numbers_whatever_the_process_sets(tmp_path, records_by_default, variables):
    assert train_in_a_process(tmp_path / "run", **variables) == records_by_default


@pytest.mark.parametrize("variables", [{"JAX_ENABLE_X64": "1"}, {"JAX_DEFAULT_PRNG_IMPL": "rbg"}])
def test_a_run_resumed_in_a_process_set_otherwise_stays_the_same_run(tmp_path, records_by_default, variables):
    train_in_a_process(tmp_path / "run", "--max-steps", "3")
    assert train_in_a_process(tmp_path / "run", "--resume", **variables) == records_by_default


def test_augmentation_is_the_same_with_64_bits():
    images, key = np.arange(64 * 32 * 32 * 3, dtype=np.uint8).reshape(64, 32, 32, 3), jax.random.key(0)
    expected = augment(key, jnp.asarray(images), flip=True)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(augment(key, jnp.asarray(images), flip=True), expected)


# ---- Scripts, interpreters and streams -------------------------------------------------------------------------------


# ---- Paths -----------------------------------------------------------------------------------------------------------


# ---- Modules in other people's projects ------------------------------------------------------------------------------


# ---- Operations under transforms, flags and meshes -------------------------------------------------------------------


# ---- Converted checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def saved_by_torch():
    """PyTorch, a network, and its state dict of tensors."""
    torch = pytest.importorskip("torch")
    arrays = state_dict(random_network(TINY))
    return torch, arrays, {name: torch.tensor(array) for name, array in arrays.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model.module._orig_mod."]
)
@pytest.mark.parametrize("averaged", [False, True])
def test_a_wrapped_network_is_read(saved_by_torch, prefix, averaged, tmp_path):
    torch, arrays, saved = saved_by_torch
    content = {prefix + name: tensor for name, tensor in saved.items()}
    if averaged:  # as torch.optim.swa_utils.AveragedModel saves it
        content = {"n_averaged": torch.tensor(3)} | {f"module.{name}": tensor for name, tensor in content.items()}
    torch.save(content, tmp_path / "model.pth")
    chex.assert_trees_all_equal(state_dict(read_pytorch(tmp_path / "model.pth").model), arrays)


def test_parameters_are_read_bit_for_bit(saved_by_torch, tmp_path):
    torch, arrays, saved = saved_by_torch
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in saved.items()}, tmp_path / "model.pth")
    chex.assert_trees_all_equal(state_dict(read_pytorch(tmp_path / "model.pth").model), arrays)


def test_a_pre_activated_network_is_called_so(saved_by_torch, tmp_path):
    torch, _, saved = saved_by_torch
    content = {name: tensor for name, tensor in saved.items() if "downsample.1" not in name}
    for layer in ("layer1.0", "layer2.0"):
        channels = saved[f"{layer}.conv1.weight"].shape[1]
        content |= {f"{layer}.bn1.{name}": torch.ones(channels) for name in _NORMALIZATION}
    content |= {f"bn1.{name}": torch.ones(4) for name in _NORMALIZATION}  # after the last stage
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(InputError, match="is of a pre-activated network, and those cannot be converted"):
        read_pytorch(tmp_path / "model.pth")


_NORMALIZATION = ("weight", "bias", "running_mean", "running_var")


@pytest.mark.parametrize("is_wrong", [False, True])
def test_an_exported_network_with_saturated_probabilities_is_checked(is_wrong, tmp_path, monkeypatch):
    config = SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, reduction=2, num_classes=3)
    network, images = settled(config), ImageSpec(8, 8, (0.5,) * 3, (0.25,) * 3, ("cat", "dog", "cow"))
    network.classifier.kernel[...] *= 1e4
    network.save_pretrained(tmp_path / "weights", images)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert set(np.unique(stablehlo.probabilities(network, images)(pixels))) <= {0, 1}, "not saturated"

    def changed(model):
        folded = fold_batch_norm(model)
        folded.classifier.kernel[...] *= 1.01 if is_wrong else 1
        return folded

    monkeypatch.setattr(stablehlo, "fold_batch_norm", changed)
    out = tmp_path / "net.stablehlo"
    if is_wrong:
        with pytest.raises(RunError, match=r"logits and probabilities differ from the network's by up to 1\.0e-02"):
            stablehlo.write(tmp_path / "weights", out)
        assert not out.exists()
    else:
        stablehlo.write(tmp_path / "weights", out)
        about = json.loads((tmp_path / "net.stablehlo.json").read_text())
        assert 0 < about["verified"]["largest_relative_difference"] < 1e-4


# ---- Files under several hands ---------------------------------------------------------------------------------------


# ---- Pictures and weights of others ----------------------------------------------------------------------------------
