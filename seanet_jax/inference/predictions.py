"""Classifies image files with a trained network, many at a time, and lists what they were taken for.

Files are decoded in parallel while the network classifies those before them. A file that cannot be read gets a
prediction that says why, so that it does not end the others.
"""

import json
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from seanet_jax.data.image_file import (
    ImageSource,
    MemoryBudget,
    check_picture_channels,
    lenient_pillow,
    open_image,
    preview,
    to_pixels,
)
from seanet_jax.data.progress import bar_on_terminal
from seanet_jax.errors import InputError
from seanet_jax.inference.classifier import Classifier
from seanet_jax.inference.contact_sheet import SIDE
from seanet_jax.inference.trained import Trained
from seanet_jax.printable import csv_text, printable, shortened

_BATCH_SIZE = 64


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
    picture: Image.Image | None = None
    error: str = ""


def predict(
    trained: Trained, sources: Sequence[ImageSource], top: int, *, with_pictures: bool = False
) -> list[Prediction]:
    """Classifies images, and shows a bar on a terminal.

    Args:
        trained: The network and the specification of its images.
        sources: The images.
        top: Number of classes of a prediction.
        with_pictures: Whether to keep the part of each image that the network sees.

    Returns:
        A prediction for each image, in their order.

    Raises:
        InputError: If the network does not take gray or RGB images, or no image can be read.
    """
    check_picture_channels(trained.images)
    classifier = Classifier(trained, min(_BATCH_SIZE, len(sources)))
    budget = MemoryBudget()
    # As the images of a folder are decoded for training. The pictures of a sheet are made of no more.
    smallest = max(trained.images.height, trained.images.width)

    def decode(source: ImageSource) -> tuple[np.ndarray, Image.Image | None] | str:
        try:
            with open_image(source, budget, smallest=smallest) as image:
                picture = preview(image, trained.images, SIDE) if with_pictures else None
                return to_pixels(image, trained.images), picture
        except InputError as error:
            return str(error)

    predictions: list[Prediction] = []
    with bar_on_terminal("Classifying", len(sources)) as bar, lenient_pillow(), ThreadPool() as pool:
        for batch, decoded in _decoded_ahead(pool, decode, sources):
            predictions += _classify(classifier, batch, decoded, trained.images.class_names, top)
            bar.update(len(batch))
    if all(prediction.error for prediction in predictions):
        if len(predictions) == 1:
            raise InputError(f"{predictions[0].error}; name another file")
        raise InputError(f"none of the {len(predictions):,} images can be read; name other files or folders")
    return predictions


def _decoded_ahead(pool: Any, decode: Any, sources: Sequence[ImageSource]) -> Iterator[tuple[Any, list[Any]]]:
    """Yields the batches with what ``decode`` made of them, and decodes the next one meanwhile."""
    waiting = None
    for start in range(0, len(sources), _BATCH_SIZE):
        batch = sources[start : start + _BATCH_SIZE]
        following = batch, pool.map_async(decode, batch, chunksize=1)
        if waiting is not None:
            yield waiting[0], waiting[1].get()
        waiting = following
    if waiting is not None:
        yield waiting[0], waiting[1].get()


def _classify(
    classifier: Classifier, batch: Sequence[ImageSource], decoded: Sequence[Any], names: Sequence[str], top: int
) -> Iterator[Prediction]:
    pixels = [found[0] for found in decoded if not isinstance(found, str)]
    rows = iter(classifier.probabilities(classifier(np.stack(pixels))) if pixels else ())
    for source, found in zip(batch, decoded, strict=True):
        if isinstance(found, str):
            yield Prediction(source.path, error=found)
            continue
        row = next(rows)
        likeliest = np.argsort(-row, kind="stable")[:top]
        yield Prediction(source.path, [(names[number], float(row[number])) for number in likeliest], found[1])


def as_text(predictions: Sequence[Prediction]) -> str:
    """Returns the predictions for people: each path, and below it its classes. Images with an error are left out."""
    lines = []
    for prediction in predictions:
        if not prediction.error:
            lines.append(printable(prediction.path))
            lines += [f"  {probability:7.2%}  {shortened(name)}" for name, probability in prediction.classes]
    return "\n".join(lines)


def as_json(predictions: Sequence[Prediction]) -> str:
    """Returns the predictions as a JSON array with an object for each image."""
    values = []
    for path, classes, _, error in predictions:
        found = [{"name": name, "probability": probability} for name, probability in classes]
        values.append({"path": str(path)} | ({"error": error} if error else {"predictions": found}))
    return json.dumps(values, indent=2, allow_nan=False)


def as_csv(predictions: Sequence[Prediction]) -> str:
    """Returns the predictions as CSV, a row for each class of each image. No spreadsheet takes a text for a formula."""
    return csv_text([dict.fromkeys(_COLUMNS) | row for row in _rows(predictions)])


def as_json_lines(predictions: Sequence[Prediction]) -> str:
    """Returns the predictions as JSON lines, an object for each class of each image."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in _rows(predictions))


_COLUMNS = ("file", "rank", "class", "probability", "error")


def _rows(predictions: Sequence[Prediction]) -> Iterator[dict[str, Any]]:
    for path, classes, _, error in predictions:
        if error:
            yield {"file": str(path), "error": error}
        for rank, (name, probability) in enumerate(classes, start=1):
            yield {"file": str(path), "rank": rank, "class": name, "probability": probability}
