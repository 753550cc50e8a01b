"""Any data set of images with one label that TFDS has prepared, read without TensorFlow."""

import functools
import io
import itertools
import json
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from seanet_jax.console import print_error
from seanet_jax.data.cache import Arrays, cached
from seanet_jax.data.dataset import Dataset
from seanet_jax.data.image_file import MemoryBudget, decoded_image, fit_image, lenient_pillow
from seanet_jax.data.memory import check_images_fit
from seanet_jax.data.pixel_statistics import mean_and_std
from seanet_jax.data.prepared_info import PREFIX, PreparedInfo, PreparedSplit, read_info
from seanet_jax.data.progress import progress_bar
from seanet_jax.data.records import read_records
from seanet_jax.data.source import DatasetSource
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.paths import is_file, reading

# Height and width of images whose size differs, in pixels; the presets are made for images of CIFAR's size.
_SIZE = 32
# Part of the key of every cached data set. Increase it when the same files give other arrays.
_FORMAT = 1
_BATCH = 4096  # images decoded at once, so that their files are not all in memory
# Data sets of digits and letters, which are others or none if they are mirrored.
_NOT_MIRRORED = {
    *("binarized_mnist", "binary_alpha_digits", "cmaterdb", "emnist", "kmnist", "mnist", "mnist_corrupted", "omniglot"),
    *("svhn_cropped",),
}


def load_prepared(name: str, *, data_dir: Path, progress: bool, mapped: bool, image_size: int | None = None) -> Dataset:
    """Loads a data set that TFDS has prepared.

    Images are gray if TFDS stores one channel, and RGB otherwise. The images are in the order of TFDS. If there is no
    split "test", the split "validation" has the test images.

    Args:
        name: Name of the data set; see ``seanet_jax.data.prepared_info.read_info``.
        data_dir: The data folder of TFDS.
        progress: Whether a progress bar is wanted.
        mapped: Whether decoded images may stay on disk until they are used.
        image_size: Height and width to which images are resized, as ``seanet predict`` does. None keeps their size, or
            is 32 if they have different sizes.

    Returns:
        The data set. The mean and deviation in its ``image_spec`` are those of the training images.

    Raises:
        InputError: If the data set is not there, is damaged or has no image and label, or does not fit into memory.
    """
    info = read_info(name, data_dir)
    height, width = size = (info.size or (_SIZE, _SIZE)) if image_size is None else (image_size, image_size)
    counts = {"train": sum(info.train.counts), "test": sum(info.test.counts)}
    if not mapped:
        check_images_fit(sum(counts.values()), height, width, info.channels)
        if info.test.name != "test":
            print_error(f"{name} has no split test; the images of its split {info.test.name} are the test images")
    shapes: dict[str, tuple[tuple[int | None, ...], str]] = dict.fromkeys(("mean", "std"), ((info.channels,), "f8"))
    for split, count in counts.items():
        shapes[f"{split}_images"] = ((count, height, width, info.channels), "u1")
        shapes[f"{split}_labels"] = ((count,), "i4")
    with reading(info.folder):
        files = [path for path in info.folder.iterdir() if is_file(path)]
    # Other sizes of the same data set have other names, so that all stay in the cache.
    title = ".".join((*info.folder.relative_to(data_dir).parts, f"{height}x{width}x{info.channels}"))
    arrays = cached(
        f"tfds.{title}",
        files,
        shapes,
        functools.partial(_build, name, info, size, progress),
        key=json.dumps([_FORMAT, PIL.__version__]),
        mapped=mapped,
    )
    return Dataset(
        name=name,
        train_images=arrays["train_images"],
        train_labels=arrays["train_labels"],
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"],
        image_spec=ImageSpec(
            height, width, tuple(arrays["mean"].tolist()), tuple(arrays["std"].tolist()), info.class_names
        ),
        flip=info.folder.relative_to(data_dir).parts[0] not in _NOT_MIRRORED,
    )


def _build(name: str, info: PreparedInfo, size: tuple[int, int], progress: bool) -> Arrays:
    """Decodes all images."""
    arrays: Arrays = {}
    total = sum((*info.train.counts, *info.test.counts))
    with (
        progress_bar(f"Decoding {name} from {info.folder}", total, progress) as bar,
        lenient_pillow(),
        ThreadPool() as pool,
    ):
        for split, found in (("train", info.train), ("test", info.test)):
            images, labels = _read_split(info, found, size, pool, bar.update)
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    arrays["mean"], arrays["std"] = map(np.array, mean_and_std(arrays["train_images"]))
    return arrays


def _read_split(
    info: PreparedInfo, split: PreparedSplit, size: tuple[int, int], pool: ThreadPool, report: Callable[[int], Any]
) -> tuple[np.ndarray, np.ndarray]:
    count = sum(split.counts)
    images = np.empty((count, *size, info.channels), np.uint8)
    labels = np.empty(count, np.int32)
    budget = MemoryBudget()
    start = 0
    for path, expected in zip(split.files, split.counts, strict=True):
        # One record more than expected is enough to find that there are too many.
        records = itertools.islice(read_records(path, info.file_format), expected + 1)
        found = 0
        while batch := list(itertools.islice(records, _BATCH)):
            stop = min(len(batch), expected - found)
            examples = [_parse(record, info, f"example {found + i} of {path}") for i, record in enumerate(batch[:stop])]
            first = start + found
            labels[first : first + stop] = [label for _, label in examples]

            def decode(index: int, examples: list[tuple[bytes, int]] = examples, first: int = first) -> str:
                try:
                    images[first + index] = _decode(examples[index][0], info, size, budget)
                except Exception as error:  # Pillow raises a dozen types of exceptions for damaged files
                    return str(error) or type(error).__name__
                return ""

            for index, problem in enumerate(pool.map(decode, range(stop), chunksize=64)):
                if problem:
                    raise InputError(f"the image of example {found + index} of {path} cannot be read ({problem})")
            found += len(batch)
            report(stop)
        if found != expected:
            raise InputError(
                f"{path} holds {'more' if found > expected else found} examples; it should hold {expected}, as "
                f"{info.folder / 'dataset_info.json'} says"
            )
        start += expected
    return images, labels


def _parse(record: bytes, info: PreparedInfo, where: str) -> tuple[bytes, int]:
    """Returns the image file and the label of an example, which is a serialized ``tf.train.Example``."""
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(record).features.feature
    except Exception as error:  # protobuf's DecodeError is no public class
        raise InputError(f"{where} is damaged: {error}") from error
    image, label = features[info.image_key].bytes_list.value, features[info.label_key].int64_list.value
    if len(image) != 1 or len(label) != 1:
        raise InputError(
            f"{where} has {len(image)} values of {info.image_key} and {len(label)} of {info.label_key}; it must have "
            "one of each"
        )
    if not 0 <= label[0] < len(info.class_names):
        raise InputError(
            f"{where} has the label {label[0]}, which is not one of the {len(info.class_names)} classes; a split "
            "without labels can neither be trained nor tested on"
        )
    return image[0], label[0]


def _decode(content: bytes, info: PreparedInfo, size: tuple[int, int], budget: MemoryBudget) -> np.ndarray:
    """Returns the pixels of an image file, uint8 ``[H, W, C]``."""
    height, width = size
    with decoded_image(io.BytesIO(content), budget) as image:
        if info.size is not None and (image.height, image.width) != info.size:
            raise ValueError(f"it has {image.height} x {image.width} pixels, not {info.size[0]} x {info.size[1]}")
        same = (image.height, image.width) == size and image.mode in ("L", "RGB")
        fitted = image if same else fit_image(image, (width, height))
        return np.asarray(fitted.convert("L" if info.channels == 1 else "RGB")).reshape(height, width, info.channels)


def _load_any(*, data_dir: Path, progress: bool, mapped: bool, image_size: int | None = None) -> Dataset:
    raise InputError(f"{PREFIX}NAME stands for the data sets that TFDS has prepared; name one, such as {PREFIX}mnist")


PREPARED_SOURCE = DatasetSource(
    f"{PREFIX}NAME", "any images prepared by TFDS", None, None, _load_any, options=("image_size",)
)
"""The row of the table of data sets that stands for all that TFDS has prepared."""


def prepared_source(name: str) -> DatasetSource:
    """Returns the description of a data set that TFDS has prepared.

    Args:
        name: Name of the data set, for which ``seanet_jax.data.prepared_info.is_prepared_name`` holds.
    """
    load = functools.partial(load_prepared, name)
    return DatasetSource(name, name.removeprefix(PREFIX), None, None, load, options=PREPARED_SOURCE.options)
