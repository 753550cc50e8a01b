"""How good is a trained network, what does it confuse, and does it know when it is wrong?

    seanet evaluate runs/cifar100-seanet20-seed0

The folder is that of a run. Its network answers the run's test images, each once: the whole test set, or the part that
the run was limited to. Prints top-1 and top-5 accuracy, loss, expected calibration error (Guo et al., 2017), the best
and worst classes and the pairs of classes confused most often.

Writes into the folder evaluation/evaluation.json with all numbers, confusion.png and reliability.png (and the same as
.svg), and mistakes.png: the wrong answers of which the network was surest. And report.html, one page with all of it,
the curves and every epoch, to be opened in a browser or sent to somebody.
"""

import shlex
import sys
from pathlib import Path
from typing import NoReturn

from seanet_jax.commands.cli import Arguments, command, keep_what_is_compiled


def run() -> None:
    """Reads the arguments and evaluates."""
    parser = Arguments(__doc__)
    parser.add_argument("folder", type=Path, help="of a run")
    parser.add_argument("--which", choices=("best", "latest"), default="best", help="checkpoint (default: best)")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR, as for the experiments")
    arguments = parser.parse_args()
    # Only now: --help and a wrong argument need not wait for JAX.
    keep_what_is_compiled()
    from seanet_jax.inference.evaluation import evaluate, text

    print(text(evaluate(**vars(arguments), command=shlex.join(["seanet", "evaluate", *sys.argv[1:]]))))


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
