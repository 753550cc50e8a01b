"""The command line of the experiments: a config with flags, one-line errors, exit statuses.

Exit status 0: done; 1: the run failed; 2: the input cannot work, nothing was written; 130: interrupted.
"""

import contextlib
import dataclasses
import io
import os
import sys
from typing import NoReturn

import jax
import tyro

from seanet_jax.config import TrainConfig
from seanet_jax.cpu_tuning import restart_tuned
from seanet_jax.data.cache import cache_dir
from seanet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Command:
    """What a command line asks for.

    Attributes:
        config: of the run.
        tune_cpu: see ``_Flags``.
        compilation_cache: likewise.
    """

    config: TrainConfig
    tune_cpu: bool
    compilation_cache: bool


@dataclasses.dataclass(frozen=True)
class _Flags(TrainConfig):
    """The flags as parsed: checked afterwards, so that the config's own sentences reach the user unwrapped."""

    tune_cpu: bool = True
    """Where JAX has the CPU alone: restart with GLIBC_TUNABLES and XLA_FLAGS set. Faster; sums round differently."""

    compilation_cache: bool = True
    """Keep what is compiled, for faster starts, in JAX_COMPILATION_CACHE_DIR or else in ~/.cache/seanet_jax."""

    def __post_init__(self) -> None:
        pass


def main(defaults: TrainConfig, description: str) -> NoReturn:
    """Parses the flags, trains, exits.

    Args:
        defaults: what an experiment does when no flag is given.
        description: shown above the flags by --help.
    """
    try:
        command = parse(defaults, description, sys.argv[1:])
        if command.tune_cpu:
            restart_tuned()
        if command.compilation_cache:
            _keep_what_is_compiled()
        # Only now: --help and a wrong flag need not wait for the training stack.
        from seanet_jax.train import TrainingDivergedError, fit

        try:
            fit(command.config)
        except TrainingDivergedError as error:
            _exit(1, error)
    except InputError as error:
        _exit(2, error)
    except KeyboardInterrupt:
        _exit(130, "interrupted; the same command with --resume continues from the last checkpoint, if one was written")
    sys.exit(0)


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
    return Command(config, parsed.tune_cpu, parsed.compilation_cache)


def _keep_what_is_compiled() -> None:
    """Switches JAX's persistent compilation cache on, unless the user has."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
        # By default what compiles in less than a second is not kept; a start has a dozen of those.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


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


def _exit(status: int, message: object) -> NoReturn:
    print(f"error: {message}" if status != 130 else message, file=sys.stderr)
    sys.exit(status)
