"""What the commands of studies share: they parse the same flags and train what is missing."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from seanet_jax.commands.cli import Process, keep_what_is_compiled, run_and_exit
from seanet_jax.commands.cpu_tuning import compiler_options

if TYPE_CHECKING:
    from seanet_jax.training.flags import StudyCommand

Conduct = Callable[["StudyCommand", Mapping[str, str]], None]


def study(
    description: str,
    conduct: Callable[[], Conduct],
    models: tuple[str, ...],
    learning_rates: tuple[float, ...],
    **defaults: Any,
) -> NoReturn:
    """Parses the flags, trains the runs that a study lacks, writes its tables and exits.

    Args:
        description: The text above the flags in --help.
        conduct: Imports and returns the function that runs the study, once the flags are known to be right.
        models: Names of the presets to train if no flag names any.
        learning_rates: Initial rates to choose from if no flag gives any.
        **defaults: Fields of ``TrainConfig`` whose defaults differ from the class's.
    """

    def train(process: Process) -> None:
        from seanet_jax.training.config import TrainConfig
        from seanet_jax.training.flags import parse_study

        command = parse_study(TrainConfig(**defaults), models, learning_rates, description, sys.argv[1:])
        if command.compilation_cache:
            keep_what_is_compiled()
        conduct()(command, compiler_options(os.environ) if command.tune_cpu else {})

    run_and_exit(train, "the same command")
