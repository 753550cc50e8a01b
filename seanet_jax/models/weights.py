"""A network's weights as named arrays, and as a folder in the layout that is common on Hugging Face.

    model.safetensors   every parameter and batch statistic, float32 or float16, by its path in the network
    config.json         the architecture, how images are normalized, and the names of the classes

Reading such a folder needs no Orbax, and nothing in it can run code.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seanet_jax.durable import leftovers, locked, make_folders, write_together
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.json_files import checked, json_text, json_value, read_json
from seanet_jax.models.bundled import find_folder
from seanet_jax.paths import UserPath, check_readable, check_regular, exists, read_bytes, reading, user_path
from seanet_jax.printable import printable_list
from seanet_jax.version import __version__

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# Name of the SHA-256 of config.json in the metadata of model.safetensors.
_CONFIG_SHA256 = "config_sha256"

StoredDtype = Literal["float32", "float16"]
"""The dtypes in which a file of weights can be written. Both are read into float32."""

_REMEDY = "write the folder again"

# Names the version in the header of model.safetensors. Earlier versions refuse fields of config.json that are new.
_WRITER = "seanet_jax"

# Fields that say how a network is computed. They are not written, because whoever reads the weights chooses them.
_COMPUTATION = ("dtype", "conv_method", "batch_groups")


def to_arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns every parameter and batch statistic by its path, for example ``stages.0.blocks.1.conv1.kernel``."""
    return {name: np.asarray(variable.get_value()) for name, variable in _variables(model).items()}


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of ``to_arrays``. The network's arrays may be abstract (``nnx.eval_shape``)."""
    return {name: variable.get_value().shape for name, variable in _variables(model).items()}


def set_arrays(model: nnx.Module, arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Sets the weights of a network, in float32.

    Args:
        model: The network to change. Its arrays may be abstract.
        arrays: Arrays by path, as ``to_arrays`` returns them.
        where: Name of the arrays' source, for the error message.

    Raises:
        InputError: If arrays are missing, superfluous, or of a wrong shape or dtype. The message names them.
    """
    variables = _variables(model)
    check_arrays(arrays, shapes(model), where)
    for name, variable in variables.items():
        with np.errstate(over="ignore"):  # the scores tell that a weight is infinite
            variable.set_value(jnp.asarray(arrays[name], jnp.float32))


def check_arrays(found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Checks that arrays have the names, shapes and kind of dtype that a network needs.

    Args:
        found: Arrays by name.
        expected: Shapes by name.
        where: Name of the arrays' source, for the error message.

    Raises:
        InputError: If an array is missing, superfluous, of a wrong shape, or not floating point. The message names
          these arrays.
    """
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is not in this network" for name in found if name not in expected]
    for name, shape in expected.items():
        if name not in found:
            continue
        array = found[name]
        if tuple(array.shape) != shape:
            wrong.append(f"{name} has shape {tuple(array.shape)} and must have {shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            wrong.append(f"{name} is {array.dtype} and must be floating point")
    if wrong:
        raise InputError(f"{where} does not fit the network: {printable_list(wrong, '; ')}")


def write_folder(
    folder: UserPath, model: Any, config: Any, images: ImageSpec | None, dtype: StoredDtype = "float32"
) -> None:
    """Writes ``model.safetensors`` and ``config.json``.

    Args:
        folder: Folder to write, created if it does not exist. Files of these names in it are replaced, both or none.
        model: The ``Network`` whose weights are written.
        config: The network's config.
        images: How images are normalized and what the classes are called; None for a backbone.
        dtype: The dtype of the file. float16 halves it and rounds the weights to 11 bits.

    Raises:
        InputError: If the folder holds a run, whose ``config.json`` is another kind of file, if there is no such dtype,
          or if a weight is too large for it.
        OSError: If the files cannot be written.
    """
    folder = user_path(folder)
    if exists(folder / CONFIG) and not exists(folder / WEIGHTS):
        raise InputError(f"{folder} holds a {CONFIG} that is not of pretrained weights; name another folder")
    about = {"model_type": model.model_type, "architectures": [type(model).__name__]} | config_fields(config)
    if images is not None:
        about["images"] = images.to_json()
    text, arrays = json_text(about), _in_dtype(to_arrays(model), dtype)
    make_folders(folder)
    # The weights come first: until config.json is there too, the folder does not count as one of weights.
    write_together(folder, {WEIGHTS: _encode(arrays, text), CONFIG: text})


def _in_dtype(arrays: Mapping[str, np.ndarray], dtype: StoredDtype) -> dict[str, np.ndarray]:
    """Returns arrays in the dtype of a file."""
    if dtype not in get_args(StoredDtype):
        raise InputError(f"dtype is {dtype!r}; it must be one of {', '.join(get_args(StoredDtype))}")
    with np.errstate(over="ignore"):
        found = {name: array.astype(dtype) for name, array in arrays.items()}
    if large := [name for name, array in found.items() if np.isinf(array).any() and np.isfinite(arrays[name]).all()]:
        raise InputError(f"these weights are too large for {dtype}: {printable_list(large)}; write them as float32")
    return found


def config_fields(config: Any) -> dict[str, Any]:
    """Returns the fields of a network's config that ``config.json`` holds, as JSON values: the architecture."""
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in _COMPUTATION}
    return dict(json_value(fields))


def _encode(arrays: Mapping[str, np.ndarray], config: str) -> bytes:
    """Returns the content of ``model.safetensors``, whose metadata hold the SHA-256 of ``config.json``."""
    from safetensors.numpy import save

    # safetensors writes an array's buffer as it lies in memory, so the array must be contiguous.
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save(tensors, metadata={"format": "flax"})
    # safetensors would order several metadata at random. The header is JSON after its length, filled up with spaces.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] |= {_WRITER: __version__, _CONFIG_SHA256: hashlib.sha256(config.encode()).hexdigest()}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def is_folder(folder: UserPath) -> bool:
    """Returns whether a folder holds pretrained weights."""
    folder = user_path(folder)
    return exists(folder / WEIGHTS) and exists(folder / CONFIG)


class Saved(NamedTuple):
    """The contents of a folder of pretrained weights.

    Attributes:
        folder: The folder.
        model_type: Name of the network's family.
        fields: Fields of the network's config.
        images: How images are normalized and what the classes are called; None if ``config.json`` does not say.
        version: The version of seanet_jax that wrote the folder; None if the folder does not say.
        arrays: The arrays by path, see ``to_arrays``.
    """

    folder: Path
    model_type: str
    fields: dict[str, Any]
    images: ImageSpec | None
    version: str | None
    arrays: dict[str, np.ndarray]


def read(folder: UserPath) -> Saved:
    """Reads a folder that ``write_folder`` wrote. Both files are of one save, even if another process saves meanwhile.

    Args:
        folder: The folder, or the name of a network that comes with the package.

    Raises:
        InputError: If the folder holds no pretrained weights, or if a file is damaged or cannot be read.
    """
    folder = find_folder(folder)
    if not is_folder(folder):
        raise InputError(
            f"{folder} holds no pretrained weights: it must have {WEIGHTS} and {CONFIG} in it "
            "(seanet convert writes them from a run)"
        )
    with locked(folder, shared=True):
        metadata = _metadata(folder / WEIGHTS)
        where, version = str(folder / CONFIG), metadata.get(_WRITER)
        about = read_json(_config_of(folder, metadata.get(_CONFIG_SHA256)), remedy=_REMEDY)
        checked(about, _File, where=where, remedy=_REMEDY)
        arrays = _read_arrays(folder / WEIGHTS)
    images, model_type = about.pop("images", None), about.pop("model_type")
    about.pop("architectures", None)  # for other readers; the model_type says the same
    spec = None if images is None else ImageSpec.read(images, where=where, remedy=_REMEDY, version=version)
    fields = {name: about[name] for name in about if name not in _COMPUTATION}
    return Saved(folder, model_type, fields, spec, version, arrays)


class _File(TypedDict):
    model_type: str
    images: NotRequired[dict[str, Any] | None]


def _metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of a file of weights, or nothing if it is damaged."""
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    check_readable(path)
    try:
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _config_of(folder: Path, sha256: str | None) -> Path:
    """Returns the file of the config that was saved with the weights.

    If a save was killed after the new weights got their name, and before the new ``config.json`` got its own, that is
    complete under its temporary name. A ``config.json`` that was edited by hand, which differs too, has no such file.

    Args:
        folder: The folder of weights.
        sha256: SHA-256 of the config, which the weights name; None if they are of another writer.
    """
    path = folder / CONFIG
    with reading(folder):
        unfinished = [] if sha256 is None else leftovers(path)
    return next((file for file in (path, *unfinished) if hashlib.sha256(read_bytes(file)).hexdigest() == sha256), path)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a ``model.safetensors`` by their paths.

    Raises:
        InputError: If the file is damaged or cannot be read.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load_file

    check_regular(path)
    check_readable(path)
    try:
        with safe_open(path, "numpy") as file:
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (it is no dict)
        # NumPy has no such dtypes, and scales that belong to them are not in the file.
        if wrong := [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype.startswith(("F4", "F6_", "F8"))]:
            raise InputError(
                f"{path} has numbers of fewer than 16 bits: {printable_list(wrong)}; "
                "write the weights as float32, float16 or bfloat16"
            )
        arrays: dict[str, np.ndarray] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({printable_list([str(error)])}); {_REMEDY}") from None
    return arrays


def _variables(model: nnx.Module) -> dict[str, nnx.Variable[jax.Array]]:
    found = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {".".join(map(str, path)): variable for path, variable in found}
