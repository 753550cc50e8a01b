"""Do the talk's claims about aggregation hold: fewer redundant maps, more gradient, a global representation?

    seanet analyze AGGREGATED_RUN BASELINE_RUN --out runs/analysis

Both arguments are folders of runs, with their checkpoints, of networks of the same widths: for example one of
seanet20_narrow, which aggregates, and one of narrow_senet20, which does not.

Cost: four short trainings; with the narrow networks twenty minutes on two cores.

Result: analysis.json with the numbers, and a sentence and a figure for each claim.
"""

import shlex
import sys
from typing import NoReturn

from seanet_jax.commands.cli import Arguments, command


def run(description: str) -> None:
    """Parses the flags and measures."""
    parser = Arguments(description)
    parser.add_argument("aggregated", help="folder of a run that aggregates after each stage")
    parser.add_argument("baseline", help="folder of a run of the same widths without aggregation")
    parser.add_argument("--out", default="runs/analysis", help="folder to write")
    parser.add_argument("--images", type=int, default=1000, help="number of test images whose maps are measured")
    parser.add_argument("--image", type=int, default=0, help="index of the test image whose maps are drawn")
    parser.add_argument("--steps", type=int, default=300, help="training steps over which gradients are measured")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="learning rate of these training steps")
    parser.add_argument("--data-dir", help="folder that holds CIFAR (default: the run's own, if it is here)")
    arguments = parser.parse_args()
    # Imported here so that --help and a wrong flag need not wait for JAX.
    from seanet_jax.studies.claims import analyze

    analyze(**vars(arguments), command=shlex.join(["python", *sys.argv]))


def main(description: str = str(__doc__)) -> NoReturn:
    """Parses the flags, measures and exits.

    Args:
        description: The text above the flags in --help.
    """
    command(lambda: run(description))
