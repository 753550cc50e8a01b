"""Does aggregation help at equal parameters, at equal capacity and at equal compute?

    seanet compare                            # networks of the talk, matched networks, three seeds
    seanet compare --dataset cifar10
    seanet compare --models seanet20_small senet20 --limit-train 20000 --epochs 10 --decay-every 4

Flags apply to all networks. Whatever no flag sets, each network takes from its own recipe. The command resumes after
a kill, and concurrent copies that share the folder, on several cores, GPUs or machines, split the runs.

Cost: 33 runs of 200 epochs, and 9 runs of 600 epochs for the EncapNets, which have a recipe of their own. This needs
GPUs; docs/results.md gives a lower bound. The third command is 6 runs of 10 epochs, each a quarter of an hour on one
core of a desktop.

Result: table.md, table.csv and tests.csv in the folder of the study, beside a folder for each run.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from seanet_jax.commands.study import study

if TYPE_CHECKING:
    from seanet_jax.training.flags import StudyCommand

# Networks with SEANet's recipe: the rows of the talk's tables, then baselines and SEANets matched in parameters, in
# capacity and in compute.
MODELS = (
    *("seanet20", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "senet20"),
    *("seanet20_small", "seanet20_block", "wide_senet20", "wide_resnet20"),
)
# The other networks of the talk. They have a recipe of their own.
ENCAPNETS = ("encapnet", "encapnet_plus", "encapnet_plus_plus")


def main(description: str = str(__doc__), **defaults: Any) -> NoReturn:
    """Parses the flags, trains the missing runs of the comparison, writes its tables and exits; see ``study``."""
    study(description, run_comparison, (*MODELS, *ENCAPNETS), (0.1,), **defaults)


def run_comparison(command: "StudyCommand", compiler_options: Mapping[str, str]) -> None:
    """Imports and calls the function of the same name in ``seanet_jax.studies.compare``."""
    from seanet_jax.studies import compare

    compare.run_comparison(command, compiler_options)
