"""The flags of the experiments: every field of ``TrainConfig``, and what concerns the process alone."""

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any, TypeVar

import tyro

from seanet_jax.config import TrainConfig
from seanet_jax.errors import InputError
from seanet_jax.processes import ProcessGroup

_FlagsT = TypeVar("_FlagsT", bound="_ProcessFlags")


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
        models: names of presets.
        seeds: how many.
        learning_rates: to choose from.
        tune_cpu: see ``_Flags``.
        compilation_cache: likewise.
    """

    config: TrainConfig
    models: tuple[str, ...]
    seeds: int
    learning_rates: tuple[float, ...]
    tune_cpu: bool
    compilation_cache: bool


@dataclasses.dataclass(frozen=True)
class _ProcessFlags(TrainConfig):
    """The flags as parsed: checked afterwards, so that the config's own sentences reach the user unwrapped."""

    tune_cpu: bool = True
    """Where JAX has the CPU alone: restart with malloc tuned, and tune XLA. Faster; sums round differently."""

    compilation_cache: bool = True
    """Keep what is compiled, for faster starts, in JAX_COMPILATION_CACHE_DIR or else in ~/.cache/seanet_jax."""

    def __post_init__(self) -> None:
        pass


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


def parse(defaults: TrainConfig, description: str, arguments: list[str]) -> Command:
    """Reads the flags.

    Args:
        defaults: values of flags not given.
        description: shown above the flags by --help.
        arguments: without the program's name.

    Raises:
        InputError: a flag is unknown or its value cannot work.
        SystemExit: with status 0, after --help.
    """
    config, parsed = _read(_Flags(**_fields(defaults)), description, arguments)
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
        defaults: values of flags not given.
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
        parsed.models,
        parsed.seeds,
        parsed.learning_rates,
        parsed.tune_cpu,
        parsed.compilation_cache,
    )


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
