r"""What do the design choices of SEANet contribute: operation, factor, placement, reduction, squeeze-excitation?

    seanet ablate
    seanet ablate --models seanet20_narrow --learning-rates 0.1 0.03 --seeds 1 --limit-train 20000 \
        --epochs 5 --decay-every 2

The ablation changes one choice at a time of the network that --models names. Every variant is trained at each learning
rate and keeps the one with the best accuracy on the validation images, the last tenth of the training images. A single
rate would be unfair: a sum of k rectified maps is larger than their mean, so the best rate depends on the operation.
The command resumes after a kill, and concurrent copies that share the folder split the runs.

Cost: 30 runs of 200 epochs, and 10 more for each seed after the first. This needs GPUs. The second command is the study
in docs/results.md: 20 runs of 5 epochs, each a quarter of an hour on one core of a desktop.

Result: table.md and table.csv in the folder of the study, beside a folder for each run.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from seanet_jax.commands.study import study

if TYPE_CHECKING:
    from seanet_jax.training.flags import StudyCommand


def main(description: str = str(__doc__), **defaults: Any) -> NoReturn:
    """Parses the flags, trains the missing runs of the ablation, writes its tables and exits; see ``study``."""
    study(description, run_ablation, ("seanet20",), (0.1, 0.03, 0.01), **({"validation_fraction": 0.1} | defaults))


def run_ablation(command: "StudyCommand", compiler_options: Mapping[str, str]) -> None:
    """Imports and calls the function of the same name in ``seanet_jax.studies.ablate``."""
    from seanet_jax.studies import ablate

    ablate.run_ablation(command, compiler_options)
