"""The number of images of each class: described in lines of text, and turned into weights of the loss."""

from collections.abc import Sequence

import numpy as np

from seanet_jax.data.dataset import Dataset
from seanet_jax.printable import printable_list, shortened

# A longer table would push the rest of the output off the screen.
_MOST_ROWS = 20
# Classes whose counts differ by a smaller factor are almost even, as those of a random split are.
_UNEVEN = 1.5
_LONGEST_NAME = 40


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the images of each class.

    Args:
        labels: int ``[N]``, values in ``0..num_classes - 1``.
        num_classes: Number of classes.

    Returns:
        int64 ``[num_classes]``.
    """
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


def balanced_class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Computes weights by which every class has the same share of the loss, however many images it has.

    The weight of a class is ``N / (num_classes * count)``, as scikit-learn's ``class_weight="balanced"``. The mean
    weight of the images is 1 if every class has an image. A class without images has the weight 0.

    Args:
        labels: int ``[N]``, the labels of the training images, in ``0..num_classes - 1``.
        num_classes: Number of classes.

    Returns:
        float32 ``[num_classes]``.
    """
    counts = class_counts(labels, num_classes)
    weights = np.zeros(num_classes)
    np.divide(len(labels), num_classes * counts, out=weights, where=counts > 0)
    return weights.astype(np.float32)


def describe_class_counts(dataset: Dataset) -> str:
    """Describes the number of training images of each class, for the start of a run.

    Args:
        dataset: The data set.

    Returns:
        One line. A table follows if there are at most 20 classes and one is 1.5 times as large as another.
    """
    names = dataset.image_spec.class_names
    counts = class_counts(dataset.train_labels, len(names))
    total, least, most = f"{len(dataset.train_labels):,} training images", counts.min(), counts.max()
    if least == most:
        return f"{total}, {least:,} of each of {len(names):,} classes"
    by_count = np.argsort(counts, kind="stable")
    first, last = (_shortened(names[index]) for index in (by_count[0], by_count[-1]))
    lines = [
        f"{total} of {len(names):,} classes: from {least:,} ({first}) to {most:,} ({last}), "
        f"median {np.median(counts):,.10g}"
    ]
    if len(names) <= _MOST_ROWS and most >= _UNEVEN * least:
        lines += _table(names, counts)
    if missing := [name for name, count in zip(names, counts, strict=True) if not count]:
        lines.append(f"classes without a training image: {printable_list(missing)}")
    return "\n".join(lines)


def _table(names: Sequence[str], counts: np.ndarray) -> list[str]:
    shown, numbers = [_shortened(name) for name in names], [f"{count:,}" for count in counts]
    width, digits = max(map(len, shown)), max(map(len, numbers))
    return [f"  {name:{width}}  {number:>{digits}}" for name, number in zip(shown, numbers, strict=True)]


def _shortened(name: str) -> str:
    return shortened(name, _LONGEST_NAME)
