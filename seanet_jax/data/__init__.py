"""Data sets for image classification, read into memory without TensorFlow."""

import os
from pathlib import Path

from seanet_jax.data.cifar import load_cifar
from seanet_jax.data.dataset import Dataset
from seanet_jax.data.digits import load_digits
from seanet_jax.data.original import CIFAR10, CIFAR100
from seanet_jax.data.tfds import default_data_dir
from seanet_jax.errors import InputError

__all__ = ["DATASETS", "Dataset", "load"]

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
    if name not in DATASETS:
        raise InputError(f"There is no data set {name!r}; known are {', '.join(DATASETS)}")
    if name == "digits":
        return load_digits()
    folder = Path(data_dir) if data_dir is not None else default_data_dir()
    return load_cifar(_CIFARS[name], folder.expanduser(), progress, mapped=mapped)
