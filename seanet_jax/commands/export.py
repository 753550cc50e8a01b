"""A trained network as one file that JAX runs without this package: how do I serve it elsewhere?

    seanet export runs/cifar100-seanet20-seed0 seanet20.stablehlo

The folder is that of a run, whose best epoch is taken, or of pretrained weights. The artifact takes uint8 images
[batch, height, width, channels], as many as you like, and gives float32 probabilities [batch, classes]; images are
normalised inside. It runs on CPU, CUDA, ROCm and TPU.

Writes seanet20.stablehlo, and seanet20.stablehlo.json, which says what goes in and comes out, the classes, platforms,
versions, the SHA-256 of the artifact and how to run it in five lines. Before they are written the artifact's
probabilities are compared with the network's, on this machine's CPU.
"""

from pathlib import Path
from typing import NoReturn

from seanet_jax.commands.cli import Arguments, command


def run() -> None:
    """Reads the arguments and exports."""
    parser = Arguments(__doc__)
    parser.add_argument("folder", type=Path, help="of a run, or of pretrained weights")
    parser.add_argument("out", type=Path, help="the artifact to be written, *.stablehlo")
    arguments = parser.parse_args()
    # Only now: --help and a wrong argument need not wait for JAX.
    import jax

    # For any platform it is lowered here; on the CPU float32 is exact, and the comparison means something.
    jax.config.update("jax_platforms", "cpu")
    from seanet_jax.inference.stablehlo import write

    print(write(arguments.folder, arguments.out))


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
