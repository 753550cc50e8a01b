"""Carries a network over from the published PyTorch release, and back.

    seanet convert best_model.pth runs/published      # prints the command that trains on
    seanet convert runs/published seanet20.pth
    seanet convert runs/published weights/seanet20

A PyTorch checkpoint, or a folder of pretrained weights, becomes the folder of a run, which --resume continues. A run
becomes a folder of pretrained weights, and either becomes a PyTorch state dict where TARGET ends in .pth or .pt.

Checkpoints are the release's, {epoch, weight, optimizer_state_dict} and {epoch, state_dict, optimizer}, or a state dict
alone; of a SEANet, or of a SENet or ResNet whose layers have the same names. The architecture is found in names and
shapes. The run begins at the checkpoint's epoch with its momentum, and where there is none at step 0. No code in a file
is run. PyTorch has to be installed: pip install -e '.[convert]'.

The other flags are the recipe of the run that is written, by default the published one: --resume accepts no other.
"""

import contextlib
import dataclasses
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seanet_jax.commands.cli import command
from seanet_jax.errors import InputError, RunError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.models import PRESETS, Network, SEANet, SEANetConfig, build, from_pretrained, weights
from seanet_jax.models.pytorch import (
    PyTorchCheckpoint,
    from_state_dict,
    import_torch,
    read_pytorch,
    state_dict,
    write_pytorch,
)

# What trains is imported where it is needed: whoever reads a network need not wait for Orbax.
if TYPE_CHECKING:
    from seanet_jax.training.config import TrainConfig
    from seanet_jax.training.flags import ConversionCommand

__all__ = ["PyTorchCheckpoint", "convert", "from_state_dict", "read_pytorch", "state_dict", "write_run"]

_KEEP_IT = "in Python, read_pytorch or from_pretrained reads it, and save_pretrained keeps it"


def write_run(
    folder: Path,
    config: "TrainConfig",
    model: SEANet,
    images: ImageSpec,
    *,
    epoch: int = 0,
    momentum: Mapping[str, np.ndarray] | None = None,
) -> int:
    """Makes the folder of a run of a network that was trained elsewhere, as if it had just finished an epoch.

    Args:
        folder: new.
        config: of the run.
        model: trained; of the config's architecture.
        images: what its images and classes are.
        epoch: epochs it was trained.
        momentum: SGD's, by the path of each parameter as in ``weights.to_arrays``; None is zero.

    Returns:
        Optimiser steps done.

    Raises:
        InputError: weights or momentum are not those of the config's network, or there are too few images or too many
          epochs.
        RunError: a file could not be written.
        OSError: likewise.
    """
    import optax

    from seanet_jax.training.checkpoint import Checkpoints
    from seanet_jax.training.optimizer import optimizer
    from seanet_jax.training.run_folder import RunFolder
    from seanet_jax.training.step import create_state

    steps_per_epoch = _steps_per_epoch(config)
    step = epoch * steps_per_epoch
    if step >= 2**31:
        raise InputError(f"{epoch} epochs of {steps_per_epoch} steps are too many; steps are counted in 32 bits")
    model_config = config.model_config(len(images.class_names), in_channels=images.channels)
    network = nnx.eval_shape(lambda: build(model_config, rngs=nnx.Rngs(0)))
    weights.set_arrays(network, weights.to_arrays(model), "the model")
    state = create_state(network, optimizer(config, steps_per_epoch))
    progress: dict[str, Any] = {"count": jnp.int32(step)}
    if momentum is not None:
        parameters = {_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
        weights.demand_arrays(momentum, parameters, "the momentum")
        progress["trace"] = jax.tree_util.tree_map_with_path(
            lambda path, _: jnp.asarray(momentum[_name(path)], jnp.float32), state.params
        )
    opt_state = optax.tree_utils.tree_set(state.opt_state, **progress)
    state = state._replace(step=jnp.int32(step), opt_state=opt_state)

    folder.mkdir()
    RunFolder(folder).open(config, model_config, images, data_sha256=None, step=step, history=[])
    with Checkpoints(folder) as checkpoints:
        checkpoints.save_latest(step, state, [])
        checkpoints.save_best(step, state, [])
    return step


def convert(command: "ConversionCommand") -> None:
    """Does what the command line asks for, and says what it wrote.

    Raises:
        InputError: the source cannot be read or carried over, or the target not be written; nothing was.
        RunError: the target could not be written to its end; nothing is left of it.
    """
    source, target = command.source, command.target
    to_file = target.suffix in (".pth", ".pt")
    _demand_free(target, to_file)
    if not source.exists():
        raise InputError(f"there is no {source}; name a PyTorch checkpoint, a run or a folder of pretrained weights")
    from_file = source.is_file()
    from_run = not from_file and not weights.is_folder(source)
    to_run = not from_run and not to_file
    if from_file and to_file:
        raise InputError(f"{source} and {target} would both be PyTorch's; name a folder, which becomes that of a run")
    _demand_used(command, from_file=from_file, from_run=from_run, to_run=to_run)
    if to_run:
        _write_run(command)
    elif to_file:
        _write_file(command, from_run)
    else:
        from seanet_jax.inference import trained

        found = trained.load(source, command.which or "best")
        with _appearing(target) as folder:
            found.model.save_pretrained(folder, found.images)
        print(f"{target}: {_parameters(found.model)} parameters")


def _write_run(command: "ConversionCommand") -> None:
    from seanet_jax.data import image_spec

    source, target, images = command.source, command.target, None
    if source.is_file():
        found = read_pytorch(source, command.aggregate_op or "sum")
    else:
        found = PyTorchCheckpoint(SEANet.from_pretrained(source), epoch=None, momentum=None)
        images = weights.read_about(source).images
    dataset = _dataset(command.dataset, found.model.config, images, source)
    network = _preset(found.model.config, source)
    config = dataclasses.replace(command.recipe, dataset=dataset, out=target, **network)
    with _appearing(target) as folder:
        step = write_run(
            folder, config, found.model, image_spec(dataset), epoch=found.epoch or 0, momentum=found.momentum
        )
    named = " ".join(str(value) if field == "model" else f"{field}={value}" for field, value in network.items())
    momentum = "zero" if found.momentum is None else "the checkpoint's"
    print(f"{target}: {named} on {dataset}, {_parameters(found.model)} parameters, step {step}, momentum {momentum}")
    print(f"to train on: {_resuming(config)}")


def _write_file(command: "ConversionCommand", from_run: bool) -> None:
    import_torch()
    if from_run:
        from seanet_jax.inference.trained import load_model

        model = load_model(command.source, command.which or "best")
    else:
        model = from_pretrained(command.source)
    arrays = state_dict(model)
    with _appearing(command.target) as path:
        write_pytorch(path, arrays)
    print(f"{command.target}: {_parameters(model)} parameters")


def _resuming(config: "TrainConfig") -> str:
    """The command that continues a run."""
    from seanet_jax.training.config import TrainConfig
    from seanet_jax.training.flags import as_flags

    # Not the experiment on digits, which has a recipe of its own.
    defaults = TrainConfig(dataset="cifar10") if config.dataset == "cifar10" else TrainConfig()
    script = f"experiments/{defaults.dataset}.py"
    return shlex.join(["python", script, "--resume", *as_flags(config, defaults)])


def _demand_free(target: Path, to_file: bool) -> None:
    """Demands that nothing would be overwritten."""
    try:
        if target.is_dir() and (to_file or any(target.iterdir())):
            raise InputError(f"{target} is a folder{'' if to_file else ' and not empty'}; name another target")
        if target.is_file():
            raise InputError(f"{target} is a file already; name another target")
        parent = next(path for path in target.absolute().parents if path.exists())
        if not parent.is_dir():
            raise InputError(f"{target} cannot be written: {parent} is a file; name another target")
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}); name another target") from None


def _demand_used(command: "ConversionCommand", *, from_file: bool, from_run: bool, to_run: bool) -> None:
    """Demands that every flag can be followed."""
    from seanet_jax.training.config import TrainConfig
    from seanet_jax.training.flags import as_flags

    recipe = [flag for flag in as_flags(command.recipe, TrainConfig()) if flag.startswith("--")]
    for flags, used, purpose in (
        (["--which"] * (command.which is not None), from_run, "a run that is read"),
        (["--aggregate-op"] * (command.aggregate_op is not None), from_file, "a PyTorch checkpoint that is read"),
        ([*recipe, *["--dataset"] * (command.dataset is not None)], to_run, "a run that is written"),
    ):
        if flags and not used:
            raise InputError(f"{', '.join(flags)}: of no use but for {purpose}, and here is none; leave it out")


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes the target when all is written; if anything fails, nothing is left of it.

    Raises:
        InputError: nothing can be written there.
        RunError: instead of any OSError or RunError raised inside.
    """
    place = target.absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".convert-", dir=place.parent)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}); name another target") from None
    with scratch:
        path = Path(scratch.name) / place.name
        try:
            yield path
            path.replace(place)
        except (OSError, RunError) as error:
            from seanet_jax.training.checkpoint import reason

            why = reason(error.__cause__ or error)
            raise RunError(f"{target} could not be written ({why}); nothing is left of it") from error


def _steps_per_epoch(config: "TrainConfig") -> int:
    from seanet_jax.data import train_count

    count = train_count(config.dataset)
    images = count if config.limit_train is None else config.limit_train
    if not config.batch_size <= images <= count:
        raise InputError(
            f"limit_train is {config.limit_train} and batch_size {config.batch_size}; {config.dataset} has {count} "
            "training images, of which at least a batch must be used"
        )
    return images // config.batch_size


def _dataset(asked: str | None, config: SEANetConfig, images: ImageSpec | None, source: Path) -> str:
    """The data set that a network is for.

    Args:
        asked: by the user.
        config: of the network.
        images: what they are, if that is known.
        source: of the network, for the message.
    """
    from seanet_jax import data

    if asked is not None:
        data.get(asked)
    ours = config.num_classes, config.in_channels
    fitting = [
        name
        for name, source_of_data in data.DATASETS.items()
        if (source_of_data.image_spec.num_classes, source_of_data.image_spec.channels) == ours
        and images in (None, source_of_data.image_spec)
    ]
    if asked in fitting or (fitting and asked is None):
        return asked or fitting[0]
    like = "" if images is None else ", called and normalised as its config.json says"
    raise InputError(
        f"{source} is for {ours[0]} classes of images of {ours[1]} channels{like}, and a run for the images of "
        f"{asked or ' or '.join(data.DATASETS)}; {_KEEP_IT}"
    )


def _preset(config: SEANetConfig, source: Path) -> dict[str, Any]:
    """The fields of ``TrainConfig`` that give a network: a preset, and of those it replaces the fewest possible.

    Args:
        config: of the network.
        source: of the network, for the message.
    """
    fixed = ("stage_sizes", "widths", "stem_width", "preactivation")
    presets = {name: preset for name, preset in PRESETS.items() if isinstance(preset, SEANetConfig)}
    fitting = []
    for name, preset in presets.items():
        if any(getattr(preset, field) != getattr(config, field) for field in fixed):
            continue
        compared = ["squeeze_excite", "aggregate_placement"]
        # Reductions that leave the same hidden units are the same network.
        if config.squeeze_excite and any(w // preset.reduction != w // config.reduction for w in config.widths):
            compared.append("reduction")
        if config.aggregate_placement != "none":
            compared += ["aggregate_op", "aggregate_factor"]
        ours = {field: getattr(config, field) for field in compared}
        fitting.append(
            {"model": name, **{field: value for field, value in ours.items() if getattr(preset, field) != value}}
        )
    if not fitting:
        blocks = "pre-activated blocks" if config.preactivation else "blocks"
        raise InputError(
            f"{source} has stages of {config.stage_sizes} {blocks} of widths {config.widths} after a stem of "
            f"{config.stem_width}; a run's must be those of one of {', '.join(presets)}; {_KEEP_IT}"
        )
    return min(fitting, key=len)


def _name(path: Any) -> str:
    """Of a leaf of a nested dict, as ``weights.to_arrays`` has it."""
    return ".".join(str(entry.key) for entry in path)


def _parameters(model: Network) -> str:
    return f"{sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))):,}"


def run() -> None:
    """Reads the flags and converts."""
    from seanet_jax.training.flags import parse_conversion

    convert(parse_conversion(str(__doc__), sys.argv[1:]))


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
