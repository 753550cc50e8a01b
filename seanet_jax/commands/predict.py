"""What does a trained network see in these images?

    seanet predict runs/cifar100-seanet20-seed0 photo.jpg holiday/ --top 3 --sheet answers.png

The first folder is a run's, or one of pretrained weights. Images are files that Pillow reads; the suffix of one that is
named does not matter. Folders are searched, and folders in them: for files whose suffix is one of Pillow's (.png, .jpg,
.webp, .tif and so on), in the order of their paths, without what begins with a dot. Links to folders are not followed.
One image that cannot be read is an error that names it, before any answer.

Each image is turned upright, laid over white where it is transparent, cropped to its centre where it is not of the
network's aspect, and resized (antialiased, bilinear) to the size of the network's training images; one of that size is
used as it is. Of animations it is the first picture.

Prints each image's path, and under it the likeliest classes with their probabilities; --json prints one JSON array
instead. Writes nothing but --sheet, which shows what the network sees, and five classes at most.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from seanet_jax.commands.cli import Arguments, command, keep_what_is_compiled
from seanet_jax.errors import InputError, RunError
from seanet_jax.files import printable, write_whole

if TYPE_CHECKING:
    from PIL import Image

    from seanet_jax.inference.trained import Trained

_BATCH_SIZE = 64
_LINES_ON_SHEET = 5


class _Answer(NamedTuple):
    """The likeliest classes of a file with their probabilities, and the picture where a sheet shows it."""

    path: Path
    classes: Sequence[tuple[str, float]]
    picture: "Image.Image | None"


def run() -> None:
    """Reads the arguments and answers."""
    parser = Arguments(__doc__)
    parser.add_argument("folder", type=Path, help="of a run or of pretrained weights")
    parser.add_argument("images", type=Path, nargs="+", help="image files, and folders that hold some")
    parser.add_argument("--top", type=int, default=5, help="classes to name, or all if there are fewer; default 5")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.add_argument("--sheet", type=Path, help="PNG to be written: the images with their answers under them")
    parser.add_argument("--which", choices=("best", "latest"), default="best", help="checkpoint of a run; default best")
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise InputError(f"--top is {arguments.top}; it must be a positive integer")
    paths = _find(arguments.images)
    if arguments.sheet is not None:
        _check_sheet(arguments.sheet, paths)
    # Only now: --help and a wrong argument need not wait for JAX.
    keep_what_is_compiled()
    from seanet_jax.inference.trained import load

    answers = _answer(load(arguments.folder, arguments.which), paths, arguments.top, arguments.sheet is not None)
    if arguments.sheet is not None:
        _write_sheet(arguments.sheet, answers)
    print(_as_json(answers) if arguments.json else _as_text(answers))


def _find(given: Sequence[Path]) -> list[Path]:
    from seanet_jax.inference.image_file import find_images

    paths: list[Path] = []
    for path in given:
        if not path.exists():
            raise InputError(f"{printable(path)}: there is no such file; name image files, or folders that hold some")
        paths += find_images(path) if path.is_dir() else [path]
    return paths


def _check_sheet(sheet: Path, paths: Sequence[Path]) -> None:
    from seanet_jax.inference.contact_sheet import MOST

    if sheet.suffix.lower() != ".png" or sheet.is_dir():
        raise InputError(f"--sheet: {printable(sheet)} is no name of a PNG file; give one that ends in .png")
    if any(sheet.resolve() == path.resolve() for path in paths):
        raise InputError(f"--sheet: {printable(sheet)} is one of the images; name another file")
    if len(paths) > MOST:
        raise InputError(f"--sheet: there are {len(paths):,} images; a sheet holds {MOST:,} at most, so name fewer")


def _answer(trained: "Trained", paths: Sequence[Path], top: int, with_pictures: bool) -> list[_Answer]:
    """Of every file, once all of them are read."""
    import numpy as np

    from seanet_jax.inference.classifier import Classifier
    from seanet_jax.inference.contact_sheet import SIDE
    from seanet_jax.inference.image_file import demand_picture_channels, preview, read_image, to_pixels

    names = trained.images.class_names
    demand_picture_channels(trained.images)
    classifier = Classifier(trained, min(_BATCH_SIZE, len(paths)))
    pixels, pictures = [], []
    # No photo stays in memory, only what is made of it.
    for path in paths:
        image = read_image(path)
        pixels.append(to_pixels(image, trained.images))
        pictures.append(preview(image, trained.images, SIDE) if with_pictures else None)
    answers = []
    rows = classifier.probabilities(classifier(np.stack(pixels)))
    for path, row, picture in zip(paths, rows, pictures, strict=True):
        likeliest = np.argsort(-row, kind="stable")[:top]
        answers.append(_Answer(path, [(names[index], float(row[index])) for index in likeliest], picture))
    return answers


def _write_sheet(path: Path, answers: Sequence[_Answer]) -> None:
    from seanet_jax.inference.contact_sheet import Cell, Line, contact_sheet

    cells = []
    for answer in answers:
        assert answer.picture is not None
        lines = [Line(printable(name), f"{probability:.1%}") for name, probability in answer.classes[:_LINES_ON_SHEET]]
        cells.append(Cell(answer.picture, [*lines, Line(printable(answer.path.name))]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, contact_sheet(cells))
    except OSError as error:
        raise RunError(f"--sheet: {printable(path)} could not be written ({error.strerror})") from None


def _as_text(answers: Sequence[_Answer]) -> str:
    lines = []
    for answer in answers:
        lines.append(printable(answer.path))
        lines += [f"  {probability:7.2%}  {printable(name)}" for name, probability in answer.classes]
    return "\n".join(lines)


def _as_json(answers: Sequence[_Answer]) -> str:
    values = [
        {
            "path": str(answer.path),
            "answers": [{"name": name, "probability": probability} for name, probability in answer.classes],
        }
        for answer in answers
    ]
    return json.dumps(values, indent=2, allow_nan=False)


def main() -> NoReturn:
    """Runs the command and exits."""
    command(run)
