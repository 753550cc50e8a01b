"""The flags of the experiments: every field of ``TrainConfig``, and what concerns the process alone."""

import contextlib
import dataclasses
import io

import tyro

from seanet_jax.config import TrainConfig
from seanet_jax.errors import InputError
from seanet_jax.processes import ProcessGroup


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
class _Flags(TrainConfig):
    """The flags as parsed: checked afterwards, so that the config's own sentences reach the user unwrapped."""

    tune_cpu: bool = True
    """Where JAX has the CPU alone: restart with malloc tuned, and tune XLA. Faster; sums round differently."""

    compilation_cache: bool = True
    """Keep what is compiled, for faster starts, in JAX_COMPILATION_CACHE_DIR or else in ~/.cache/seanet_jax."""

    distributed: bool = False
    """Train together with the other processes of this Slurm, Open MPI, Kubernetes or TPU job, as JAX detects them."""

    coordinator: str | None = None
    """Train together with other processes, started by hand: host:port at which process 0 listens."""

    num_processes: int | None = None
    """How many there are."""

    process_id: int | None = None
    """Which of them this is, from 0."""

    def __post_init__(self) -> None:
        pass


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
    given = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(_Flags, default=_Flags(**given), description=description, args=arguments)
    except SystemExit as error:
        if error.code == 0:
            raise
        raise InputError(_in_one_line(complaint.getvalue())) from None
    config = TrainConfig(**{name: getattr(parsed, name) for name in given})
    explicit = (parsed.coordinator, parsed.num_processes, parsed.process_id)
    together = parsed.distributed or explicit != (None, None, None)
    return Command(
        config, parsed.tune_cpu, parsed.compilation_cache, processes=ProcessGroup(*explicit) if together else None
    )


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
