"""The published network's golden vectors, and the formula that makes its weights (tests/models/golden/README.md)."""

import json
import re
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

FOLDER = Path(__file__).parents[1] / "models" / "golden"
CLASSES = {"cifar10": 10, "cifar100": 100}

_MODULES = [
    (r"conv1", "stem"),
    (r"bn1", "stem_bn"),
    (r"fc", "classifier"),
    (r"layer(\d)\.(\d+)\.(conv1|bn1|conv2|bn2)", r"stages.\1.blocks.\2.\3"),
    (r"layer(\d)\.(\d+)\.se\.fc\.0", r"stages.\1.blocks.\2.squeeze_excite.reduce"),
    (r"layer(\d)\.(\d+)\.se\.fc\.2", r"stages.\1.blocks.\2.squeeze_excite.expand"),
    (r"layer(\d)\.(\d+)\.downsample\.0", r"stages.\1.blocks.\2.shortcut"),
    (r"layer(\d)\.(\d+)\.downsample\.1", r"stages.\1.blocks.\2.shortcut_bn"),
]


def load(dataset: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"seanet20_{dataset}_golden.npz", allow_pickle=False) as file:
        return dict(file)


def weights(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns PyTorch's state dict in float64, by name."""
    return {key: _weight(key, tuple(shape)) for key, shape in json.loads(str(golden["state_dict_order"]))}


def _weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = np.random.RandomState(zlib.crc32(key.encode()) % 2**32).standard_normal(shape)
    if key == "final_cls.weight":
        return 0.1 * normal
    if key.endswith("running_mean"):
        return 0.1 * normal
    if key.endswith("running_var"):
        return np.exp(0.1 * normal)
    if len(shape) == 4:
        return normal * np.sqrt(2 / np.prod(shape[1:]))
    if len(shape) == 2:
        return normal * np.sqrt(1 / shape[1])
    return 1 + 0.1 * normal if key.endswith("weight") else 0.1 * normal


def path(key: str) -> tuple[str | int, ...]:
    """Returns the path in this package's state of a PyTorch name."""
    module, _, leaf = key.rpartition(".")
    for pattern, replacement in _MODULES:
        if match := re.fullmatch(pattern, module):
            parts = match.expand(replacement).split(".")
            if parts[0] == "stages":
                parts[1] = str(int(parts[1]) - 1)  # layer1 is stage 0
            break
    else:
        raise KeyError(key)
    is_bn = "bn" in parts[-1]
    names = {"weight": "scale" if is_bn else "kernel", "running_mean": "mean", "running_var": "var"}
    return (*(int(part) if part.isdigit() else part for part in parts), names.get(leaf, leaf))


def to_ours(value: np.ndarray) -> np.ndarray:
    """Transposes OIHW to HWIO, and [out, in] to [in, out]."""
    return {4: lambda v: v.transpose(2, 3, 1, 0), 2: np.transpose}.get(value.ndim, lambda v: v)(value)


def set_weights(model: nnx.Module, golden: dict[str, np.ndarray], dtype: str) -> None:
    """Sets the model's weights to the reference ones; every variable must be named exactly once."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    flat = dict(nnx.to_flat_state(state))
    given = {path(key): to_ours(value) for key, value in weights(golden).items()}
    assert flat.keys() == given.keys()
    for where, value in given.items():
        assert flat[where].shape == value.shape, where
        flat[where].set_value(jnp.asarray(value, dtype))
    nnx.update(model, nnx.from_flat_state(flat))


def images_and_labels(classes: int, source: np.random.RandomState | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns eight normalized NHWC images with labels: the next of a random source, or the fixed evaluation batch."""
    images = (source or np.random.RandomState(0)).standard_normal((8, 3, 32, 32))
    labels = (source or np.random.RandomState(1)).randint(0, classes, 8)
    return images.transpose(0, 2, 3, 1), labels
