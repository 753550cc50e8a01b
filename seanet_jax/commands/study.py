"""What the study commands share: they parse the same flags and train the missing runs of a study."""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from seanet_jax.commands.cli import Process, command_line, keep_what_is_compiled, run_and_exit
from seanet_jax.commands.cpu_tuning import compiler_options

if TYPE_CHECKING:
    from seanet_jax.training.flags import StudyCommand

RunStudy = Callable[["StudyCommand", Mapping[str, str]], None]


def study(
    description: str,
    run_study: RunStudy,
    models: tuple[str, ...],
    learning_rates: tuple[float, ...],
    **defaults: Any,
) -> NoReturn:
    """Parses the flags, trains the missing runs of a study, writes its tables and exits.

    Args:
        description: The text above the flags in --help.
        run_study: Runs the study, given the parsed flags and the options of XLA. It imports what it needs when it is
            called, so that --help and a wrong flag need not wait for JAX.
        models: The names of the presets to train if no flag names any.
        learning_rates: The initial learning rates to choose from if no flag gives any.
        **defaults: The fields of ``TrainConfig`` whose defaults differ from those of the class.
    """

    def train(process: Process) -> None:
        from seanet_jax.training.config import TrainConfig
        from seanet_jax.training.flags import parse_study

        command = parse_study(TrainConfig(**defaults), models, learning_rates, description, sys.argv[1:])
        command = dataclasses.replace(command, command_line=command_line())
        if command.compilation_cache:
            keep_what_is_compiled()
        run_study(command, compiler_options(os.environ) if command.tune_cpu else {})

    run_and_exit(train, "the same command")
