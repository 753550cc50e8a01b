"""The command line of the experiments: a config with flags, one-line errors, exit statuses.

Exit status 0: done; 1: the run failed; 2: the input cannot work, nothing was written; 130: interrupted.
"""

import contextlib
import dataclasses
import io
import sys
from typing import NoReturn

import tyro

from seanet_jax.config import TrainConfig
from seanet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class _Unchecked(TrainConfig):
    """The flags as parsed: checked afterwards, so that the config's own sentences reach the user unwrapped."""

    def __post_init__(self) -> None:
        pass


def main(defaults: TrainConfig, description: str) -> NoReturn:
    """Parses the flags, trains, exits.

    Args:
        defaults: what an experiment does when no flag is given.
        description: shown above the flags by --help.
    """
    try:
        config = parse(defaults, description, sys.argv[1:])
        # Only now: --help and a wrong flag need not wait for the training stack.
        from seanet_jax.train import TrainingDivergedError, fit

        try:
            fit(config)
        except TrainingDivergedError as error:
            _exit(1, error)
    except InputError as error:
        _exit(2, error)
    except KeyboardInterrupt:
        _exit(130, "interrupted; the same command with --resume continues from the last checkpoint, if one was written")
    sys.exit(0)


def parse(defaults: TrainConfig, description: str, arguments: list[str]) -> TrainConfig:
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
            parsed = tyro.cli(_Unchecked, default=_Unchecked(**given), description=description, args=arguments)
    except SystemExit as error:
        if error.code == 0:
            raise
        raise InputError(_in_one_line(complaint.getvalue())) from None
    return TrainConfig(**dataclasses.asdict(parsed))


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
