"""Data sets for image classification, read into memory without TensorFlow."""

import os
from pathlib import Path

from seanet_jax.data import cifar, digits
from seanet_jax.data.cifar import load_cifar
from seanet_jax.data.dataset import Dataset
from seanet_jax.data.digits import load_digits
from seanet_jax.data.original import CIFAR10, CIFAR100
from seanet_jax.data.tfds import default_data_dir
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec

__all__ = ["DATASETS", "Dataset", "image_spec", "load", "train_count"]

_CIFARS = {spec.name: spec for spec in (CIFAR10, CIFAR100)}

DATASETS: tuple[str, ...] = (*_CIFARS, "digits")


def load(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, progress: bool = True, mapped: bool = False
) -> Dataset:
    """Loads a data set into memory.

    Args:
        name: One of `DATASETS`.
        data_dir: Folder that holds CIFAR, or in which it is to be stored: prepared by TFDS, or in the original folder
            or archive. By default `$TFDS_DATA_DIR` or else `~/tensorflow_datasets`. The digits need no folder.
        progress: Whether to show progress bars where stderr is a terminal.
        mapped: Whether images that are decoded already may stay on disk until they are used, and unchecked; for a
            process that needs a part of them.

    Returns:
        The data set. Its content and order depend on the name alone.

    Raises:
        InputError: The name is unknown, or the data are damaged, missing and not to be downloaded, or not to be stored.
    """
    _demand_known(name)
    if name == "digits":
        return load_digits()
    folder = Path(data_dir) if data_dir is not None else default_data_dir()
    return load_cifar(_CIFARS[name], folder.expanduser(), progress, mapped=mapped)


def image_spec(name: str) -> ImageSpec:
    """What the images and classes of a data set are, without loading it.

    Args:
        name: One of `DATASETS`.

    Raises:
        InputError: The name is unknown.
    """
    _demand_known(name)
    return digits.IMAGE_SPEC if name == "digits" else cifar.image_spec(_CIFARS[name])


def train_count(name: str) -> int:
    """How many training images a data set has, without loading it; argument and errors as for `image_spec`."""
    _demand_known(name)
    return digits.TRAIN_COUNT if name == "digits" else _CIFARS[name].train_count


def _demand_known(name: str) -> None:
    if name not in DATASETS:
        raise InputError(f"There is no data set {name!r}; known are {', '.join(DATASETS)}")
