"""EncapNet's golden vectors, and the names of its layers in PyTorch (see tests/models/golden/README.md)."""

import re

import golden_reference as reference
import jax.numpy as jnp
import numpy as np

from seanet_jax.models import weights

_LAYERS = [
    (r"module0\.0", "stem"),
    (r"module0\.1", "stem_bn"),
    (r"final_cls", "classifier"),
    (r"module(\d)\.(main|sub)_conv\.conv_adjust_blob_shape", r"modules.\1.\2.shortcut"),
    (r"module(\d)\.(main|sub)_conv\.block\.([04])\.conv\.0", r"modules.\1.\2.cores.\3.conv"),
    (r"module(\d)\.(main|sub)_conv\.block\.([04])\.main_cap\.0\.conv\.0", r"modules.\1.\2.cores.\3.master"),
    (r"module(\d)\.(main|sub)_conv\.block\.([04])\.main_cap\.1", r"modules.\1.\2.cores.\3.master_bn"),
    (r"module(\d)\.(main|sub)_conv\.block\.([04])\.res_cap\.0", r"modules.\1.\2.cores.\3.aide"),
    (r"module(\d)\.(main|sub)_conv\.block\.([04])\.res_cap\.1", r"modules.\1.\2.cores.\3.aide_bn"),
    (r"module(\d)\.(main|sub)_conv\.block\.([04])\.main_cap_coeff", r"modules.\1.\2.cores.\3.master_coefficients"),
    (r"module(\d)\.(main|sub)_conv\.block\.([04])\.res_cap_coeff", r"modules.\1.\2.cores.\3.aide_coefficients"),
    (r"module(\d)\.(main|sub)_conv\.block\.([15])", r"modules.\1.\2.norms.\3"),
    (r"module(\d)_ot_loss\.G_net\.0", r"agreement\1.back"),
    (r"module(\d)_ot_loss\.G_net\.1", r"agreement\1.back_bn"),
    (r"module(\d)_ot_loss\.critic\.0", r"agreement\1.critic1"),
    (r"module(\d)_ot_loss\.critic\.1", r"agreement\1.critic1_bn"),
    (r"module(\d)_ot_loss\.critic\.3", r"agreement\1.critic2"),
    (r"module(\d)_ot_loss\.critic\.4", r"agreement\1.critic2_bn"),
]


def load() -> dict[str, np.ndarray]:
    with np.load(reference.FOLDER / "encapnet_cifar10_golden.npz", allow_pickle=False) as file:
        return dict(file)


def path(key: str) -> str:
    """Returns the path in this package's network of a PyTorch name."""
    layer, _, leaf = key.rpartition(".")
    for pattern, replacement in _LAYERS:
        if match := re.fullmatch(pattern, layer):
            parts = match.expand(replacement).split(".")
            if parts[0] == "modules":
                parts[1] = str(int(parts[1]) - 1)
                # A core convolution, its normalization, ReLU and squash are four entries of a block.
                if parts[-1].isdigit() or parts[-2].isdigit():
                    position = -1 if parts[-1].isdigit() else -2
                    parts[position] = str(int(parts[position]) // 4)
            break
    else:
        raise KeyError(key)
    is_norm = "bn" in parts[-1] or "norms" in parts
    names = {"weight": "scale" if is_norm else "kernel", "running_mean": "mean", "running_var": "var"}
    return ".".join([*parts, names.get(leaf, leaf)])


def to_ours(key: str, value: np.ndarray) -> np.ndarray:
    """Transposes OIHW to HWIO; for a transposed convolution, IOHW to HWIO."""
    if value.ndim != 4:
        return value
    return value.transpose((2, 3, 0, 1) if "G_net" in key else (2, 3, 1, 0))


def set_weights(model, golden: dict[str, np.ndarray], name: str, dtype: str) -> None:
    """Sets the model's weights to the reference ones; every variable must be named exactly once."""
    arrays = reference.weights({"state_dict_order": golden[f"{name}/state_dict_order"]})
    arrays = {path(key): to_ours(key, value) for key, value in arrays.items()}
    weights.check_arrays(arrays, weights.shapes(model), "the formula")
    for where, variable in weights._variables(model).items():
        variable.set_value(jnp.asarray(arrays[where], dtype))
