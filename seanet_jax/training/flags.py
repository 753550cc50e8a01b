"""The flags of the experiments: every field of ``TrainConfig``, and what concerns the process alone.

Those of ``seanet_jax.commands.convert`` are the fields that make a recipe.
"""

import argparse
import contextlib
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from seanet_jax.data import DATASETS
from seanet_jax.errors import InputError
from seanet_jax.layers.functional import AggregateOp
from seanet_jax.models.seanet import AggregatePlacement
from seanet_jax.training.config import BatchStatistics, OptimizerName, TrainConfig, published_recipe
from seanet_jax.training.processes import ProcessGroup

_FlagsT = TypeVar("_FlagsT", bound="_UncheckedFlags")


@dataclasses.dataclass(frozen=True)
class Command:
    """What a command line asks for.

    Attributes:
        config: of the run.
        tune_cpu: see ``_Flags``.
        compilation_cache: likewise.
        processes: how this one finds the others; None if it is alone.
    """

    config: TrainConfig
    tune_cpu: bool
    compilation_cache: bool
    processes: ProcessGroup | None


@dataclasses.dataclass(frozen=True)
class StudyCommand:
    """What the command line of a study asks for.

    Attributes:
        config: what its runs share; ``out``, where it is given, is the study's folder.
        models: names of presets, each with the fields of the config that are its own where no flag says otherwise.
        seeds: how many.
        learning_rates: to choose from.
        tune_cpu: see ``_Flags``.
        compilation_cache: likewise.
    """

    config: TrainConfig
    models: Mapping[str, Mapping[str, Any]]
    seeds: int
    learning_rates: tuple[float, ...]
    tune_cpu: bool
    compilation_cache: bool


@dataclasses.dataclass(frozen=True)
class ConversionCommand:
    """What the command line of ``seanet_jax.commands.convert`` asks for.

    Attributes:
        source: of the network.
        target: to be written.
        which: see ``_ConversionFlags``.
        dataset: see ``_ConversionFlags.of_dataset``.
        aggregate_op: see ``_ConversionFlags.of_aggregate_op``.
        recipe: of the run to be written; its data set and network are yet to be found.
    """

    source: Path
    target: Path
    which: Literal["best", "latest"] | None
    dataset: str | None
    aggregate_op: AggregateOp | None
    recipe: TrainConfig


@dataclasses.dataclass(frozen=True)
class _UncheckedFlags(TrainConfig):
    """The flags as parsed: checked afterwards, so that the config's own sentences reach the user unwrapped."""

    # The config accepts any text, so that a plugin's data set can be named; --help lists the known ones.
    dataset: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(DATASETS)}}}")] = "cifar100"

    def __post_init__(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class _ProcessFlags(_UncheckedFlags):
    tune_cpu: bool = True
    """Where JAX has the CPU alone: restart with malloc tuned, and tune XLA. Faster; sums round differently."""

    compilation_cache: bool = True
    """Keep what is compiled, for faster starts, in JAX_COMPILATION_CACHE_DIR or else in ~/.cache/seanet_jax."""


@dataclasses.dataclass(frozen=True)
class _Flags(_ProcessFlags):
    distributed: bool = False
    """Train together with the other processes of this Slurm, Open MPI, Kubernetes or TPU job, as JAX detects them."""

    coordinator: str | None = None
    """Train together with other processes, started by hand: host:port at which process 0 listens."""

    num_processes: int | None = None
    """How many there are."""

    process_id: int | None = None
    """Which of them this is, from 0."""


@dataclasses.dataclass(frozen=True)
class _StudyFlags(_ProcessFlags):
    models: tuple[str, ...] = ()
    """Names of presets."""

    seeds: int = 3
    """Runs of each network, from the seeds 0, 1, ..."""

    learning_rates: tuple[float, ...] = ()
    """Initial rates; of several, each network gets the one that is best on held-out images, see validation-fraction."""

    out: Path | None = None
    """Folder of the study."""

    # The study sets these, or they would make its runs end early.
    model: tyro.conf.Fixed[str] = "seanet20"
    learning_rate: tyro.conf.Fixed[float] = 0.1
    seed: tyro.conf.Fixed[int] = 0
    max_steps: tyro.conf.Fixed[int | None] = None
    resume: tyro.conf.Fixed[bool] = False


@dataclasses.dataclass(frozen=True)
class _ConversionFlags(_UncheckedFlags):
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")] = tyro.MISSING
    """A PyTorch checkpoint, the folder of a run, or a folder of pretrained weights."""

    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TARGET")] = tyro.MISSING
    """To be written: a name that ends in .pth or .pt becomes a PyTorch state dict, any other a folder."""

    which: Literal["best", "latest"] | None = None
    """Checkpoint of a run to be read; None is the best."""

    of_dataset: Annotated[str | None, tyro.conf.arg(name="dataset", metavar=f"{{{','.join(DATASETS)}}}")] = None
    """Images that the run goes on with; None is the CIFAR that has the network's number of classes."""

    of_aggregate_op: Annotated[AggregateOp | None, tyro.conf.arg(name="aggregate-op")] = None
    """How a group of channels becomes one, which a PyTorch checkpoint does not say; None is sum, as published."""

    # A checkpoint's momentum is SGD's.
    optimizer: tyro.conf.Fixed[OptimizerName] = "sgd"
    # Found in the source.
    dataset: tyro.conf.Fixed[str] = "cifar100"
    model: tyro.conf.Fixed[str] = "seanet20"
    squeeze_excite: tyro.conf.Fixed[bool | None] = None
    reduction: tyro.conf.Fixed[int | None] = None
    aggregate_placement: tyro.conf.Fixed[Literal["preset"] | AggregatePlacement] = "preset"
    aggregate_op: tyro.conf.Fixed[Literal["preset"] | AggregateOp] = "preset"
    aggregate_factor: tyro.conf.Fixed[int | None] = None
    # The network has seen all training images and knows of no devices.
    validation_fraction: tyro.conf.Fixed[float] = 0.0
    batch_statistics: tyro.conf.Fixed[BatchStatistics] = "global"
    # What --resume may be told anew, or tells itself.
    max_steps: tyro.conf.Fixed[int | None] = None
    eval_batch_size: tyro.conf.Fixed[int] = 250
    data_dir: tyro.conf.Fixed[Path | None] = None
    out: tyro.conf.Fixed[Path | None] = None
    resume: tyro.conf.Fixed[bool] = False
    require_gpu: tyro.conf.Fixed[bool] = False
    log_every: tyro.conf.Fixed[int] = 50
    checkpoint_every: tyro.conf.Fixed[int] = 1
    checkpoint_steps: tyro.conf.Fixed[int | None] = None
    on_nan: tyro.conf.Fixed[Literal["stop", "continue"]] = "stop"


def parse(defaults: TrainConfig, description: str, arguments: list[str]) -> Command:
    """Reads the flags.

    Args:
        defaults: values of flags not given, unless the network that is named was published with another recipe: then
            that is the default.
        description: shown above the flags by --help.
        arguments: without the program's name.

    Raises:
        InputError: a flag is unknown or its value cannot work.
        SystemExit: with status 0, after --help.
    """
    own = published_recipe(_named_model(arguments, defaults.model))
    config, parsed = _read(_Flags(**(_fields(defaults) | own)), description, arguments)
    explicit = (parsed.coordinator, parsed.num_processes, parsed.process_id)
    together = parsed.distributed or explicit != (None, None, None)
    return Command(
        config, parsed.tune_cpu, parsed.compilation_cache, processes=ProcessGroup(*explicit) if together else None
    )


def parse_study(
    defaults: TrainConfig,
    models: tuple[str, ...],
    learning_rates: tuple[float, ...],
    description: str,
    arguments: list[str],
) -> StudyCommand:
    """Reads the flags of a study.

    Args:
        defaults: values of flags not given. A network that was published with another recipe has its own instead.
        models: where none are named.
        learning_rates: likewise.
        description: shown above the flags by --help.
        arguments: without the program's name.

    Raises:
        InputError: a flag is unknown or its value cannot work.
        SystemExit: with status 0, after --help.
    """
    flags = _StudyFlags(**_fields(defaults), models=models, learning_rates=learning_rates)
    config, parsed = _read(flags, description, arguments)
    return StudyCommand(
        config,
        {model: _own_fields(model, flags, parsed, description, arguments) for model in parsed.models},
        parsed.seeds,
        parsed.learning_rates,
        parsed.tune_cpu,
        parsed.compilation_cache,
    )


def _own_fields(
    model: str, flags: _StudyFlags, shared: _StudyFlags, description: str, arguments: list[str]
) -> dict[str, Any]:
    """In what a network's recipe differs from that of the study, if all that no flag says is as it was published."""
    recipe = published_recipe(model)
    if not recipe:
        return {}
    # The rates of a study are several.
    rate = recipe.pop("learning_rate")
    try:
        _, parsed = _read(dataclasses.replace(flags, **recipe, learning_rates=(rate,)), description, arguments)
    except InputError as error:
        raise InputError(f"{model}, by the recipe of its own: {error}") from None
    own = {name: value for name in recipe if (value := getattr(parsed, name)) != getattr(shared, name)}
    return own if parsed.learning_rates == shared.learning_rates else {"learning_rate": rate, **own}


def parse_conversion(description: str, arguments: list[str]) -> ConversionCommand:
    """Reads the flags of ``seanet_jax.commands.convert``.

    Args:
        description: shown above the flags by --help.
        arguments: without the program's name.

    Raises:
        InputError: a flag is unknown or its value cannot work.
        SystemExit: with status 0, after --help.
    """
    flags = _ConversionFlags(**_fields(TrainConfig()))
    recipe, parsed = _read(flags, description, arguments)
    return ConversionCommand(
        parsed.source, parsed.target, parsed.which, parsed.of_dataset, parsed.of_aggregate_op, recipe
    )


def as_flags(config: TrainConfig, defaults: TrainConfig) -> list[str]:
    """The arguments that make ``parse`` give this config.

    Args:
        config: what they are to give.
        defaults: values of flags not given.
    """
    flags = []
    for name, value in _fields(config).items():
        default, flag = getattr(defaults, name), name.replace("_", "-")
        if value == default:
            continue
        if isinstance(default, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(default, tuple):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def _named_model(arguments: list[str], default: str) -> str:
    """The value of --model, before anything else is known of the arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", nargs="?")
    found, _ = parser.parse_known_args(arguments)
    return found.model or default


def _fields(config: TrainConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)}


def _read(default: _FlagsT, description: str, arguments: list[str]) -> tuple[TrainConfig, _FlagsT]:
    """The config that the flags make, and the flags."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(
                type(default),
                default=default,
                description=description,
                args=arguments,
                config=(tyro.conf.SuppressFixed,),
            )
    except SystemExit as error:
        if error.code == 0:
            raise
        raise InputError(_in_one_line(complaint.getvalue())) from None
    return TrainConfig(**_fields(parsed)), parsed


def _in_one_line(box: str) -> str:
    """The message inside tyro's box: the lines between its title and its first rule or gap."""
    lines = [line.strip().strip("│").strip() for line in box.splitlines()[1:]]
    message: list[str] = []
    for line in lines:
        if not line or line[0] in "─╰":
            break
        message.append(line)
    text = " ".join(message) or " ".join(box.split())
    return f"{text.rstrip('.')}; --help lists the flags"
