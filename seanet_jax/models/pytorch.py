"""Converts networks from and to the names, layouts and checkpoints of the published PyTorch release.

PyTorch is imported only when a file is read or written.
"""

import collections
import dataclasses
import importlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from seanet_jax.durable import write_whole
from seanet_jax.errors import InputError, is_integer, plain
from seanet_jax.extras import explain
from seanet_jax.layers.functional import AGGREGATE_OPS, AggregateOp
from seanet_jax.models import weights
from seanet_jax.models.network import Network
from seanet_jax.models.seanet import SEANet, SEANetConfig
from seanet_jax.paths import UserPath, reading, user_path

# Names of a block's layers in PyTorch, in PyTorch's order, and here.
_BLOCK = {
    "conv1": "conv1",
    "bn1": "bn1",
    "conv2": "conv2",
    "bn2": "bn2",
    "se.fc.0": "squeeze_excite.reduce",
    "se.fc.2": "squeeze_excite.expand",
    "downsample.0": "shortcut",
    "downsample.1": "shortcut_bn",
}
# Names of a layer's arrays here, and in PyTorch.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Transpositions by rank, from OIHW to HWIO and from [out, in] to [in, out], and back.
_TO_OURS = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
_TO_PYTORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
# Modules that hold a network put their attribute's name into the names of its arrays: DataParallel, AveragedModel and
# most exponential moving averages "module", torch.compile "_orig_mod", Lightning and others "model" or "net". They can
# be nested, and can hold a part of the network.
_WRAPPERS = frozenset({"module", "_orig_mod", "model", "net"})
# Counters that PyTorch keeps beside the arrays: BatchNorm's of batches, and AveragedModel's of averaged models.
_COUNTERS = frozenset({"num_batches_tracked", "n_averaged"})
# Entries of a checkpoint that hold the weights and the optimizer's state, as the release named them.
_RELEASED = (("weight", "optimizer_state_dict"), ("state_dict", "optimizer"))
_WANTED = "it must hold a state dict, or a dict with one as weight or state_dict"


@dataclasses.dataclass(frozen=True, eq=False)
class PyTorchCheckpoint:
    """The content of a checkpoint.

    Attributes:
        model: The network, in evaluation mode.
        epoch: Number of epochs that the network was trained; None if the file does not record it.
        momentum: SGD's momentum in float32, by the path of each parameter as in ``weights.to_arrays``; None if the file
          has none.
    """

    model: SEANet
    epoch: int | None
    momentum: dict[str, np.ndarray] | None


def read_pytorch(path: UserPath, aggregate_op: AggregateOp = "sum") -> PyTorchCheckpoint:
    """Reads a checkpoint. No code in it is run.

    The file holds ``{epoch, weight, optimizer_state_dict}``, as the release saved it on CIFAR-10, or ``{epoch,
    state_dict, optimizer}``, as on CIFAR-100. All entries but the weights may be missing. The weights may have another
    name if they are the only state dict in the file. A state dict alone is read too.

    Args:
        path: The checkpoint file.
        aggregate_op: How a group of channels is reduced, which the file does not record.

    Raises:
        InputError: If PyTorch is not installed, if the file cannot be read, holds several state dicts, or holds more
          than arrays, numbers and text, or if ``from_state_dict`` raises it.
    """
    path = user_path(path)
    saved, epoch, optimizer = _parts(_load(path), path)
    epoch = plain(epoch)
    if epoch is not None and not is_integer(epoch, minimum=0):
        raise InputError(f"{path}: epoch is {epoch!r}; it must be an integer from 0")
    arrays = _plain_names(_to_numpy(saved, path), str(path))
    model = from_state_dict(arrays, aggregate_op, where=str(path))
    # The optimizer numbers parameters in the order of model.parameters(), which is that of the state dict.
    parameters = {name: array.shape for name, array in arrays.items() if "running_" not in name}
    momentum = None if optimizer is None else _momentum(optimizer, parameters, path)
    if momentum is not None:
        names = _names(model)
        momentum = {names[name]: _transposed(buffer, _TO_OURS) for name, buffer in momentum.items()}
    return PyTorchCheckpoint(model, epoch, momentum)


def from_state_dict(
    arrays: Mapping[str, np.ndarray], aggregate_op: AggregateOp = "sum", where: str = "the state dict"
) -> SEANet:
    """Builds the network of a state dict. Its architecture is inferred from the names and shapes of the arrays.

    Args:
        arrays: Arrays by PyTorch's names and in its layouts, of any floating-point dtype. The parts ``module``,
          ``_orig_mod``, ``model`` and ``net`` of a name, which wrappers of a network add, are ignored wherever they
          are, and so are the counters ``num_batches_tracked`` and ``n_averaged``.
        aggregate_op: How a group of channels is reduced, which arrays do not show.
        where: Name of the arrays' source, for error messages.

    Returns:
        The network in evaluation mode, with its weights in float32. If several values of ``reduction`` lead to the same
        hidden units, it has 8, or else the largest.

    Raises:
        InputError: If the arrays are not those of a SEANet, SENet or ResNet as published (the message names all that
          are wrong), if the network is pre-activated, if the arrays are not finite, or if nothing is aggregated and
          ``aggregate_op`` is not "sum".
    """
    if aggregate_op not in AGGREGATE_OPS:
        raise InputError(
            f"{where} is of a network that cannot be built: aggregate_op is {aggregate_op!r}; it must be one of "
            f"{', '.join(AGGREGATE_OPS)}"
        )
    arrays = _plain_names(arrays, where)
    config = _infer(arrays, aggregate_op, where)
    model = nnx.eval_shape(lambda: SEANet(config, rngs=nnx.Rngs(0)))
    names, shapes = _names(model), weights.shapes(model)
    expected = {
        theirs: tuple(shapes[ours][axis] for axis in _TO_PYTORCH[len(shapes[ours])]) for theirs, ours in names.items()
    }
    weights.check_arrays(arrays, expected, where)
    arrays = _to_float32(arrays, where)
    weights.set_arrays(model, {ours: _transposed(arrays[theirs], _TO_OURS) for theirs, ours in names.items()}, where)
    model.eval()
    return model


def state_dict(model: Network) -> dict[str, np.ndarray]:
    """Returns a network's weights in float32, by PyTorch's names and in its order and layouts.

    PyTorch's ``load_state_dict`` takes them, as tensors.

    Raises:
        InputError: If the network is pre-activated or not of SEANet's family, or if its aggregates have weights, a
          normalization or random groups, for which the published network has no names.
    """
    if not isinstance(model, SEANet):
        raise InputError(
            f"a network of the type {model.model_type} cannot be written for PyTorch: only SEANet, SENet and ResNet are"
        )
    if model.config.preactivation:
        raise InputError(
            "a pre-activated network cannot be written for PyTorch: its arrays would not record that projected "
            "shortcuts see a block's normalized input, and PyTorch code differs in this"
        )
    if model.config.aggregating_stages and (
        model.config.aggregate_norm or model.config.aggregate_op not in AGGREGATE_OPS
    ):
        what = "with normalization" if model.config.aggregate_norm else f"by {model.config.aggregate_op}"
        raise InputError(
            f"a network that aggregates {what} cannot be written for PyTorch: the published network has no arrays for "
            f"it; aggregation by {', '.join(AGGREGATE_OPS)}, without normalization, needs none"
        )
    arrays = weights.to_arrays(model)
    return {
        theirs: np.ascontiguousarray(_transposed(arrays[ours], _TO_PYTORCH)) for theirs, ours in _names(model).items()
    }


def write_pytorch(path: UserPath, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict to a file of PyTorch's format.

    Args:
        path: The file to write, which is replaced if it exists.
        arrays: Arrays by name, as ``state_dict`` returns them.

    Raises:
        InputError: If PyTorch is not installed.
        OSError: If the file cannot be written.
    """
    path, torch, buffer = user_path(path), import_torch(), io.BytesIO()
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, buffer)
    write_whole(path, buffer.getvalue())


def import_torch() -> Any:
    """Imports PyTorch.

    Raises:
        InputError: If PyTorch is not installed. The message says what to install.
    """
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        missing = explain(error, "reading or writing a PyTorch checkpoint", "convert")
        raise InputError(missing or f"PyTorch cannot be imported ({error}); install torch") from None


def _infer(arrays: Mapping[str, np.ndarray], aggregate_op: AggregateOp, where: str) -> SEANetConfig:
    """Infers the config of the network that arrays belong to.

    If sizes contradict each other, the most frequent one counts. ``check_arrays`` names the others later, so that one
    error message tells everything that is wrong.
    """

    def size(*places: tuple[str, int]) -> int:
        """Returns the most frequent size along an axis, over all arrays whose names match; 0 if no name does."""
        found = collections.Counter(
            array.shape[axis]
            for name, array in arrays.items()
            for pattern, axis in places
            if re.fullmatch(pattern, name) and array.ndim > axis
        )
        return found.most_common(1)[0][0] if found else 0

    blocks: dict[int, int] = {}
    for name in arrays:
        if found := re.match(r"layer(\d{1,4})\.(\d{1,4})\.", name):
            stage, block = map(int, found.groups())
            if max(stage, block) < len(arrays):  # so that no single name leads to a network of huge size
                blocks[stage] = max(blocks.get(stage, 0), block + 1)
    layers = [f"layer{stage}" for stage in range(1, max(blocks, default=0) + 1)]
    stem = size((r"conv1\.weight", 0), (r"bn1\..*", 0))
    widths = [size((rf"{layer}\.\d+\.conv[12]\.weight", 0), (rf"{layer}\.\d+\.bn[12]\..*", 0)) for layer in layers]
    sizes = {"conv1": stem, **dict(zip(layers or ["layer1"], widths or [0], strict=True))}
    if not all(sizes.values()):
        raise InputError(
            f"{where} is not a SEANet, SENet or ResNet as published: there must be arrays of "
            f"{', '.join(layer for layer, width in sizes.items() if not width)}, "
            f"and there are {', '.join(list(arrays)[:5]) or 'none'}"
        )
    if _is_preactivated(arrays):
        raise InputError(
            f"{where} is of a pre-activated network, and those cannot be converted: the arrays do not record whether "
            "projected shortcuts see a block's input before or after its normalization, and PyTorch code differs in "
            "this; name a checkpoint of a SEANet, SENet or ResNet that is not pre-activated"
        )

    published = SEANetConfig()
    hidden = [size((rf"{layer}\.\d+\.se\.fc\.0\..*", 0), (rf"{layer}\.\d+\.se\.fc\.2\.weight", 1)) for layer in layers]
    pairs = [(width, units) for width, units in zip(widths, hidden, strict=True) if units]
    # Any reduction from width // units downwards may give the hidden units. The one that explains most stages is taken,
    # and of several such the first, which is the published one.
    reductions = [published.reduction, *(max(1, width // units) for width, units in pairs)]
    reduction = max(reductions, key=lambda factor: sum(width // factor == units for width, units in pairs))

    # Aggregation shows where channels become fewer: between the blocks and the next stage if it comes after stages, or
    # in the projected shortcuts if it is inside blocks.
    after_stages = [size((rf"{layer}\.0\.(conv1|downsample\.0)\.weight", 1)) for layer in layers[1:]]
    after_stages.append(size((r"fc\.weight", 1)))
    after_blocks = [
        size((rf"{layer}\.\d+\.downsample\.0\.weight", 0), (rf"{layer}\.\d+\.downsample\.1\..*", 0)) for layer in layers
    ]
    aggregation: dict[str, Any] = {"aggregate_placement": "none"}
    for placement, outputs in (("stage", after_stages), ("block", after_blocks)):
        fewer = {
            number: (w, c) for number, (w, c) in enumerate(zip(widths, outputs, strict=True), start=1) if c and c != w
        }
        factors = collections.Counter(w // c for w, c in fewer.values() if w % c == 0)
        if factors:
            aggregation = {
                "aggregate_placement": placement,
                "aggregate_factor": factors.most_common(1)[0][0],
                "aggregate_op": aggregate_op,
                "aggregate_stages": None if len(fewer) == len(layers) else tuple(fewer),
            }
    if aggregation["aggregate_placement"] == "none" and aggregate_op != "sum":
        raise InputError(f"{where} is of a network that aggregates nothing, and aggregate_op is {aggregate_op!r}")
    try:
        return SEANetConfig(
            stage_sizes=tuple(blocks[stage] for stage in range(1, len(layers) + 1)),
            widths=tuple(widths),
            stem_width=stem,
            squeeze_excite=bool(pairs),
            reduction=reduction,
            # If the arrays are missing, check_arrays reports it.
            num_classes=size((r"fc\..*", 0)) or published.num_classes,
            in_channels=size((r"conv1\.weight", 1)) or published.in_channels,
            **aggregation,
        )
    except InputError as error:
        raise InputError(f"{where} is of a network that cannot be built: {error}") from None


def _is_preactivated(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays are of a network whose blocks normalize the input of a convolution, not its output.

    The first normalization of a block has as many channels as what it normalizes. If no block shows the difference, the
    network is pre-activated if neither the stem nor a shortcut has a normalization.
    """
    for name, kernel in arrays.items():
        norm = arrays.get(name.removesuffix("conv1.weight") + "bn1.weight")
        if not re.fullmatch(r"layer\d+\.\d+\.conv1\.weight", name) or kernel.ndim != 4 or norm is None:
            continue
        channels_out, channels_in = kernel.shape[:2]
        if channels_out != channels_in and norm.shape == (channels_in,):
            return True
    return not any(re.match(r"(layer\d+\.\d+\.downsample\.1|bn1)\.", name) for name in arrays)


def _names(model: SEANet) -> dict[str, str]:
    """Returns the paths of a network's arrays by PyTorch's names, in PyTorch's order."""
    layers = {"conv1": "stem", "bn1": "stem_bn"}
    for stage, size in enumerate(model.config.stage_sizes):
        for block in range(size):
            for theirs, ours in _BLOCK.items():
                layers[f"layer{stage + 1}.{block}.{theirs}"] = f"stages.{stage}.blocks.{block}.{ours}"
    layers["fc"] = "classifier"
    there = weights.shapes(model)
    return {
        f"{theirs}.{leaf}": f"{ours}.{our_leaf}"
        for theirs, ours in layers.items()
        for our_leaf, leaf in _LEAVES.items()
        if f"{ours}.{our_leaf}" in there
    }


def _transposed(array: np.ndarray, axes: Mapping[int, tuple[int, ...]]) -> np.ndarray:
    return array.transpose(axes[array.ndim])


def _plain_names(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Removes counters, and from the names what modules around the network or around a part of it have added.

    Args:
        arrays: Arrays by name.
        where: Name of the arrays' source, for error messages.

    Raises:
        InputError: If two arrays have the same name then, as in a file with a network and its average.
    """
    found: dict[str, str] = {}
    for name in arrays:
        parts = name.split(".")
        if parts[-1] in _COUNTERS:
            continue
        plain = ".".join(part for part in parts if part not in _WRAPPERS)
        if found.setdefault(plain, name) != name:
            raise InputError(f"{where} holds {found[plain]} and {name}, of two networks; save one of them alone")
    return {plain: arrays[name] for plain, name in found.items()}


def _to_float32(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):
        made = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    wrong = [name for name, array in made.items() if not np.isfinite(array).all()]
    if wrong:
        raise InputError(f"{where} has values that are NaN, infinite or too large for float32 in {', '.join(wrong)}")
    return made


def _load(path: Path) -> Any:
    torch = import_torch()
    with reading(path):
        content = io.BytesIO(path.read_bytes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of damage before it raises an error
            return torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file leads to any of a dozen types of error
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{path} holds {code[1]}, which could run code when it is read, and is refused; "
                "if you trust the file, read it in PyTorch and save the state dict alone"
            ) from None
        raise InputError(
            f"{path} is not a PyTorch checkpoint, or is damaged; fetch it again, or name another"
        ) from None


def _parts(content: Any, path: Path) -> tuple[Mapping[str, Any], Any, Any]:
    """Returns the state dict, the epoch and the optimizer's state from the content of a file."""
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}; {_WANTED}")
    if _is_state_dict(content):
        return content, None, None
    for weight, optimizer in _RELEASED:
        if isinstance(content.get(weight), Mapping):
            return content[weight], content.get("epoch"), content.get(optimizer)
    named = ", ".join(map(str, list(content)[:5])) or "nothing"
    candidates = [name for name, value in content.items() if isinstance(value, Mapping) and _is_state_dict(value)]
    if not candidates:
        raise InputError(f"{path} holds a dict of {named}; {_WANTED}")
    if len(candidates) > 1:
        raise InputError(
            f"{path} holds several state dicts ({', '.join(map(str, candidates))}); save the one to convert alone"
        )
    optimizers = (content[optimizer] for _, optimizer in _RELEASED if optimizer in content)
    return content[candidates[0]], content.get("epoch"), next(optimizers, None)


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(map(import_torch().is_tensor, content.values()))


def _to_numpy(tensors: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    torch = import_torch()
    arrays = {}
    for name, tensor in tensors.items():
        try:
            # nn.Parameter, and any tensor that requires a gradient, must be detached before it becomes an array.
            tensor = tensor.detach()
            # NumPy has no bfloat16, so floating-point tensors are converted before.
            arrays[str(name)] = (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).numpy()
        except (AttributeError, TypeError, RuntimeError, NotImplementedError):
            raise InputError(f"{path}: {name} is not a dense array of numbers; save the state dict again") from None
    return arrays


def _momentum(optimizer: Any, parameters: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, np.ndarray] | None:
    """Returns SGD's momentum by PyTorch's names; None if the optimizer has none.

    Args:
        optimizer: The optimizer's state dict. It identifies parameters by index, or in old versions of PyTorch by the
          address of an object. The group's ``params`` lists these in order.
        parameters: Shapes of the parameters by name, in the same order.
        path: The checkpoint file, for error messages.
    """
    without = "save the network's state dict alone to begin without momentum"
    try:
        (group,) = optimizer["param_groups"]
        found = [optimizer["state"].get(key, {}).get("momentum_buffer") for key in group["params"]]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path}: the optimizer is not one of a single group of parameters; {without}") from None
    if all(buffer is None for buffer in found):
        return None
    if len(found) != len(parameters):
        raise InputError(
            f"{path}: the optimizer has {len(found)} parameters, and the network {len(parameters)}; {without}"
        )
    there = {name: buffer for name, buffer in zip(parameters, found, strict=True) if buffer is not None}
    buffers, where = _to_numpy(there, path), f"{path}: the optimizer's momentum"
    weights.check_arrays(buffers, parameters, where)
    return _to_float32(buffers, where)
