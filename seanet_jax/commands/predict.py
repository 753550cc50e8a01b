"""Classify image files with a trained network.

    seanet predict runs/cifar100-seanet20-seed0 photo.jpg holiday/ --top 3 --sheet predictions.png

FOLDER is the folder of a run or of pretrained weights. IMAGES are image files (AVIF, BMP, GIF, JPEG, JPEG 2000, PNG,
PPM, TIFF or WebP) and folders. Folders are searched recursively for files with the suffix of such a format (.png, .jpg,
.webp, .tif and so on), in the order of their paths; hidden files and links to folders are skipped. An image whose
decoding would take more than 2.1 GB of memory is not read.

If a file that IMAGES names cannot be read, the command names it and prints no predictions. A file in a folder that
cannot be read is named on standard error, the other images are classified, and the exit status is 1.

Each image is rotated as its EXIF orientation says, drawn on white if it is transparent, cropped at its center to the
network's aspect ratio, and resized (bilinear, antialiased) to the size of the training images. An image of that size is
used unchanged. Of an animation, the first frame is used.

Prints each image's path, and below it the most likely classes with their probabilities. Names of more than 120
characters are cut. --json prints a JSON array instead, with an object for each image: its "path" and its "predictions"
with whole names, or an "error" if it cannot be read.
Writes no file unless --sheet names one: a picture of the images as the network sees them, with at most five
classes each.

Exit status: 0 if all images were classified, 1 if an image in a folder could not be read or the sheet could not be
written, 2 if an argument, the folder, a named image or every image is wrong.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from seanet_jax import console
from seanet_jax.commands.cli import Arguments, add_which, command, keep_what_is_compiled
from seanet_jax.durable import make_folders, write_whole
from seanet_jax.errors import InputError, RunError
from seanet_jax.paths import exists, is_folder, user_path
from seanet_jax.printable import printable, shortened

if TYPE_CHECKING:
    from PIL import Image

    from seanet_jax.inference.trained import Trained

_BATCH_SIZE = 64
_LINES_ON_SHEET = 5


class Prediction(NamedTuple):
    """The prediction for one image file.

    Attributes:
        path: The image file.
        classes: The most likely classes with their probabilities, most likely first.
        picture: The part of the image that the network sees, or None if no sheet is drawn.
        error: The reason why the image cannot be read, or "". Such an image has no classes and no picture.
    """

    path: Path
    classes: Sequence[tuple[str, float]] = ()
    picture: "Image.Image | None" = None
    error: str = ""


def run() -> None:
    """Reads the arguments, classifies the images and prints the predictions."""
    parser = Arguments(__doc__)
    parser.add_argument("folder", help="folder of a run or of pretrained weights")
    parser.add_argument("images", nargs="+", help="image files, and folders of image files")
    parser.add_argument("--top", type=int, default=5, help="number of classes to print (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.add_argument("--sheet", help="PNG file to write: the images with their predictions below them")
    add_which(parser)
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise InputError(f"--top is {arguments.top}; it must be a positive integer")
    folder = user_path(arguments.folder)
    images = [user_path(image) for image in arguments.images]
    paths = _find(images)
    sheet = None if arguments.sheet is None else user_path(arguments.sheet)
    if sheet is not None:
        _check_sheet(sheet, paths)
    # Imported late, so that --help and a wrong argument need not wait for JAX.
    keep_what_is_compiled()
    from seanet_jax import jax_settings
    from seanet_jax.inference.trained import load

    with jax_settings.fixed():
        trained = load(folder, arguments.which)
        predictions = _predict(trained, paths, set(images), arguments.top, with_pictures=sheet is not None)
    classified = [prediction for prediction in predictions if not prediction.error]
    if sheet is not None:
        _write_sheet(sheet, classified)
    console.print_result(_as_json(predictions) if arguments.json else _as_text(classified))
    if failed := len(predictions) - len(classified):
        raise RunError(f"{failed:,} of {len(predictions):,} images could not be read; the others were classified")


def _find(given: Sequence[Path]) -> list[Path]:
    """Returns the given files and the images in the given folders."""
    from seanet_jax.data.image_file import find_images

    paths: list[Path] = []
    for path in given:
        if not exists(path):
            raise InputError(f"{printable(path)}: there is no such file; name image files or folders of image files")
        paths += find_images(path) if is_folder(path) else [path]
    return paths


def _check_sheet(sheet: Path, paths: Sequence[Path]) -> None:
    """Raises an InputError if the sheet cannot be written or would replace one of the images."""
    from seanet_jax.inference.contact_sheet import MOST

    if sheet.suffix.lower() != ".png" or is_folder(sheet):
        raise InputError(f"--sheet: {printable(sheet)} is no name of a PNG file; give one that ends in .png")
    if any(sheet.resolve() == path.resolve() for path in paths):
        raise InputError(f"--sheet: {printable(sheet)} is one of the images; name another file")
    if len(paths) > MOST:
        raise InputError(f"--sheet: there are {len(paths):,} images; a sheet holds {MOST:,} at most, so name fewer")


def _predict(
    trained: "Trained", paths: Sequence[Path], named: Collection[Path], top: int, with_pictures: bool
) -> list[Prediction]:
    """Reads all files, then returns their predictions. Raises an InputError if a named file cannot be read."""
    import numpy as np

    from seanet_jax.data.image_file import check_picture_channels, open_image, preview, to_pixels
    from seanet_jax.inference.classifier import Classifier
    from seanet_jax.inference.contact_sheet import SIDE

    names = trained.images.class_names
    check_picture_channels(trained.images)
    classifier = Classifier(trained, min(_BATCH_SIZE, len(paths)))
    pixels, pictures, errors = [], {}, {}
    # Photos are large, so each is reduced before the next is read.
    for index, path in enumerate(paths):
        try:
            with open_image(path) as image:
                pixels.append(to_pixels(image, trained.images))
                pictures[index] = preview(image, trained.images, SIDE) if with_pictures else None
        except InputError as error:
            if path in named:
                raise InputError(f"{error}; name another file, or leave it out") from None
            console.print_error(f"error: {error}")
            errors[index] = str(error)
    if not pixels:
        raise InputError(f"none of the {len(paths):,} images can be read; name other files or folders")
    rows = iter(classifier.probabilities(classifier(np.stack(pixels))))
    predictions = []
    for index, path in enumerate(paths):
        if index in errors:
            predictions.append(Prediction(path, error=errors[index]))
            continue
        row = next(rows)
        likeliest = np.argsort(-row, kind="stable")[:top]
        classes = [(names[number], float(row[number])) for number in likeliest]
        predictions.append(Prediction(path, classes, pictures[index]))
    return predictions


def _write_sheet(path: Path, predictions: Sequence[Prediction]) -> None:
    from seanet_jax.inference.contact_sheet import Cell, Line, contact_sheet

    cells = []
    for prediction in predictions:
        assert prediction.picture is not None
        shown = prediction.classes[:_LINES_ON_SHEET]
        lines = [Line(shortened(name), f"{probability:.1%}") for name, probability in shown]
        cells.append(Cell(prediction.picture, [*lines, Line(printable(prediction.path.name))]))
    try:
        make_folders(path.parent)
        write_whole(path, contact_sheet(cells))
    except OSError as error:
        raise RunError(f"--sheet: {printable(path)} could not be written ({error.strerror})") from None


def _as_text(predictions: Sequence[Prediction]) -> str:
    lines = []
    for prediction in predictions:
        lines.append(printable(prediction.path))
        lines += [f"  {probability:7.2%}  {shortened(name)}" for name, probability in prediction.classes]
    return "\n".join(lines)


def _as_json(predictions: Sequence[Prediction]) -> str:
    values = []
    for path, classes, _, error in predictions:
        found = [{"name": name, "probability": probability} for name, probability in classes]
        values.append({"path": str(path)} | ({"error": error} if error else {"predictions": found}))
    return json.dumps(values, indent=2, allow_nan=False)


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
