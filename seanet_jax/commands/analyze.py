"""Do the talk's claims about aggregation hold: fewer redundant maps, more gradient, a global representation?

    seanet analyze RUN_THAT_AGGREGATES RUN_THAT_DOES_NOT --out runs/analysis

Both are folders of runs of the same widths, with their checkpoints: seanet20_narrow and narrow_senet20, for example.

Cost: four short trainings, twenty minutes on two cores with the narrow networks.

Result: analysis.json with the numbers, a sentence and a figure for each claim.
"""

import shlex
import sys
from pathlib import Path
from typing import NoReturn

from seanet_jax.commands.cli import Arguments, command


def run(description: str) -> None:
    """Reads the flags and measures."""
    parser = Arguments(description)
    parser.add_argument("aggregated", type=Path, help="folder of a run that aggregates")
    parser.add_argument("plain", type=Path, help="folder of a run of the same widths that does not")
    parser.add_argument("--out", type=Path, default=Path("runs/analysis"), help="folder to be written")
    parser.add_argument("--images", type=int, default=1000, help="test images whose maps are measured")
    parser.add_argument("--image", type=int, default=0, help="index of the test image whose maps are drawn")
    parser.add_argument("--steps", type=int, default=300, help="of training, over which gradients are followed")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="likewise")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR, as for the other experiments")
    arguments = parser.parse_args()
    # Only now: --help and a wrong flag need not wait for JAX.
    from seanet_jax.studies.claims import analyze

    analyze(**vars(arguments), command=shlex.join(["python", *sys.argv]))


def main(description: str = str(__doc__)) -> NoReturn:
    """Reads the flags, measures and exits.

    Args:
        description: The text above the flags in --help.
    """
    command(lambda: run(description))
