"""Converts networks between PyTorch checkpoints, runs, and folders of pretrained weights.

``seanet convert`` is the command of these functions.
"""

import contextlib
import dataclasses
import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from seanet_jax import data
from seanet_jax.durable import folder_written_whole, make_folders
from seanet_jax.errors import InputError, RunError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.inference.trained import load, load_model
from seanet_jax.layers.functional import AggregateOp
from seanet_jax.models import PRESETS, Network, SEANet, SEANetConfig, build, from_pretrained, weights
from seanet_jax.models.bundled import find_folder
from seanet_jax.models.pytorch import PyTorchCheckpoint, import_torch, read_pytorch, state_dict, write_pytorch
from seanet_jax.paths import UserPath, is_file, user_path
from seanet_jax.training.checkpoint import Checkpoints, reason
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.run_folder import RunFolder
from seanet_jax.training.step import create_state

# Ends the errors of a network that cannot become a run.
_ALTERNATIVE = "in Python, read_pytorch or from_pretrained reads it, and save_pretrained keeps it"


class ConvertedRun(NamedTuple):
    """A run that a conversion has written.

    Attributes:
        model: The network.
        config: The run's configuration.
        network_fields: Fields of the configuration that describe the network: its preset, and what differs from it.
        step: Optimizer steps done.
        has_momentum: Whether SGD continues with the momentum in the source. Any optimizer starts anew otherwise.
    """

    model: Network
    config: TrainConfig
    network_fields: dict[str, Any]
    step: int
    has_momentum: bool


def convert_to_run(
    source: UserPath,
    target: UserPath,
    recipe: TrainConfig,
    *,
    dataset: str | None = None,
    aggregate_op: AggregateOp = "sum",
) -> ConvertedRun:
    """Writes the folder of a run for a PyTorch checkpoint or a folder of pretrained weights.

    Args:
        source: A PyTorch checkpoint, or a folder of pretrained weights.
        target: The folder to write. Nothing is left of it after an error.
        recipe: Configuration whose recipe the run gets. Its network, data set and folder are replaced.
        dataset: Name of the data set to train on. By default the first one that fits the network.
        aggregate_op: Aggregation of the network, which a PyTorch checkpoint does not record.

    Raises:
        InputError: If the source cannot be read, no preset or data set fits its network, or the target cannot be
            written.
        RunError: If the target could not be written completely.
    """
    source, target = user_path(source), user_path(target)
    images = None
    if is_file(source):
        found = read_pytorch(source, aggregate_op)
    else:
        saved = weights.read(source)
        found = PyTorchCheckpoint(SEANet.from_saved(saved), epoch=None, momentum=None)
        images = saved.images
    dataset = find_dataset(found.model.config, source, asked=dataset, images=images)
    network = find_preset(found.model.config, source)
    config = dataclasses.replace(recipe, dataset=dataset, out=target, **network)
    # The momentum in a checkpoint is that of SGD, which says nothing to another optimizer.
    momentum = found.momentum if config.optimizer == "sgd" else None
    with _writing(target) as place, folder_written_whole(place) as folder:
        step = write_run(
            folder,
            config,
            found.model,
            data.image_spec(dataset),
            epoch=found.epoch or 0,
            momentum=momentum,
            converted_from=source.name,
        )
    return ConvertedRun(found.model, config, network, step, momentum is not None)


def convert_to_pytorch(source: UserPath, target: UserPath, which: str = "best") -> Network:
    """Writes a PyTorch state dict of the network of a run or of a folder of pretrained weights.

    Args:
        source: The folder of a run or of pretrained weights.
        target: The file to write. Nothing is left of it after an error.
        which: Network of a run, "best", "latest" or "ema"; see ``trained.load``.

    Returns:
        The network.

    Raises:
        InputError: If PyTorch is missing, the source cannot be read, or the target cannot be written.
        RunError: If the target could not be written completely.
    """
    source, target = find_folder(source), user_path(target)
    import_torch()
    model = from_pretrained(source) if weights.is_folder(source) else load_model(source, which)
    arrays = state_dict(model)
    with _writing(target) as place:
        write_pytorch(place, arrays)
    return model


def convert_to_weights(source: UserPath, target: UserPath, which: str = "best") -> Network:
    """Writes a folder of pretrained weights of a run's network, with its image specification.

    Args:
        source: The folder of a run.
        target: The folder to write. Nothing is left of it after an error.
        which: Network of the run, "best", "latest" or "ema"; see ``trained.load``.

    Returns:
        The network.

    Raises:
        InputError: If the source cannot be read or the target cannot be written.
        RunError: If the target could not be written completely.
    """
    source, target = find_folder(source), user_path(target)
    trained = load(source, which)
    with _writing(target) as place, folder_written_whole(place) as folder:
        trained.model.save_pretrained(folder, trained.images)
    return trained.model


def write_run(
    folder: UserPath,
    config: TrainConfig,
    model: SEANet,
    images: ImageSpec,
    *,
    epoch: int = 0,
    momentum: Mapping[str, np.ndarray] | None = None,
    converted_from: str | None = None,
) -> int:
    """Writes the folder of a run for a network that was trained elsewhere, as if the run had just finished an epoch.

    Args:
        folder: The folder to write. It must not exist, or be empty.
        config: The run's configuration.
        model: The trained network. Its architecture must be the configuration's.
        images: Specification of the network's images and classes.
        epoch: Epochs for which the network was trained.
        momentum: Momentum of SGD by the path of each parameter, named as in ``weights.to_arrays``. None is zero.
        converted_from: Name of the file or folder that the network comes from.

    Returns:
        Optimizer steps done.

    Raises:
        InputError: If weights or momentum do not fit the configuration's network, or momentum is given to another
            optimizer than SGD, or there are too few images or too many epochs, or the folder holds something already.
        RunError: If a file of the run could not be written.
        OSError: If the folder could not be created.
    """
    folder = user_path(folder)
    steps_per_epoch = _steps_per_epoch(config)
    step = epoch * steps_per_epoch
    if step >= 2**31:
        raise InputError(f"{epoch} epochs of {steps_per_epoch} steps are too many; steps are counted in 32 bits")
    model_config = config.model_config(len(images.class_names), in_channels=images.channels)
    network = nnx.eval_shape(lambda: build(model_config, rngs=nnx.Rngs(0)))
    weights.set_arrays(network, weights.to_arrays(model), "the model")
    state = create_state(network, optimizer(config, steps_per_epoch), average=config.ema_decay is not None)
    trace = None
    if momentum is not None:
        if config.optimizer != "sgd":
            raise InputError(
                f"the momentum is that of SGD, and the optimizer is {config.optimizer}; make it sgd, or leave the "
                "momentum out"
            )
        parameters = {_path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
        weights.check_arrays(momentum, parameters, "the momentum")
        trace = jax.tree_util.tree_map_with_path(
            lambda path, _: jnp.asarray(momentum[_path_name(path)], jnp.float32), state.params
        )
    state = state._replace(step=jnp.int32(step), opt_state=_continued(state.opt_state, step, trace))

    run = RunFolder(folder)
    run.check(config)
    make_folders(folder)
    # Nobody here has seen the images of the earlier epochs, so the run has no hash of them and no records.
    run.open(
        config,
        model_config,
        images,
        data_sha256=None,
        environment=None,
        step=step,
        history=[],
        converted_from=converted_from,
    )
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, state, [])
    return step


def find_dataset(
    config: SEANetConfig, source: Path, *, asked: str | None = None, images: ImageSpec | None = None
) -> str:
    """Returns the name of the data set that fits a network.

    Args:
        config: Configuration of the network.
        source: Where the network comes from, for the error.
        asked: Name of the data set that must fit. By default the first one that fits is returned.
        images: Specification of the network's images, if it is known.

    Raises:
        InputError: If no data set, or not the one asked for, fits the network.
    """
    if asked is not None:
        data.image_spec(asked)  # raises an InputError if it is known only once the data set is loaded
    ours = config.num_classes, config.in_channels
    known = {name: spec for name, source in data.DATASETS.items() if (spec := source.image_spec) is not None}
    fitting = [
        name for name, spec in known.items() if (spec.num_classes, spec.channels) == ours and images in (None, spec)
    ]
    if asked in fitting or (fitting and asked is None):
        return asked or fitting[0]
    like = "" if images is None else ", with the class names and normalization in its config.json"
    raise InputError(
        f"{source} is for {ours[0]} classes of images of {ours[1]} channels{like}, and a run must be for the images "
        f"of {asked or ' or '.join(known)}; {_ALTERNATIVE}"
    )


def find_preset(config: SEANetConfig, source: Path) -> dict[str, Any]:
    """Returns the fields of ``TrainConfig`` that describe a network: a preset, and as few changed fields as possible.

    Args:
        config: Configuration of the network.
        source: Where the network comes from, for the error.

    Raises:
        InputError: If no preset has the network's stages, widths, stem and kind of block.
    """
    # TrainConfig can replace the other fields of a preset, but not these.
    fixed = ("stage_sizes", "widths", "stem_width", "preactivation")
    presets = {name: preset for name, preset in PRESETS.items() if isinstance(preset, SEANetConfig)}
    fitting = []
    for name, preset in presets.items():
        if any(getattr(preset, field) != getattr(config, field) for field in fixed):
            continue
        compared = ["squeeze_excite", "aggregate_placement"]
        # Two reductions with the same number of hidden units are the same network.
        if config.squeeze_excite and any(w // preset.reduction != w // config.reduction for w in config.widths):
            compared.append("reduction")
        if config.aggregate_placement != "none":
            compared += ["aggregate_op", "aggregate_factor", "aggregate_norm"]
        if config.aggregate_op == "random":
            compared.append("aggregate_seed")
        ours = {field: getattr(config, field) for field in compared}
        fields = {field: value for field, value in ours.items() if getattr(preset, field) != value}
        # All stages may be named or not, and a preset without aggregation names none.
        stages = config.aggregating_stages
        if stages and stages != dataclasses.replace(preset, aggregate_placement="stage").aggregating_stages:
            fields["aggregate_stages"] = stages
        fitting.append({"model": name, **fields})
    if not fitting:
        blocks = "pre-activated blocks" if config.preactivation else "blocks"
        raise InputError(
            f"{source} has stages of {config.stage_sizes} {blocks} of widths {config.widths} after a stem of "
            f"{config.stem_width}; a run's must be those of one of {', '.join(presets)}; {_ALTERNATIVE}"
        )
    return min(fitting, key=len)


def _continued(opt_state: Any, step: int, trace: Any) -> Any:
    """Returns the state of an optimizer with the schedule at a step, and with this momentum if it is not None."""

    def continued(part: Any) -> Any:
        if isinstance(part, optax.ScaleByScheduleState):
            return part._replace(count=jnp.int32(step))
        return part._replace(trace=trace) if isinstance(part, optax.TraceState) and trace is not None else part

    # Adam has a count of its own, which stays 0: it corrects for averages that start at zero.
    parts = (optax.ScaleByScheduleState, optax.TraceState)
    return jax.tree.map(continued, opt_state, is_leaf=lambda part: isinstance(part, parts))


def _steps_per_epoch(config: TrainConfig) -> int:
    """Returns the optimizer steps in an epoch, computed without loading the images."""
    count = data.train_count(config.dataset)
    images = count if config.limit_train is None else config.limit_train
    if not config.batch_size <= images <= count:
        raise InputError(
            f"limit_train is {config.limit_train} and batch_size {config.batch_size}; {config.dataset} has {count} "
            "training images, of which at least a batch must be used"
        )
    return images // config.batch_size


def _path_name(path: Any) -> str:
    """Returns the name of a leaf of a nested dict, as in ``weights.to_arrays``."""
    return ".".join(str(entry.key) for entry in path)


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[Path]:
    """Creates the folder in which the target is written, and gives the target's absolute path.

    Raises:
        InputError: If nothing can be written in the folder, or another process has written the target meanwhile.
        RunError: In place of any other OSError or RunError raised inside.
    """
    place = target.absolute()
    try:
        make_folders(place.parent)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}); name another target") from None
    try:
        yield place
    except (OSError, RunError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise InputError(f"{target} was written by another process meanwhile; name another target") from None
        raise RunError(f"{target} could not be written ({reason(cause)}); nothing is left of it") from error
