"""A data set of NumPy arrays that a Python program gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seanet_jax.data.dataset import Dataset
from seanet_jax.data.pixel_statistics import mean_and_std
from seanet_jax.data.source import DatasetSource
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec

NAME = "arrays"
"""Name of the data set whose arrays are given to ``fit`` and ``evaluate``."""


def from_arrays(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    superclasses: Sequence[str] | None = None,
    flip: bool = True,
) -> Dataset:
    """Makes a data set of arrays, normalized by the mean and the deviation of its training images.

    Args:
        train_images: uint8 ``[N, H, W, C]``, values 0..255.
        train_labels: Integers ``[N]``, the number of each image's class, from 0.
        test_images: uint8 ``[M, H, W, C]``.
        test_labels: Integers ``[M]``.
        class_names: One name per class, in the order of the labels. By default, classes are named by their numbers, and
            each must have a training image.
        superclasses: Name of the superclass of each class, in the order of the labels, if the classes are grouped.
        flip: Whether a mirrored image still belongs to its class, so that training may mirror images at random.

    Returns:
        The data set, for ``fit(TrainConfig(dataset="arrays"), dataset=...)``. Arrays that are uint8 and int32 already
        are not copied.

    Raises:
        InputError: If an array is not as described.
    """
    images = [_images(f"{split}_images", value) for split, value in (("train", train_images), ("test", test_images))]
    labels = [_labels(f"{split}_labels", value) for split, value in (("train", train_labels), ("test", test_labels))]
    names = tuple(_names(labels[0]) if class_names is None else class_names)
    for name, values in zip(("train_labels", "test_labels"), labels, strict=True):
        _check_range(name, values, names, are_named=class_names is not None)
    height, width = images[0].shape[1:3]
    mean, std = mean_and_std(images[0])
    return Dataset(
        name=NAME,
        train_images=images[0],
        train_labels=labels[0].astype(np.int32, copy=False),
        test_images=images[1],
        test_labels=labels[1].astype(np.int32, copy=False),
        image_spec=ImageSpec(height, width, mean, std, names),
        flip=flip,
        superclasses=None if superclasses is None else tuple(superclasses),
    )


def _images(name: str, value: Any) -> np.ndarray:
    images = np.asarray(value)
    found = f"{name} is {images.dtype} {list(images.shape)}; it must be uint8 [N, H, W, C]"
    if images.ndim == 3:
        raise InputError(f"{found}: add an axis of channels to gray images, {name}[..., None]")
    if images.ndim != 4 or not images.size:
        raise InputError(f"{found}, with at least one pixel")
    if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise InputError(f"{found}: move the channels to the end, {name}.transpose(0, 2, 3, 1)")
    if images.dtype.kind == "f":
        unit = np.nanmax(images) <= 1
        scaled = f"({name} * 255).round()" if unit else f"{name}.round()"
        raise InputError(f"{found}, values 0..255: convert it by {scaled}.astype('uint8')")
    if images.dtype != np.uint8:
        raise InputError(f"{found}: if its values are 0..255, convert it by {name}.astype('uint8')")
    return images


def _labels(name: str, value: Any) -> np.ndarray:
    labels = np.asarray(value)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not labels.size:
        hint = f"; for one number of each class, give {name}.argmax(1)" if labels.ndim == 2 else ""
        raise InputError(f"{name} is {labels.dtype} {list(labels.shape)}; it must be integers [N]{hint}")
    return labels


def _names(train_labels: np.ndarray) -> list[str]:
    """Returns the numbers of the classes as their names, if there are images of all of them."""
    found = np.unique(train_labels)
    if found[0] == 1 and found[-1] == len(found):
        raise InputError("train_labels counts classes from 1; they count from 0: subtract 1 from all labels")
    if (missing := np.flatnonzero(found != np.arange(len(found)))).size:
        raise InputError(
            f"train_labels has {len(found)} different values, but {found[missing[0]]} in place of {missing[0]}; number "
            f"classes from 0 without gaps, or give class_names if class {missing[0]} has no training image"
        )
    return [str(label) for label in found]


def _check_range(name: str, labels: np.ndarray, class_names: Sequence[str], *, are_named: bool) -> None:
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= len(class_names):
        reason = f"there are {len(class_names)} class_names" if are_named else "these are the classes in train_labels"
        raise InputError(f"{name} is in {least}..{most}; it must be in 0..{len(class_names) - 1}, because {reason}")


def _load(*, data_dir: Path, progress: bool, mapped: bool) -> Dataset:
    raise InputError(
        "the data set arrays is given in Python, by fit(config, dataset=from_arrays(...)) and "
        "evaluate(run, dataset=from_arrays(...)); on the command line, name another, such as folder"
    )


ARRAYS_SOURCE = DatasetSource(NAME, "NumPy arrays", None, None, _load, is_on_disk=False)
