"""Show what happens inside a trained network for one image: its maps, its channel weights and where it sees classes.

    seanet show runs/cifar100-seanet20-seed0 photo.jpg
    seanet show seanet20_narrow-digits digit.png --top 2 --out digit.html

FOLDER is the folder of a run or of pretrained weights, or the name of a network that comes with the package. IMAGE is
an image file, which is read as seanet predict reads it, and - is an image on standard input.

Writes one HTML page, which needs no other file. It shows

  - Grad-CAM for the most likely classes: where in the image the network sees them;
  - for each aggregate, the groups of the six channels that are largest on average, before and after it;
  - the weights that squeeze-excitation gives the channels, for each stage.

Parts that a network does not have are left out, and the page says so. Prints the most likely classes.

Exit status: 0 if the page was written, 1 if writing failed, 2 if an argument, the folder or the image is wrong.
"""

from typing import NoReturn

from seanet_jax.commands.cli import (
    Arguments,
    add_which,
    command,
    command_line,
    image_sources,
    keep_what_is_compiled,
    page_path,
    write_named,
)
from seanet_jax.console import print_result
from seanet_jax.errors import InputError
from seanet_jax.paths import is_folder, user_path
from seanet_jax.printable import printable


def run() -> None:
    """Reads the arguments, writes the page and prints the predictions."""
    parser = Arguments(__doc__)
    parser.add_argument("folder", help="folder of a run or of pretrained weights, or a name")
    parser.add_argument("image", help="image file, or - for standard input")
    parser.add_argument("--top", type=int, default=3, help="number of classes of Grad-CAM (default: 3)")
    parser.add_argument("--out", default="show.html", help="page to write (default: show.html)")
    add_which(parser)
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise InputError(f"--top is {arguments.top}; it must be a positive integer")
    out, folder = page_path(arguments.out), user_path(arguments.folder)
    if is_folder(path := user_path(arguments.image)):
        raise InputError(f"{printable(path)} is a folder; name one image file")
    if out.resolve() == path.resolve():
        raise InputError(f"--out: {printable(out)} is the image; name another file")
    (source,) = image_sources(arguments.image)
    # Imported late, so that --help and a wrong argument need not wait for JAX.
    keep_what_is_compiled()
    from seanet_jax import jax_settings
    from seanet_jax.inference.inspection_page import inspect_file
    from seanet_jax.inference.predictions import Prediction, as_text
    from seanet_jax.inference.trained import load
    from seanet_jax.provenance import without_home

    with jax_settings.fixed():
        found, page = inspect_file(
            load(folder, arguments.which),
            source,
            arguments.top,
            network=without_home(str(folder)),
            command=without_home(command_line()),
        )
    write_named(out, "--out", page)
    print_result(f"{as_text([Prediction(source.path, found.classes)])}\n\nthe maps are in {printable(out)}")


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
