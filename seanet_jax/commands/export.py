"""Export a trained network as a StableHLO artifact, which JAX runs without this package.

    seanet export runs/cifar100-seanet20-seed0 seanet20.stablehlo

FOLDER is the folder of a run, whose best epoch is exported by default, or of pretrained weights, or the name of a
network that comes with the package. The artifact takes uint8 images [batch, height, width, channels] in batches of any
size and returns float32 probabilities [batch, classes]. It normalizes the images itself, and runs on CPU, CUDA, ROCm
and TPU.

Writes the artifact, and OUT.json beside it: input, output, classes, platforms, versions, the artifact's SHA-256, and
five lines of Python that run it. Before anything is written, the artifact's logits and probabilities are compared with
the network's on this machine's CPU.

Exit status: 0 if the artifact was written, 1 if it differs from the network or writing failed, 2 if an argument or the
folder is wrong.
"""

from typing import NoReturn

from seanet_jax.commands.cli import Arguments, add_which, command
from seanet_jax.console import print_result


def run() -> None:
    """Reads the arguments and exports."""
    parser = Arguments(__doc__)
    parser.add_argument("folder", help="folder of a run or of pretrained weights, or a name")
    parser.add_argument("out", help="artifact to write, *.stablehlo")
    add_which(parser)
    arguments = parser.parse_args()
    # Imported late, so that --help and a wrong argument need not wait for JAX.
    import jax

    # The CPU lowers for every platform. It also computes in full float32, which the comparison with the network needs.
    jax.config.update("jax_platforms", "cpu")
    from seanet_jax.inference.stablehlo import write

    print_result(write(arguments.folder, arguments.out, arguments.which))


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
