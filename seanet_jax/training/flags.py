"""The command-line flags of training, of studies and of the conversion, read by tyro.

Every field of ``TrainConfig`` is a flag of training. A study adds networks, seeds and learning rates; the conversion
has the fields of ``Recipe`` alone. The fields' docstrings are the text of --help.
"""

import argparse
import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from seanet_jax.data import DATASETS
from seanet_jax.errors import InputError
from seanet_jax.layers.functional import AggregateOp
from seanet_jax.paths import user_path
from seanet_jax.training.config import TrainConfig, published_recipe
from seanet_jax.training.processes import ProcessGroup
from seanet_jax.training.recipe import Recipe
from seanet_jax.training.recipe_presets import RECIPES, recipe
from seanet_jax.training.run_folder import RunFolder

_FlagsT = TypeVar("_FlagsT", bound=Recipe)

# What --help shows for flags that accept any text: a plugin's data set can be named, and a wrong recipe is refused in
# the words of ``recipe``.
_METAVARS = {"dataset": f"{{{','.join(DATASETS)}}}", "recipe": f"{{{','.join(RECIPES)}}}"}

# Other names of flags.
_ALIASES = {"learning_rate": "--lr", "learning_rates": "--lr", "weight_decay": "--wd"}

# The groups of flags in --help: what each is about, and the fields in it. What is in none comes first.
_GROUPS = {
    "data": (
        "The images, and how many of them are used.",
        "dataset data_dir image_size test_fraction validation_fraction limit_train limit_test skip_broken",
    ),
    "network": (
        "The preset, and what is changed of it.",
        "model models squeeze_excite reduction aggregate_placement aggregate_op aggregate_factor aggregate_stages "
        "aggregate_norm aggregate_seed",
    ),
    "recipe": (
        "How the network is trained.",
        "recipe epochs batch_size optimizer learning_rate learning_rates extend_rates schedule warmup_epochs "
        "decay_every decay_at decay_factor momentum nesterov weight_decay decoupled_decay decay_vectors clip_norm "
        "sam_rho label_smoothing class_weights augment padding mirror cutout erasing trivial_augment mixup cutmix "
        "ema_decay seed seeds batch_statistics",
    ),
    "run": (
        "Where the run is, how far it goes, and how often it tells, evaluates and saves.",
        "out resume max_steps patience log_every eval_every eval_batch_size checkpoint_every checkpoint_steps on_nan",
    ),
    "devices": (
        "What computes, and how.",
        "require_gpu dtype conv_method steps_per_call deterministic tune_cpu compilation_cache distributed coordinator "
        "num_processes process_id",
    ),
}


def _one_folder_or_none(values: list[str]) -> Path | bool:
    """Reads the values of --resume: True if there are none."""
    if len(values) > 1:
        raise ValueError("--resume takes one folder at most")
    return Path(values[0]) if values else True


_FOLDER_TO_RESUME = PrimitiveConstructorSpec[Path | bool](
    nargs="*",
    metavar="[FOLDER]",
    instance_from_str=_one_folder_or_none,
    is_instance=lambda value: isinstance(value, Path | bool),
    str_from_instance=lambda value: [str(value)],
)


@dataclasses.dataclass(frozen=True)
class Command:
    """What the command line of a training run asks for.

    Attributes:
        config: Configuration of the run.
        tune_cpu: Whether to tune malloc and XLA, if the CPU is the only device.
        compilation_cache: Whether to keep compiled programs on disk.
        deterministic: Whether GPUs use deterministic operations only.
        processes: How to find the other processes of the run, or None if there is one process.
    """

    config: TrainConfig
    tune_cpu: bool
    compilation_cache: bool
    deterministic: bool
    processes: ProcessGroup | None


@dataclasses.dataclass(frozen=True)
class StudyCommand:
    """What the command line of a study asks for.

    Attributes:
        config: Configuration shared by all runs. ``out``, if given, is the folder of the study.
        models: The presets to train. Each maps to the fields in which its own published recipe differs from ``config``.
        seeds: Number of runs of each network.
        learning_rates: Initial learning rates to choose from.
        tune_cpu: Whether to tune malloc and XLA, if the CPU is the only device.
        compilation_cache: Whether to keep compiled programs on disk.
        extend_rates: Largest number of learning rates to try beyond those given.
        command_line: The command line, which the runs record.
    """

    config: TrainConfig
    models: Mapping[str, Mapping[str, Any]]
    seeds: int
    learning_rates: tuple[float, ...]
    tune_cpu: bool
    compilation_cache: bool
    extend_rates: int = 0
    command_line: str = ""


@dataclasses.dataclass(frozen=True)
class ConversionCommand:
    """What the command line of ``seanet_jax.commands.convert`` asks for.

    Attributes:
        source: The network to read.
        target: The file or folder to write.
        which: Network to read from a run; None reads the best.
        dataset: Data set of the run to write; None finds it from the number of classes.
        aggregate_op: Aggregation of a PyTorch checkpoint; None is the published one, sum.
        recipe: Configuration of the run to write. Its data set and its network are not known yet.
    """

    source: Path
    target: Path
    which: Literal["best", "latest", "ema"] | None
    dataset: str | None
    aggregate_op: AggregateOp | None
    recipe: TrainConfig


@dataclasses.dataclass(frozen=True)
class _ProcessFlags(TrainConfig):
    recipe: str | None = None
    """Recipe that sets the defaults of the other flags; None is the one that the network was published with."""

    tune_cpu: bool = True
    """If JAX has only the CPU: restart with a tuned malloc and tune XLA. Faster; sums round differently."""

    compilation_cache: bool = True
    """Keep compiled programs in JAX_COMPILATION_CACHE_DIR, or else in ~/.cache/seanet_jax, for faster starts."""

    def __post_init__(self) -> None:
        """Skips the checks: tyro would wrap their messages. ``_read`` makes a checked config of the flags."""


@dataclasses.dataclass(frozen=True)
class _Flags(_ProcessFlags):
    resume: Annotated[Any, _FOLDER_TO_RESUME] = False
    """Continue a run from its latest checkpoint: the run in FOLDER, whose settings are saved there, so that no other
    flag is needed. Without FOLDER, the run in --out, with the flags that it was started with."""

    deterministic: bool = False
    """On a GPU, use deterministic operations alone and choose them without timing them. Slower."""

    distributed: bool = False
    """Train together with the other processes of this Slurm, Open MPI, Kubernetes or TPU job, which JAX detects."""

    coordinator: str | None = None
    """Train together with processes that are started by hand: host:port at which process 0 listens."""

    num_processes: int | None = None
    """Number of processes that are started by hand."""

    process_id: int | None = None
    """Index of this process, from 0, if the processes are started by hand."""


@dataclasses.dataclass(frozen=True)
class _StudyFlags(_ProcessFlags):
    models: tuple[str, ...] = ()
    """Presets to train."""

    seeds: int = 3
    """Number of runs of each network, with the seeds 0, 1, ..."""

    learning_rates: tuple[float, ...] = ()
    """Initial learning rates. If there are several, each network gets its best on the validation images."""

    extend_rates: int = 0
    """If a network's best rate is the smallest or the largest: how many rates beyond it to try at most."""

    out: Path | None = None
    """Folder of the study; None: the study's default folder."""

    # The study sets these for each of its runs, or they would end its runs early.
    model: tyro.conf.Fixed[str] = "seanet20"
    learning_rate: tyro.conf.Fixed[float] = 0.1
    seed: tyro.conf.Fixed[int] = 0
    max_steps: tyro.conf.Fixed[int | None] = None
    resume: tyro.conf.Fixed[bool] = False


@dataclasses.dataclass(frozen=True)
class _ConversionFlags(Recipe):
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")] = tyro.MISSING
    """Network to read: a PyTorch checkpoint, the folder of a run, or a folder of pretrained weights."""

    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TARGET")] = tyro.MISSING
    """Where to write: a name that ends in .pth or .pt becomes a PyTorch state dict, any other name a folder."""

    which: Literal["best", "latest", "ema"] | None = None
    """Network of a run: of the best epoch, of the latest checkpoint, or its moving average (ema); None: the best."""

    dataset: str | None = None
    """Data set on which the new run continues; None is the CIFAR data set with the network's number of classes."""

    aggregate_op: AggregateOp | None = None
    """Aggregation of the network, which a PyTorch checkpoint does not say; None is sum, as published."""


def parse(
    defaults: TrainConfig,
    description: str,
    arguments: list[str],
    switches: Callable[[Mapping[str, str]], Mapping[str, bool]] = lambda environment: {},
) -> Command:
    """Reads the flags of a training run.

    Args:
        defaults: Values of the flags that are not given. If --resume names a folder, those of the run in it take their
            place. So does the recipe that --recipe names or, without these flags, the one of the network that --model
            names, if it was published with another recipe.
        description: Text that --help shows above the flags.
        arguments: Command line without the program's name.
        switches: Function that returns the flags beside the run's configuration with which a saved run was started,
            as its environment tells; see ``seanet_jax.environment.rounding``.

    Raises:
        InputError: If a flag is unknown or its value cannot work, or the folder to resume holds no run.
        SystemExit: After --help, with status 0.
    """
    name, folder = _named(arguments, "--recipe"), _named(arguments, "--resume")
    own = {} if name is None else recipe(name)
    if folder is not None:
        own = _saved(user_path(folder, name="--resume"), switches) | own
    elif name is None:
        own = published_recipe(_named(arguments, "--model") or defaults.model)
    config, parsed = _read(_Flags(**(_fields(defaults) | own)), description, arguments)
    if folder is not None and config.out != own["out"]:
        raise InputError(f"--out is {config.out}, but --resume names {own['out']}; leave --out out")
    explicit = (parsed.coordinator, parsed.num_processes, parsed.process_id)
    together = parsed.distributed or explicit != (None, None, None)
    return Command(
        config,
        parsed.tune_cpu,
        parsed.compilation_cache,
        parsed.deterministic,
        processes=ProcessGroup(*explicit) if together else None,
    )


def _saved(folder: Path, switches: Callable[[Mapping[str, str]], Mapping[str, bool]]) -> dict[str, Any]:
    """Returns the flags with which the run in a folder goes on."""
    run = RunFolder(folder)
    if run.was_started() and not run.has_begun():
        raise InputError(
            f"--resume: {folder} is of a run that was stopped before it began; "
            "repeat the command that started it, with --resume at its end"
        )
    environment = run.read().environment
    return {
        **_fields(run.read_config()),
        **({} if environment is None else switches(environment)),
        "out": folder,
        "resume": True,
    }


def parse_study(
    defaults: TrainConfig,
    models: tuple[str, ...],
    learning_rates: tuple[float, ...],
    description: str,
    arguments: list[str],
) -> StudyCommand:
    """Reads the flags of a study.

    Args:
        defaults: Values of the flags that are not given. The recipe that --recipe names takes their place. Without
            that flag, a network that was published with another recipe gets that recipe instead.
        models: Presets to train if no flag names any.
        learning_rates: Initial learning rates to choose from if no flag gives any.
        description: Text that --help shows above the flags.
        arguments: Command line without the program's name.

    Raises:
        InputError: If a flag is unknown or its value cannot work.
        SystemExit: After --help, with status 0.
    """
    name = _named(arguments, "--recipe")
    shared = {} if name is None else recipe(name)
    if name is not None:
        learning_rates = (shared["learning_rate"],)
    flags = _StudyFlags(**(_fields(defaults) | shared), models=models, learning_rates=learning_rates)
    config, parsed = _read(flags, description, arguments)
    own = (
        {}
        if name is not None
        else {model: _own_fields(model, flags, parsed, description, arguments) for model in parsed.models}
    )
    return StudyCommand(
        config,
        {model: own.get(model, {}) for model in parsed.models},
        parsed.seeds,
        parsed.learning_rates,
        parsed.tune_cpu,
        parsed.compilation_cache,
        parsed.extend_rates,
    )


def _own_fields(
    model: str, flags: _StudyFlags, shared: _StudyFlags, description: str, arguments: list[str]
) -> dict[str, Any]:
    """Returns the fields in which a network's published recipe differs from the study's. Flags override both."""
    published = published_recipe(model)
    if not published:
        return {}
    # A study has a list of learning rates in place of one.
    rate = published.pop("learning_rate", None)
    rates = flags.learning_rates if rate is None else (rate,)
    try:
        _, parsed = _read(dataclasses.replace(flags, **published, learning_rates=rates), description, arguments)
    except InputError as error:
        raise InputError(f"{model}, by its published recipe: {error}") from None
    own = {name: value for name in published if (value := getattr(parsed, name)) != getattr(shared, name)}
    return own if parsed.learning_rates == shared.learning_rates else {"learning_rate": rate, **own}


def parse_conversion(description: str, arguments: list[str]) -> ConversionCommand:
    """Reads the flags of ``seanet_jax.commands.convert``.

    Args:
        description: Text that --help shows above the flags.
        arguments: Command line without the program's name.

    Raises:
        InputError: If a flag is unknown or its value cannot work.
        SystemExit: After --help, with status 0.
    """
    recipe, parsed = _read(_ConversionFlags(), description, arguments, of=Recipe)
    return ConversionCommand(parsed.source, parsed.target, parsed.which, parsed.dataset, parsed.aggregate_op, recipe)


def as_flags(config: TrainConfig, defaults: TrainConfig) -> list[str]:
    """Returns the arguments for which ``parse`` returns a config.

    Args:
        config: The config to return.
        defaults: Values of the flags that are not given.
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


def _named(arguments: list[str], flag: str) -> str | None:
    """Returns the value of a flag that decides the defaults of others, and so is read before all of them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="name", nargs="?")
    found, _ = parser.parse_known_args(arguments)
    return found.name


def _fields(config: Recipe, of: type[Recipe] = TrainConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(of)}


def _read(
    default: _FlagsT, description: str, arguments: list[str], of: type[Recipe] = TrainConfig
) -> tuple[TrainConfig, _FlagsT]:
    """Parses the arguments.

    Args:
        default: Values of the flags that are not given.
        description: Text that --help shows above the flags.
        arguments: Command line without the program's name.
        of: Class whose fields are taken from the flags into the config. The config's other fields keep their defaults.

    Returns:
        The checked config, and all flags.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            found: Any = tyro.cli(
                _grouped(default), description=description, args=arguments, config=(tyro.conf.SuppressFixed,)
            )
    except SystemExit as error:
        if error.code == 0:
            raise
        raise InputError(_in_one_line(complaint.getvalue())) from None
    flat: dict[str, Any] = {}
    for name, value in vars(found).items():
        flat |= vars(value) if name in _GROUPS else {name: value}
    parsed = dataclasses.replace(default, **flat)
    fields = _fields(parsed, of)
    if "resume" in fields:
        fields["resume"] = bool(fields["resume"])  # it may be a folder
    return TrainConfig(**fields), parsed


def _grouped(default: Recipe) -> type:
    """Returns a class for tyro, with the fields of another in a class for each group, and others as they are.

    Args:
        default: An instance of the other class. Its values are the defaults of the flags.
    """
    hints, texts = get_type_hints(type(default), include_extras=True), _descriptions(type(default))
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(default):
        name = field.name
        alias = (_ALIASES[name],) if name in _ALIASES else None
        about = tyro.conf.arg(help=texts[name], metavar=_METAVARS.get(name), aliases=alias)
        hint = hints[name]
        if name not in ("source", "target"):  # these have a name of their own in --help
            hint = Annotated[hint, about]
        fields[name] = (name, hint, getattr(default, name))
    without_prefix: Any = tyro.conf.OmitArgPrefixes
    groups = []
    for group, (text, names) in _GROUPS.items():
        if own := [fields.pop(name) for name in names.split() if name in fields]:
            inner = dataclasses.make_dataclass(group, own, namespace={"__doc__": text}, frozen=True)
            groups.append((group, without_prefix[inner], dataclasses.field(default_factory=inner)))
    return dataclasses.make_dataclass("Flags", [*fields.values(), *groups], frozen=True)


def _descriptions(of: type) -> dict[str, str]:
    """Returns the docstrings of the fields of a dataclass, in one line each."""
    found = {}
    for base in reversed(of.__mro__[:-1]):
        (tree,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in itertools.pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _in_one_line(box: str) -> str:
    """Returns the message in a box that tyro draws, with the flags that tyro suggests.

    The message is the lines between the box's title and its first rule or empty line. Below it, tyro describes the
    flags that are similar to unknown ones.
    """
    lines = [line.strip().strip("│").strip() for line in box.splitlines()[1:]]
    message: list[str] = []
    for line in lines:
        if not line or line[0] in "─╰":
            break
        message.append(line)
    text = " ".join(message) or " ".join(box.split())
    named = [re.findall(r"--[\w-]+", line) for line in lines[len(message) :] if re.match("--(?!help)", line)]
    similar = [next(flag for flag in flags if flag not in _ALIASES.values()) for flags in named]
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    return f"{text.rstrip('.')}; {hint}--help lists the flags"
