"""Train one network on one data set.

    seanet train --dataset digits --model seanet20_narrow --epochs 12
    seanet train --dataset cifar100 --resume

The defaults are the published recipe: SEANet-20 on CIFAR-100, 200 epochs. A network that was published with another
recipe (EncapNet) gets its own. The run's folder holds its config, metrics, curves, summary and checkpoints.
"""

import os
import sys
from typing import Any, NoReturn

from seanet_jax.commands.cli import Process, keep_what_is_compiled, run_and_exit
from seanet_jax.commands.cpu_tuning import compiler_options


def main(description: str = str(__doc__), **defaults: Any) -> NoReturn:
    """Parses the flags, trains one network and exits.

    Args:
        description: The text above the flags in --help.
        **defaults: Fields of ``TrainConfig`` whose defaults differ from the class's.
    """

    def train(process: Process) -> None:
        from seanet_jax.training.config import TrainConfig
        from seanet_jax.training.flags import parse

        command = parse(TrainConfig(**defaults), description, sys.argv[1:])
        if command.compilation_cache:
            keep_what_is_compiled()
        if command.processes is not None:
            from seanet_jax.training import processes

            processes.start(command.processes)
            process.together = True
        # Imported late: --help and a wrong flag need not wait for the training stack.
        from seanet_jax.training.run import fit

        fit(command.config, compiler_options=compiler_options(os.environ) if command.tune_cpu else {})

    run_and_exit(train, "the same command with --resume")
