"""Classify image files with a trained network.

    seanet predict runs/cifar100-seanet20-seed0 photo.jpg holiday/ --top 3 --sheet predictions.png
    seanet predict runs/cifar100-seanet20-seed0 holiday/ --output predictions.csv

FOLDER is the folder of a run or of pretrained weights, or the name of a network that comes with the package. IMAGES are
image files (AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF or WebP) and folders, and - is an image on standard input.
Folders are searched recursively for files with the suffix of such a format (.png, .jpg, .webp, .tif and so on), in the
order of their paths; hidden files and links to folders are skipped. An image whose decoding would take more than 2.1 GB
of memory is not read.

A file that cannot be read is named on standard error, the other images are classified, and the exit status is 1.

Each image is rotated as its EXIF orientation says, drawn on white if it is transparent, cropped at its center to the
network's aspect ratio, and resized (bilinear, antialiased) to the size of the training images. An image of that size is
used unchanged. A much larger JPEG is decoded at a half, a quarter or an eighth of its size. Of an animation, the first
frame is used.

Prints each image's path, and below it the most likely classes with their probabilities. Names of more than 120
characters are cut. --json prints a JSON array instead, with an object for each image: its "path" and its "predictions"
with whole names, or an "error" if it cannot be read.

--output writes a table instead, with a row for each class of each image: its "file", the "rank" of the class, the
"class" and its "probability". An image that cannot be read has one row with its "error". In CSV, an apostrophe marks
texts that a spreadsheet would take for formulas, and unprintable characters are escaped.

--sheet writes a picture of the images as the network sees them, with at most five classes each.

Exit status: 0 if all images were classified, 1 if an image could not be read or a file could not be written, 2 if an
argument, the folder or every image is wrong.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from seanet_jax import console
from seanet_jax.commands.cli import Arguments, add_which, command, image_sources, keep_what_is_compiled, write_named
from seanet_jax.errors import InputError, RunError
from seanet_jax.paths import is_folder, user_path
from seanet_jax.printable import printable, shortened

if TYPE_CHECKING:
    from seanet_jax.inference.predictions import Prediction

_LINES_ON_SHEET = 5
_TABLES = (".csv", ".jsonl")


def run() -> None:
    """Reads the arguments, classifies the images and prints the predictions."""
    parser = Arguments(__doc__)
    parser.add_argument("folder", help="folder of a run or of pretrained weights, or a name")
    parser.add_argument("images", nargs="+", help="image files, folders of image files, and - for standard input")
    parser.add_argument("--top", type=int, default=5, help="number of classes of an image (default: 5)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one JSON array")
    shown.add_argument("--output", help="table to write in place of printing, *.csv or *.jsonl")
    parser.add_argument("--sheet", help="PNG file to write: the images with their predictions below them")
    add_which(parser)
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise InputError(f"--top is {arguments.top}; it must be a positive integer")
    folder = user_path(arguments.folder)
    output = None if arguments.output is None else user_path(arguments.output)
    if output is not None and (output.suffix.lower() not in _TABLES or is_folder(output)):
        raise InputError(f"--output: {printable(output)} is no name of a table; give one that ends in .csv or .jsonl")
    sources = [source for one in arguments.images for source in image_sources(one)]
    sheet = None if arguments.sheet is None else user_path(arguments.sheet)
    if sheet is not None:
        _check_sheet(sheet, [source.path for source in sources])
    # Imported late, so that --help and a wrong argument need not wait for JAX.
    keep_what_is_compiled()
    from seanet_jax import jax_settings
    from seanet_jax.inference import predictions
    from seanet_jax.inference.trained import load

    with jax_settings.fixed():
        trained = load(folder, arguments.which)
        found = predictions.predict(trained, sources, arguments.top, with_pictures=sheet is not None)
    classified = [prediction for prediction in found if not prediction.error]
    for prediction in found:
        if prediction.error:
            console.print_error(f"error: {prediction.error}")
    if sheet is not None:
        write_named(sheet, "--sheet", _sheet(classified))
    if output is not None:
        made = predictions.as_csv(found) if output.suffix.lower() == ".csv" else predictions.as_json_lines(found)
        write_named(output, "--output", made)
        console.print_result(f"{printable(output)}: {len(classified):,} images")
    else:
        console.print_result(predictions.as_json(found) if arguments.json else predictions.as_text(found))
    if failed := len(found) - len(classified):
        raise RunError(f"{failed:,} of {len(found):,} images could not be read; the others were classified")


def _check_sheet(sheet: Path, paths: Sequence[Path]) -> None:
    """Raises an InputError if the sheet cannot be written or would replace one of the images."""
    from seanet_jax.inference.contact_sheet import MOST

    if sheet.suffix.lower() != ".png" or is_folder(sheet):
        raise InputError(f"--sheet: {printable(sheet)} is no name of a PNG file; give one that ends in .png")
    if any(sheet.resolve() == path.resolve() for path in paths):
        raise InputError(f"--sheet: {printable(sheet)} is one of the images; name another file")
    if len(paths) > MOST:
        raise InputError(f"--sheet: there are {len(paths):,} images; a sheet holds {MOST:,} at most, so name fewer")


def _sheet(predictions: "Sequence[Prediction]") -> bytes:
    from seanet_jax.inference.contact_sheet import Cell, Line, contact_sheet

    cells = []
    for prediction in predictions:
        assert prediction.picture is not None
        shown = prediction.classes[:_LINES_ON_SHEET]
        lines = [Line(shortened(name), f"{probability:.1%}") for name, probability in shown]
        cells.append(Cell(prediction.picture, [*lines, Line(printable(prediction.path.name))]))
    return contact_sheet(cells)


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
