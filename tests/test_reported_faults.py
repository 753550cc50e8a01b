"""Faults that users of such projects report: for each, its smallest input and the right value.

One test stands for one report. Tests of the same kind of fault elsewhere are beside the tests of the module concerned;
``tests/test_transforms.py`` holds what transforms and flags of JAX must not change.
"""

import chex
import pytest
from networks import random_network
from training_fixtures import TINY

from seanet_jax import InputError
from seanet_jax.models.pytorch import read_pytorch, state_dict

# Together they start dozens of processes.
pytestmark = pytest.mark.slow


# ---- Nothing changes a training silently -----------------------------------------------------------------------------


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


# ---- Files under several hands ---------------------------------------------------------------------------------------


# ---- Pictures and weights of others ----------------------------------------------------------------------------------
