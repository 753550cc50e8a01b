"""Convert a network from the published PyTorch release into a run, and back.

    seanet convert best_model.pth runs/published      # prints the commands that evaluate it and resume training
    seanet convert runs/published seanet20.pth
    seanet convert runs/published weights/seanet20

A PyTorch checkpoint or a folder of pretrained weights becomes the folder of a run, which seanet evaluate measures and
seanet train --resume continues. A run becomes a folder of pretrained weights. If TARGET ends in .pth or .pt, a run or a
folder of pretrained weights becomes a PyTorch state dict.

A checkpoint is a file of the release, {epoch, weight, optimizer_state_dict} or {epoch, state_dict, optimizer}, another
file with one state dict in it, or a state dict alone. Its network is a SEANet, or a SENet or ResNet whose layers have
the same names, but not a pre-activation network; the architecture is inferred from names and shapes. The run begins
at the checkpoint's epoch, or at step 0 if there is none. It continues with the checkpoint's momentum if --optimizer is
sgd; another optimizer starts anew. With --ema-decay, the moving average starts as the network. Files are read as data,
and no code in them runs. PyTorch files need PyTorch, which the extra "convert" installs.

The other flags are the recipe of the run that is written, by default the published recipe. Resuming the run accepts no
other recipe.

Writes TARGET whole or not at all. Exit status: 0 if it was written, 1 if writing failed, 2 if an argument or the source
is wrong.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from seanet_jax.commands.cli import command
from seanet_jax.console import print_result
from seanet_jax.errors import InputError
from seanet_jax.paths import exists, is_file, is_folder, reading, user_path

if TYPE_CHECKING:
    from seanet_jax.inference.conversion import ConvertedRun
    from seanet_jax.models import Network
    from seanet_jax.training.flags import ConversionCommand


def run() -> None:
    """Reads the flags and converts."""
    from seanet_jax.training.flags import parse_conversion

    convert(parse_conversion(str(__doc__), sys.argv[1:]))


def convert(command: "ConversionCommand") -> None:
    """Carries out a conversion and prints what was written.

    Args:
        command: The parsed command line.

    Raises:
        InputError: If the source cannot be read or converted, or the target cannot be written. Nothing was written.
        RunError: If the target could not be written completely. Nothing is left of it.
    """
    # Imported late, so that --help and a wrong flag need not wait for the training stack.
    from seanet_jax.environment import start_devices
    from seanet_jax.inference import conversion
    from seanet_jax.models import weights
    from seanet_jax.models.bundled import find_folder, list_bundled

    source, target, which = user_path(command.source), user_path(command.target), command.which or "best"
    to_file = target.suffix in (".pth", ".pt")
    _check_target(target, to_file)
    if not exists(source) and str(source) in list_bundled():
        source = find_folder(source)
    if not exists(source):
        raise InputError(f"there is no {source}; name a PyTorch checkpoint, a run or a folder of pretrained weights")
    from_file = is_file(source)
    from_run = not from_file and not weights.is_folder(source)
    to_run = not from_run and not to_file
    if from_file and to_file:
        raise InputError(f"{source} and {target} would both be PyTorch's; name a folder, which becomes that of a run")
    _check_flags(command, from_file=from_file, from_run=from_run, to_run=to_run)
    start_devices()
    if to_run:
        operation = command.aggregate_op or "sum"
        converted = conversion.convert_to_run(
            source, target, command.recipe, dataset=command.dataset, aggregate_op=operation
        )
        print_result(_describe(converted))
        print_result(f"to evaluate: {shlex.join(['seanet', 'evaluate', str(target)])}")
        print_result(f"to resume training: {shlex.join(['seanet', 'train', '--resume', str(target)])}")
        return
    write = conversion.convert_to_pytorch if to_file else conversion.convert_to_weights
    print_result(f"{target}: {_count_parameters(write(source, target, which))} parameters")


def _check_target(target: Path, to_file: bool) -> None:
    """Raises an InputError if the target would overwrite something or cannot be created."""
    with reading(target):
        if is_folder(target) and (to_file or any(target.iterdir())):
            raise InputError(f"{target} is a folder{'' if to_file else ' and not empty'}; name another target")
    if is_file(target):
        raise InputError(f"{target} is a file already; name another target")
    parent = next(path for path in target.absolute().parents if exists(path))
    if not is_folder(parent):
        raise InputError(f"{target} cannot be written: {parent} is a file; name another target")


def _check_flags(command: "ConversionCommand", *, from_file: bool, from_run: bool, to_run: bool) -> None:
    """Raises an InputError if a flag was given that has no effect on this conversion."""
    from seanet_jax.training.config import TrainConfig
    from seanet_jax.training.flags import as_flags

    recipe = [flag for flag in as_flags(command.recipe, TrainConfig()) if flag.startswith("--")]
    for flags, used, purpose in (
        (["--which"] * (command.which is not None), from_run, "the source is a run"),
        (["--aggregate-op"] * (command.aggregate_op is not None), from_file, "the source is a PyTorch checkpoint"),
        ([*recipe, *["--dataset"] * (command.dataset is not None)], to_run, "the target is a run"),
    ):
        if flags and not used:
            raise InputError(f"{', '.join(flags)}: has an effect only if {purpose}; leave it out")


def _describe(converted: "ConvertedRun") -> str:
    network = " ".join(
        str(value) if field == "model" else f"{field}={value}" for field, value in converted.network_fields.items()
    )
    momentum = "momentum the checkpoint's" if converted.has_momentum else "momentum zero"
    if converted.config.optimizer != "sgd":
        momentum = f"{converted.config.optimizer} starts anew"
    return (
        f"{converted.config.out}: {network} on {converted.config.dataset}, {_count_parameters(converted.model)} "
        f"parameters, step {converted.step}, {momentum}"
    )


def _count_parameters(model: "Network") -> str:
    import jax
    from flax import nnx

    return f"{sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))):,}"


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
