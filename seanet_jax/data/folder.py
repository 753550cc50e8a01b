"""Images of the user's own, in a folder for each class."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from seanet_jax.console import print_error
from seanet_jax.data import image_formats
from seanet_jax.data.cache import Arrays, cached
from seanet_jax.data.dataset import Dataset
from seanet_jax.data.folder_layout import FolderFile, FolderLayout, read_layout
from seanet_jax.data.image_file import MemoryBudget, fit_image, lenient_pillow, open_image
from seanet_jax.data.memory import check_images_fit
from seanet_jax.data.pixel_statistics import mean_and_std
from seanet_jax.data.progress import progress_bar
from seanet_jax.data.source import OPTIONS, DatasetSource
from seanet_jax.errors import InputError, is_integer, is_number, plain
from seanet_jax.image_spec import ImageSpec
from seanet_jax.paths import UserPath, reading, user_path
from seanet_jax.printable import printable, printable_list

TEST_FRACTION = 0.2
"""Fraction of the images that are test images, if no folder holds them and no fraction is given."""

# Part of the key of every cached folder. Increase it when the same files give other arrays.
_FORMAT = 2
_CHANNELS = 3
# Enough to see what is wrong, and few enough to read.
_SHOWN = 3


def load_folder(
    data_dir: UserPath,
    *,
    image_size: int = 32,
    test_fraction: float | None = None,
    skip_broken: bool = False,
    progress: bool = True,
    mapped: bool = False,
) -> Dataset:
    """Loads the images of a folder that has a folder for each class; see ``folder_layout.read_layout``.

    Each image is turned upright, cropped at its center to a square and resized, as ``seanet predict`` does. Without a
    folder of test images, an image is a test image if the SHA-256 of its file, read as a fraction, is below
    ``test_fraction``. So adding, removing and renaming files moves no other image, and copies of a file are on the same
    side. The images of each split are sorted by the SHA-256 of their files, which mixes the classes.

    Args:
        data_dir: The folder.
        image_size: Height and width of the images, in pixels.
        test_fraction: Fraction of the images that are test images, between 0 and 1. None is ``TEST_FRACTION``, or the
            folder of test images if there is one.
        skip_broken: Whether to leave out files that cannot be read as images. Otherwise they are an error.
        progress: Whether to show a progress bar if stderr is a terminal.
        mapped: Whether decoded images may stay on disk until they are used. Then nothing is reported either.

    Returns:
        The data set. The mean and deviation in its ``image_spec`` are those of the training images.

    Raises:
        InputError: If an argument is invalid, the folder has none of the layouts, a file cannot be read, there are no
            training or no test images, or the images do not fit into memory.
    """
    folder = user_path(data_dir).absolute()
    image_size, test_fraction = plain(image_size), plain(test_fraction)
    if not is_integer(image_size, minimum=1):
        raise InputError(f"image_size is {image_size!r}; it must be a positive number of pixels")
    if test_fraction is not None and not (is_number(test_fraction) and 0 < test_fraction < 1):
        raise InputError(f"test_fraction is {test_fraction!r}; it must be between 0 and 1, both excluded")
    layout = read_layout(folder)
    if layout.has_test and test_fraction is not None:
        raise InputError(f"{folder} has a folder of test images; leave test_fraction out, or move them to the others")
    fraction = TEST_FRACTION if test_fraction is None else test_fraction
    if not mapped:
        check_images_fit(len(layout.files), image_size, image_size, _CHANNELS)

    def build() -> Arrays:
        return _build(folder, layout, image_size, fraction, progress)

    shapes: dict[str, tuple[tuple[int | None, ...], str]] = {"about": ((), "U")}
    for split in ("train", "test"):
        shapes[f"{split}_images"] = ((None, image_size, image_size, _CHANNELS), "u1")
        shapes[f"{split}_labels"] = ((None,), "i4")
    # One cache per folder: other files of this name are older than a change of the folder or of the settings.
    name = f"folder-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]}"
    arrays = cached(name, (), shapes, build, key=_key(folder, layout, image_size, fraction), mapped=mapped)
    about = json.loads(str(arrays["about"]))
    if about["num_broken"] and not skip_broken:
        raise InputError(f"{_broken(about, layout)}; mend or remove them, or leave them out with --skip-broken")
    if not mapped:
        left_out = [f"Left out: {_broken(about, layout)}"] if about["num_broken"] else []
        for note in (*left_out, *layout.notes, *about["notes"]):
            print_error(printable(note))  # names may have line breaks
    return Dataset(
        name="folder",
        train_images=arrays["train_images"],
        train_labels=arrays["train_labels"],
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"],
        image_spec=ImageSpec(
            image_size, image_size, tuple(about["mean"]), tuple(about["std"]), tuple(layout.class_names)
        ),
        flip=True,
    )


def _key(folder: Path, layout: FolderLayout, image_size: int, fraction: float) -> str:
    """Returns a text that changes when the arrays of a folder do."""
    settings: list[Any] = [_FORMAT, image_size, None if layout.has_test else fraction]
    # What Pillow reads, and to which pixels, depends on its version and on the libraries it was built with.
    settings += [PIL.__version__, image_formats.readable()]
    settings += [
        (os.fspath(file.path), file.class_name, file.is_test, file.state, file.problem) for file in layout.files
    ]
    return json.dumps(settings)


def _broken(about: dict[str, Any], layout: FolderLayout) -> str:
    """Returns the number of files that cannot be read, and what is wrong with the first."""
    count, shown = about["num_broken"], about["broken"]
    more = f", and {count - len(shown):,} more" if count > len(shown) else ""
    return f"{count:,} of {len(layout.files):,} files cannot be read as images: {printable_list(shown, '; ')}{more}"


class _Decoded(NamedTuple):
    """The images of all files, and what was found while they were decoded.

    Attributes:
        images: uint8 [N, H, W, C]. The image of a broken file is undefined.
        digests: The SHA-256 of each file, or b"" if it is broken.
        broken: What is wrong with the broken files, in order.
    """

    images: np.ndarray
    digests: Sequence[bytes]
    broken: Sequence[str]


def _build(folder: Path, layout: FolderLayout, image_size: int, fraction: float, progress: bool) -> Arrays:
    """Decodes all images, splits them and describes what was found."""
    with progress_bar(f"Decoding the images of {folder}", len(layout.files), progress) as bar:
        decoded = _decode(layout.files, image_size, bar.update)
    labels = {name: label for label, name in enumerate(layout.class_names)}
    order: dict[str, list[int]] = {"train": [], "test": [], "broken": []}
    for index, (file, digest) in enumerate(zip(layout.files, decoded.digests, strict=True)):
        is_test = _fraction(digest) < fraction if file.is_test is None else file.is_test
        order["broken" if not digest else "test" if is_test else "train"].append(index)
    for indices in order.values():
        indices.sort(key=lambda index: (decoded.digests[index], labels[layout.files[index].class_name]))
    about = {"num_broken": len(decoded.broken), "broken": decoded.broken[:_SHOWN]}
    for split in ("train", "test"):
        if not order[split]:
            why = f", because {_broken(about, layout)}" if decoded.broken else ""
            title = "training" if split == "train" else split
            raise InputError(f"{folder} gives no {title} images{why}; add images, or change --test-fraction")
    # In place, because a copy of all images may not fit into memory.
    _permute(decoded.images, [*order["train"], *order["test"], *order["broken"]])
    arrays: Arrays = {}
    start = 0
    for split in ("train", "test"):
        stop = start + len(order[split])
        arrays[f"{split}_images"] = decoded.images[start:stop]
        classes = [labels[layout.files[index].class_name] for index in order[split]]
        arrays[f"{split}_labels"] = np.array(classes, np.int32)
        start = stop
    about["mean"], about["std"] = mean_and_std(arrays["train_images"])
    about["notes"] = [*_missing(layout, arrays), *_duplicates(layout.files, decoded.digests, order)]
    arrays["about"] = np.array(json.dumps(about))
    return arrays


def _decode(files: Sequence[FolderFile], image_size: int, report: Callable[[int], object]) -> _Decoded:
    images = np.empty((len(files), image_size, image_size, _CHANNELS), np.uint8)
    budget = MemoryBudget()

    def decode(index: int) -> tuple[bytes, str]:
        path, problem = files[index].path, files[index].problem
        if problem:
            return b"", problem
        # A disk that fails is not a broken image: the error ends the reading, and nothing is cached.
        with reading(path), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        try:
            with open_image(path, budget, smallest=image_size) as image:
                images[index] = np.asarray(fit_image(image, (image_size, image_size)))
        except InputError as error:
            return b"", str(error)
        return digest, ""

    digests, broken = [], []
    # Pillow and hashlib let other threads run while they work.
    with lenient_pillow(), ThreadPool() as pool:
        for digest, problem in pool.imap(decode, range(len(files)), chunksize=16):
            digests.append(digest)
            if problem:
                broken.append(problem)
            report(1)
    return _Decoded(images, digests, broken)


def _fraction(digest: bytes) -> float:
    """Returns a digest as a fraction between 0 and 1."""
    return int.from_bytes(digest[:8]) / 2**64


def _permute(rows: np.ndarray, order: Sequence[int]) -> None:
    """Replaces the rows of an array by ``rows[order]``, without a second array. ``order`` is a permutation."""
    moved = bytearray(len(order))
    for start in range(len(order)):
        if moved[start]:
            continue
        first, to = rows[start].copy(), start
        while not moved[order[to]] and order[to] != start:
            rows[to] = rows[order[to]]
            moved[to] = True
            to = order[to]
        rows[to] = first
        moved[to] = True


def _missing(layout: FolderLayout, arrays: Arrays) -> list[str]:
    """Returns a sentence for each split that lacks images of a class."""
    notes = []
    for split, title in (("train", "training"), ("test", "test")):
        counts = np.bincount(arrays[f"{split}_labels"], minlength=len(layout.class_names))
        if missing := [name for name, count in zip(layout.class_names, counts, strict=True) if not count]:
            notes.append(f"No {title} images in {len(missing)} of {len(counts)} classes: {printable_list(missing)}")
    return notes


def _duplicates(files: Sequence[FolderFile], digests: Sequence[bytes], order: dict[str, list[int]]) -> list[str]:
    """Returns a sentence for each kind of copies among the files."""
    copies: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for split in ("train", "test"):
        for index in order[split]:
            copies[digests[index]].append((split, index))
    leaked, repeated, ambiguous = [], [], []
    for found in copies.values():
        if len(found) == 1:
            continue
        first, *others = [index for _, index in found]
        if found[0][0] != found[-1][0]:
            leaked += [(first, index) for split, index in found if split == "test"]
        repeated += [(first, index) for index in others if files[index].class_name == files[first].class_name]
        ambiguous += [(first, index) for index in others if files[index].class_name != files[first].class_name]
    notes = []
    for pairs, what in (
        (leaked, "Test images that are also training images, which makes the test accuracy too high"),
        (repeated, "Copies of an image of the same class"),
        (ambiguous, "Copies of an image of another class, which no network can tell apart"),
    ):
        if pairs:
            example = " and ".join(str(files[index].path) for index in pairs[0])
            notes.append(f"{what}: {len(pairs):,}, such as {example}")
    return notes


FOLDER_SOURCE = DatasetSource(
    "folder", "a folder of images", None, None, load_folder, needs_data_dir=True, options=OPTIONS
)
