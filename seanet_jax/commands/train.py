"""Train one network on one data set.

    seanet train --dataset digits --model seanet20_narrow --epochs 12
    seanet train --resume runs/digits-seanet20_narrow-seed0

The defaults are the published recipe: SEANet-20 on CIFAR-100, 200 epochs. A network that was published with another
recipe (EncapNet) gets that recipe.

Writes the folder of a run, by default runs/DATASET-MODEL-seedSEED: config.json, metrics.jsonl, summary.json, learning
curves, TensorBoard events and checkpoints.

Exit status: 0 if training finished, 1 if it failed, 2 if a flag is wrong (nothing was written), 129, 130 or 143 if
SIGHUP, SIGINT or SIGTERM stopped it (seanet train --resume FOLDER continues).
"""

import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from seanet_jax.commands.cli import Process, command_line, keep_what_is_compiled, program, run_and_exit
from seanet_jax.commands.cpu_tuning import XLA, compiler_options

# XLA's option that guarantees, on a GPU, the same result in each run of a program: it leaves out operations whose sums
# depend on the order of threads, and chooses algorithms by rule, not by timing them, which may end differently.
DETERMINISTIC = {"xla_gpu_deterministic_ops": "True"}


def switches(environment: Mapping[str, str]) -> dict[str, bool]:
    """Returns the flags --deterministic and --tune-cpu of a saved run, which change how its numbers are rounded.

    Args:
        environment: What ``seanet_jax.environment.rounding`` returned in the run.
    """
    on_cpu = " x cpu" in environment.get("device", "")
    return {
        "deterministic": DETERMINISTIC.items() <= environment.items(),
        "tune_cpu": not on_cpu or XLA.items() <= environment.items(),
    }


def main(description: str = str(__doc__), **defaults: Any) -> NoReturn:
    """Parses the flags, trains one network and exits.

    Args:
        description: Text that --help shows above the flags.
        **defaults: Fields of ``TrainConfig`` whose defaults differ from those of the class.
    """

    def train(process: Process) -> None:
        from seanet_jax.training.config import TrainConfig
        from seanet_jax.training.flags import parse

        command = parse(TrainConfig(**defaults), description, sys.argv[1:], switches)
        if command.compilation_cache:
            keep_what_is_compiled()
        if command.processes is not None:
            from seanet_jax.training import processes

            processes.start(command.processes)
            process.together = True
        else:
            process.again = shlex.join([*program(), "--resume", str(command.config.run_folder)])
        # Imported late, so that --help and a wrong flag need not wait for the training stack.
        from seanet_jax.training.run import fit

        options = compiler_options(os.environ) if command.tune_cpu else {}
        options |= DETERMINISTIC if command.deterministic else {}
        fit(command.config, compiler_options=options, command=command_line())

    run_and_exit(train, "the same command with --resume")
