"""List the layers of a network: output shapes, parameters and multiply-adds.

    seanet summary seanet20
    seanet summary seanet20_narrow --classes 10 --image-size 64
    seanet summary runs/cifar100-seanet20-seed0

MODEL is the name of a preset, or the folder of a run or of pretrained weights or the name of a network that comes with
the package, which have their own classes and images.

Prints a row for each layer in the order of the calls: its path, which the names of its weights begin with; its class;
its output for one image; its trained parameters; and its multiply-adds for one image, which are those of convolutions
and matrix products. The numbers of a layer include those of the layers inside it, which are indented. The last row has
the whole network. Nothing is trained and no image is read.

Exit status: 0 if the layers were listed, 2 if an argument or the folder is wrong.
"""

from typing import TYPE_CHECKING, NoReturn

from seanet_jax.commands.cli import Arguments, command
from seanet_jax.console import print_result
from seanet_jax.errors import InputError
from seanet_jax.paths import is_folder, user_path
from seanet_jax.printable import aligned

if TYPE_CHECKING:
    from seanet_jax.models import NetworkConfig

_CLASSES, _IMAGE_SIZE = 100, 32


def run() -> None:
    """Reads the arguments and prints the table."""
    parser = Arguments(__doc__)
    parser.add_argument("model", help="name of a preset, or folder of a run or of pretrained weights")
    parser.add_argument("--classes", type=int, help=f"number of classes of a preset (default: {_CLASSES})")
    parser.add_argument(
        "--image-size", type=int, help=f"height and width of a preset's images in pixels (default: {_IMAGE_SIZE})"
    )
    arguments = parser.parse_args()
    given = {"--classes": arguments.classes, "--image-size": arguments.image_size}
    for flag, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"{flag} is {value}; it must be a positive integer")
    # Imported late, so that --help and a wrong number need not wait for JAX.
    from seanet_jax.models.bundled import list_bundled

    is_saved = is_folder(user_path(arguments.model)) or arguments.model in list_bundled()
    if is_saved and (flags := [flag for flag, value in given.items() if value is not None]):
        raise InputError(
            f"{flags[0]} is for presets, and {arguments.model} is a folder, which has its own; leave it out"
        )
    from seanet_jax.inference.trained import network_of
    from seanet_jax.models import model_config

    if is_saved:
        config, height, width = network_of(arguments.model)
    else:
        height = width = arguments.image_size or _IMAGE_SIZE
        config = model_config(arguments.model, num_classes=arguments.classes or _CLASSES)
    print_result(text(config, height, width))


def text(config: "NetworkConfig", height: int, width: int) -> str:
    """Returns the table of a network for images of a size in pixels."""
    from seanet_jax.models.layer_table import layers
    from seanet_jax.models.multiply_adds import multiply_adds, parameters

    rows = [("layer", "class", "output", "parameters", "multiply-adds")]
    found = layers(config, height, width)
    inside: list[str] = []
    for layer in found:
        while inside and not layer.path.startswith(f"{inside[-1]}."):
            inside.pop()
        shown = "  " * len(inside) + layer.path.removeprefix(f"{inside[-1]}." if inside else "")
        size = "x".join(map(str, layer.output))
        rows.append((shown, layer.kind, size, f"{layer.parameters:,}", f"{layer.multiply_adds:,}"))
        if layer.has_layers:
            inside.append(layer.path)
    total = parameters(config)
    rows.append(("in all", "", "", f"{total:,}", f"{multiply_adds(config, height, width):,}"))
    called = sum(layer.parameters for layer in found if not layer.has_layers)
    note = "" if called == total else f"\n{total - called:,} of the parameters are used in training alone."
    return aligned(rows, left=2) + note


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
