"""Classify image files with a trained network.

    seanet predict runs/cifar100-seanet20-seed0 photo.jpg holiday/ --top 3 --sheet predictions.png

FOLDER is the folder of a run or of pretrained weights. IMAGES are files in any format that Pillow reads, and folders.
Folders are searched recursively for files with a suffix that Pillow knows (.png, .jpg, .webp, .tif and so on), in the
order of their paths; hidden files and links to folders are skipped. If one image cannot be read, the command names it
and prints no predictions.

Each image is rotated as its EXIF orientation says, drawn on white if it is transparent, cropped at its center to the
network's aspect ratio, and resized (bilinear, antialiased) to the size of the training images. An image of that size is
used unchanged. Of an animation, the first frame is used.

Prints each image's path, and below it the most likely classes with their probabilities; --json prints one JSON array
instead. Writes no file unless --sheet names one: a picture of the images as the network sees them, with at most five
classes each.

Exit status: 0 if all images were classified, 1 if the sheet could not be written, 2 if an argument, the folder or an
image is wrong.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from seanet_jax.commands.cli import Arguments, command, keep_what_is_compiled
from seanet_jax.console import print_result
from seanet_jax.errors import InputError, RunError
from seanet_jax.files import printable, write_whole
from seanet_jax.paths import exists, is_folder, user_path

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
    """

    path: Path
    classes: Sequence[tuple[str, float]]
    picture: "Image.Image | None"


def run() -> None:
    """Reads the arguments, classifies the images and prints the predictions."""
    parser = Arguments(__doc__)
    parser.add_argument("folder", help="folder of a run or of pretrained weights")
    parser.add_argument("images", nargs="+", help="image files, and folders of image files")
    parser.add_argument("--top", type=int, default=5, help="number of classes to print (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.add_argument("--sheet", help="PNG file to write: the images with their predictions below them")
    parser.add_argument("--which", choices=("best", "latest"), default="best", help="run's checkpoint (default: best)")
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise InputError(f"--top is {arguments.top}; it must be a positive integer")
    folder = user_path(arguments.folder)
    paths = _find([user_path(image) for image in arguments.images])
    sheet = None if arguments.sheet is None else user_path(arguments.sheet)
    if sheet is not None:
        _check_sheet(sheet, paths)
    # Imported late, so that --help and a wrong argument need not wait for JAX.
    keep_what_is_compiled()
    from seanet_jax.inference.trained import load

    trained = load(folder, arguments.which)
    predictions = _predict(trained, paths, arguments.top, with_pictures=sheet is not None)
    if sheet is not None:
        _write_sheet(sheet, predictions)
    print_result(_as_json(predictions) if arguments.json else _as_text(predictions))


def _find(given: Sequence[Path]) -> list[Path]:
    """Returns the given files and the images in the given folders."""
    from seanet_jax.inference.image_file import find_images

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


def _predict(trained: "Trained", paths: Sequence[Path], top: int, with_pictures: bool) -> list[Prediction]:
    """Reads all files, then returns their predictions."""
    import numpy as np

    from seanet_jax.inference.classifier import Classifier
    from seanet_jax.inference.contact_sheet import SIDE
    from seanet_jax.inference.image_file import check_picture_channels, preview, read_image, to_pixels

    names = trained.images.class_names
    check_picture_channels(trained.images)
    classifier = Classifier(trained, min(_BATCH_SIZE, len(paths)))
    pixels, pictures = [], []
    # Photos are large, so each is reduced before the next is read.
    for path in paths:
        image = read_image(path)
        pixels.append(to_pixels(image, trained.images))
        pictures.append(preview(image, trained.images, SIDE) if with_pictures else None)
    predictions = []
    rows = classifier.probabilities(classifier(np.stack(pixels)))
    for path, row, picture in zip(paths, rows, pictures, strict=True):
        likeliest = np.argsort(-row, kind="stable")[:top]
        predictions.append(Prediction(path, [(names[index], float(row[index])) for index in likeliest], picture))
    return predictions


def _write_sheet(path: Path, predictions: Sequence[Prediction]) -> None:
    from seanet_jax.inference.contact_sheet import Cell, Line, contact_sheet

    cells = []
    for prediction in predictions:
        assert prediction.picture is not None
        shown = prediction.classes[:_LINES_ON_SHEET]
        lines = [Line(printable(name), f"{probability:.1%}") for name, probability in shown]
        cells.append(Cell(prediction.picture, [*lines, Line(printable(prediction.path.name))]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, contact_sheet(cells))
    except OSError as error:
        raise RunError(f"--sheet: {printable(path)} could not be written ({error.strerror})") from None


def _as_text(predictions: Sequence[Prediction]) -> str:
    lines = []
    for prediction in predictions:
        lines.append(printable(prediction.path))
        lines += [f"  {probability:7.2%}  {printable(name)}" for name, probability in prediction.classes]
    return "\n".join(lines)


def _as_json(predictions: Sequence[Prediction]) -> str:
    values = [
        {
            "path": str(prediction.path),
            "predictions": [{"name": name, "probability": probability} for name, probability in prediction.classes],
        }
        for prediction in predictions
    ]
    return json.dumps(values, indent=2, allow_nan=False)


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
