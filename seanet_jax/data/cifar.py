"""CIFAR-10 and CIFAR-100, read from whichever of their distributed forms is there."""

from pathlib import Path

import numpy as np

from seanet_jax.console import print_error
from seanet_jax.data import original, tfds
from seanet_jax.data.cache import Arrays, cached
from seanet_jax.data.dataset import Dataset
from seanet_jax.data.original import CIFAR10, CIFAR100, SIDE, CifarSpec
from seanet_jax.data.source import DatasetSource
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.paths import UserPath, exists, is_file, is_folder, reading, user_path

# The per-channel values that the literature uses for both data sets; they were measured on CIFAR-10.
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2023, 0.1994, 0.2010)


def load_cifar(spec: CifarSpec, data_dir: UserPath, progress: bool, *, mapped: bool = False) -> Dataset:
    """Loads a CIFAR data set from a data folder, and downloads it to that folder first if it is missing.

    The folder is searched for the data set as prepared by TFDS, then for the original folders, then for the original
    archives. The images are in the order of TFDS in every case, so that a seed gives the same run.

    Args:
        spec: `seanet_jax.data.original.CIFAR10` or `CIFAR100`.
        data_dir: The data folder.
        progress: Whether progress bars are wanted.
        mapped: Whether decoded images may stay on disk until they are used, in which case their checksums are not
            compared.

    Returns:
        The data set.

    Raises:
        InputError: If the data are damaged, or are missing and cannot be downloaded or stored.
    """
    data_dir = user_path(data_dir)
    if exists(data_dir) and not is_folder(data_dir):
        raise InputError(f"The data folder {data_dir} is a file; it must be the folder that holds it")
    if not tfds.is_prepared(spec, data_dir):
        found = original.find(spec, data_dir)
        if found is not None:
            return _dataset(spec, _from_original(spec, *found))
        _download(spec, data_dir, progress)
    return _dataset(spec, _from_prepared(spec, data_dir, progress, mapped))


def _from_original(spec: CifarSpec, layout: original.Layout, path: Path) -> Arrays:
    """Reads the original files. They need no cache, because their images are not compressed one by one."""
    print_error(f"Reading {spec.title} from {path}")
    content = original.read(spec, layout, path)
    arrays: Arrays = {"class_names": np.array(content.names["label"])}
    for name, split in (("train", content.train), ("test", content.test)):
        order = tfds.order(name, len(split.images))
        arrays[f"{name}_images"] = split.images[order]
        arrays[f"{name}_labels"] = split.labels["label"][order]
    return arrays


def _from_prepared(spec: CifarSpec, data_dir: Path, progress: bool, mapped: bool) -> Arrays:
    """Reads the data set as prepared by TFDS, whose PNG images take long to decode, through the cache."""

    def build() -> Arrays:
        train, test, names = tfds.read_prepared(spec, data_dir, progress)
        return {
            "class_names": np.array(names),
            "train_images": train.images,
            "train_labels": train.labels["label"],
            "test_images": test.images,
            "test_labels": test.labels["label"],
        }

    shapes: dict[str, tuple[tuple[int, ...], str]] = {"class_names": ((spec.num_classes,), "U")}
    for name, count in (("train", spec.train_count), ("test", spec.test_count)):
        shapes[f"{name}_images"] = ((count, SIDE, SIDE, 3), "u1")
        shapes[f"{name}_labels"] = ((count,), "i4")
    folder = tfds.prepared_folder(spec, data_dir)
    with reading(folder):
        files = [path for path in folder.iterdir() if is_file(path)]
    return cached(spec.name, files, shapes, build, mapped=mapped)


def _download(spec: CifarSpec, data_dir: Path, progress: bool) -> None:
    reason = tfds.unreachable(spec.url)
    if reason is not None:
        raise InputError(
            f"{spec.title} is not in {data_dir} (looked for {spec.name}/{spec.version} prepared by TFDS, for the "
            f"folders {spec.binary.folder} and {spec.python.folder}, and for the archives {spec.binary.archive} and "
            f"{spec.python.archive}) and {spec.url} cannot be downloaded ({reason}): give --data-dir a folder that "
            "holds one of these, or use the data set digits (experiments/digits.py), which needs no network"
        )
    print_error(f"Downloading {spec.title} from {spec.url} and preparing it in {data_dir}")
    tfds.download_and_prepare(spec, data_dir, lambda archive: original.read(spec, spec.binary, archive), progress)


def _dataset(spec: CifarSpec, arrays: Arrays) -> Dataset:
    return Dataset(
        name=spec.name,
        train_images=arrays["train_images"],
        train_labels=arrays["train_labels"],
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"],
        image_spec=_image_spec(tuple(arrays["class_names"].tolist())),
        flip=True,
        superclasses=spec.superclasses,
    )


def _image_spec(class_names: tuple[str, ...]) -> ImageSpec:
    return ImageSpec(SIDE, SIDE, _MEAN, _STD, class_names)


def _source(spec: CifarSpec) -> DatasetSource:
    def load(*, data_dir: Path, progress: bool, mapped: bool) -> Dataset:
        return load_cifar(spec, data_dir, progress, mapped=mapped)

    return DatasetSource(spec.name, spec.title, _image_spec(spec.class_names), spec.train_count, load)


CIFAR10_SOURCE, CIFAR100_SOURCE = _source(CIFAR10), _source(CIFAR100)
