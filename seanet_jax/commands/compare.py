r"""Does aggregation help at equal parameters, at equal capacity and at equal compute?

    seanet compare                            # the networks of the talk and SEANet's equals, three seeds
    seanet compare --dataset cifar10
    seanet compare --models seanet20_small senet20 --limit-train 20000 --epochs 10 --decay-every 4

Cost: 33 runs of 200 epochs and, of the EncapNets, which have a recipe of their own, 9 of 600; they want GPUs, and
docs/results.md has a bound. A flag that is given is for all networks, what no flag says is each one's own. The third
command is 6 runs of 10 epochs, a quarter of an hour each on one core of a desktop. Started twice, on two cores, GPUs
or machines that share the folder, it shares the runs out; killed and started again, it goes on.

Result: table.md, table.csv and tests.csv in the study's folder, beside a folder for each run.
"""

from typing import Any, NoReturn

from seanet_jax.commands.study import Conduct, study

# Networks of SEANet's recipe: the rows of the talk's tables, then its equals in parameters, in capacity and in compute.
MODELS = (
    *("seanet20", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "senet20"),
    *("seanet20_small", "seanet20_block", "wide_senet20", "wide_resnet20"),
)
# The remaining rows of the talk, which have a recipe of their own.
ENCAPNETS = ("encapnet", "encapnet_plus", "encapnet_plus_plus")


def main(description: str = str(__doc__), **defaults: Any) -> NoReturn:
    """Parses the flags, trains what the comparison lacks, writes its tables and exits; see ``study``."""
    study(description, _conduct, (*MODELS, *ENCAPNETS), (0.1,), **defaults)


def _conduct() -> Conduct:
    from seanet_jax.studies.compare import conduct

    return conduct
