"""A network's weights as arrays with names, and as a folder in the layout that Hugging Face's users know.

    model.safetensors   every parameter and batch statistic, float32, by its path in the network
    config.json         the architecture, and what its images and classes are

Such a folder is read without Orbax, and nothing in it can run code.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.files import write_whole
from seanet_jax.image_spec import ImageSpec

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# How it is computed, which is the reader's choice; everything else of a config is the network.
_COMPUTATION = ("dtype", "conv_method", "batch_groups")


def to_arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """Every parameter and batch statistic by its path, for example ``stages.0.blocks.1.conv1.kernel``."""
    return {name: np.asarray(variable.get_value()) for name, variable in _variables(model).items()}


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of ``to_arrays``; the network's arrays may be abstract (``nnx.eval_shape``)."""
    return {name: variable.get_value().shape for name, variable in _variables(model).items()}


def set_arrays(model: nnx.Module, arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Gives a network its weights, in float32.

    Args:
        model: to change; its arrays may be abstract.
        arrays: by path, as ``to_arrays``.
        where: they come from, for the message.

    Raises:
        InputError: arrays are missing, extra or of a wrong shape or dtype; all of them are named.
    """
    variables = _variables(model)
    demand_arrays(arrays, shapes(model), where)
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(arrays[name], jnp.float32))


def demand_arrays(found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Demands that arrays are those of a network.

    Args:
        found: arrays by name.
        expected: shapes by name.
        where: they come from, for the message.

    Raises:
        InputError: names every array that is missing, extra, or of a wrong shape or no floating-point dtype.
    """
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is no array of this network" for name in found if name not in expected]
    for name, shape in expected.items():
        if name not in found:
            continue
        array = found[name]
        if tuple(array.shape) != shape:
            wrong.append(f"{name} has shape {tuple(array.shape)} and must have {shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            wrong.append(f"{name} is {array.dtype} and must be floating point")
    if wrong:
        raise InputError(f"{where} does not fit the network: {'; '.join(wrong)}")


def write_folder(folder: Path, model: Any, config: Any, images: ImageSpec | None) -> None:
    """Writes ``model.safetensors`` and ``config.json``.

    Args:
        folder: created if it is not there; a file of these names is replaced.
        model: a ``Network``, whose weights they are.
        config: its frozen dataclass.
        images: what its images and classes are; None if it is used as a backbone.

    Raises:
        InputError: the folder holds a run, whose ``config.json`` is another.
        OSError: the files cannot be written.
    """
    from safetensors.numpy import save

    if (folder / CONFIG).exists() and not (folder / WEIGHTS).exists():
        raise InputError(f"{folder} holds a {CONFIG} that is not of pretrained weights; name another folder")
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in _COMPUTATION}
    about = {"model_type": model.model_type, "architectures": [type(model).__name__]} | fields
    if images is not None:
        about["images"] = images.to_json()
    # Through NumPy's contiguous copy: safetensors writes the buffer as it lies.
    tensors = {name: np.ascontiguousarray(array) for name, array in to_arrays(model).items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, save(tensors, metadata={"format": "flax"}))
    write_whole(folder / CONFIG, json.dumps(about, indent=2) + "\n")


def is_folder(folder: Path) -> bool:
    """Whether it holds pretrained weights."""
    return (folder / WEIGHTS).exists() and (folder / CONFIG).exists()


class About(NamedTuple):
    """What ``config.json`` says of a network.

    Attributes:
        model_type: the kind of network.
        fields: of its config.
        images: what its images and classes are, if the folder says so.
    """

    model_type: str
    fields: dict[str, Any]
    images: ImageSpec | None


def read_about(folder: Path) -> About:
    """Reads ``config.json``, as ``write_folder`` wrote it, and not yet the weights, which are large.

    Raises:
        InputError: the folder holds no pretrained weights, or the file is damaged.
    """
    if not is_folder(folder):
        raise InputError(
            f"{folder} holds no pretrained weights: it must have {WEIGHTS} and {CONFIG} in it "
            "(seanet convert makes them of a run)"
        )
    try:
        about = json.loads((folder / CONFIG).read_text())
        images = about.pop("images", None)
        fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in about.items()}
        model_type = fields.pop("model_type")
        fields.pop("architectures")
        spec = None if images is None else ImageSpec.from_json(images)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG} is damaged ({error}); write the folder anew") from None
    return About(model_type, fields, spec)


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Reads ``model.safetensors``, as ``write_folder`` wrote it.

    Args:
        folder: for which ``is_folder`` holds.

    Returns:
        The arrays by path.

    Raises:
        InputError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, np.ndarray] = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{folder / WEIGHTS} is damaged ({error}); write the folder anew") from None
    return arrays


def _variables(model: nnx.Module) -> dict[str, nnx.Variable[jax.Array]]:
    found = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {".".join(map(str, path)): variable for path, variable in found}
