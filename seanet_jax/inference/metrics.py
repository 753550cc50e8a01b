"""How good a classifier's answers are, and how well it knows: pure functions of arrays, in float64.

Where scores are equal, the class that comes first is the answer, as in training.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from seanet_jax.errors import InputError, is_integer


class Confusion(NamedTuple):
    """Images of a class that were taken for another.

    Attributes:
        label: of the class.
        answer: the class they were taken for.
        images: how many.
    """

    label: int
    answer: int
    images: int


class Reliability(NamedTuple):
    """Confidence beside accuracy, in M bins of equal width: bin m holds confidences above m / M, up to (m + 1) / M.

    Attributes:
        images: int64 ``[M]``.
        confidence: ``[M]``, mean of the images in the bin; NaN where there are none.
        accuracy: ``[M]``, likewise.
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """The share of images whose label is among the k largest scores.

    Args:
        scores: ``[N, classes]``.
        labels: integers ``[N]``, from 0.
        k: from 1 to the number of classes.

    Raises:
        InputError: an argument is otherwise.
    """
    found, truth = _checked(scores, labels)
    if not is_integer(k, minimum=1) or k > found.shape[1]:
        raise InputError(f"top_k_accuracy: k is {k!r}; it must be from 1 to {found.shape[1]}, the classes there are")
    own = np.take_along_axis(found, truth[:, None], 1)
    earlier = np.arange(found.shape[1]) < truth[:, None]
    ahead = (found > own) | ((found == own) & earlier)
    return float(np.mean(ahead.sum(1) < k))


def confusion_matrix(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """How many images of each class (row) were taken for each (column).

    Args:
        scores: ``[N, classes]``.
        labels: integers ``[N]``, from 0.

    Returns:
        int64 ``[classes, classes]``.

    Raises:
        InputError: an argument is otherwise.
    """
    found, truth = _checked(scores, labels)
    classes = found.shape[1]
    return np.bincount(truth * classes + found.argmax(1), minlength=classes**2).reshape(classes, classes)


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """The share of each class's images that were recognised.

    Args:
        confusion: as ``confusion_matrix`` gives it.

    Returns:
        ``[classes]``; NaN for a class without images.
    """
    return _ratio(np.diag(confusion), confusion.sum(1))


def most_confused(confusion: np.ndarray, count: int) -> Sequence[Confusion]:
    """The pairs of classes of which most images were confused, in one direction; in order, the first pair first.

    Args:
        confusion: as ``confusion_matrix`` gives it.
        count: of pairs, at most; pairs never confused are left out.
    """
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [Confusion(int(row), int(column), int(wrong[row, column])) for row, column in pairs if wrong[row, column]]


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> Reliability:
    """How often the answers of each confidence are right.

    The confidence of an answer is its class's probability.

    Args:
        probabilities: ``[N, classes]``, from 0 to 1: distributions, or of each class on its own.
        labels: integers ``[N]``, from 0.
        bins: M.

    Raises:
        InputError: an argument is otherwise.
    """
    shares, truth = _checked(probabilities, labels)
    if not is_integer(bins, minimum=1):
        raise InputError(f"reliability: bins is {bins!r}; it must be a positive integer")
    if shares.min() < 0 or shares.max() > 1 + 1e-6:
        raise InputError(f"reliability: the probabilities are {shares.min()}..{shares.max()}; they must be 0..1")
    confidences = shares.max(1)
    # Upper ends, so that a confidence at the border of two bins is in the lower one; the last is open to rounding.
    chosen = np.searchsorted(np.arange(1, bins) / bins, confidences, side="left")
    images = np.bincount(chosen, minlength=bins)
    correct = shares.argmax(1) == truth
    sums = (np.bincount(chosen, weights, bins) for weights in (confidences, correct.astype(np.float64)))
    return Reliability(images, *(_ratio(total, images) for total in sums))


def expected_calibration_error(found: Reliability) -> float:
    """By how much confidence and accuracy differ: ``sum_m |B_m| / N * |acc(B_m) - conf(B_m)|``.

    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, eq. 3. ``B_m`` are the images
    in bin m, N is the number of all images.

    Args:
        found: as ``reliability`` gives it, with 15 bins in that paper.
    """
    gaps = np.abs(found.accuracy - found.confidence)
    return float(np.nansum(found.images * gaps) / found.images.sum())


def confidently_wrong(probabilities: ArrayLike, labels: ArrayLike, count: int) -> np.ndarray:
    """The wrong answers of which the network was surest.

    Args:
        probabilities: ``[N, classes]``.
        labels: integers ``[N]``, from 0.
        count: of images, at most.

    Returns:
        Indices of images, the surest first; int64.

    Raises:
        InputError: an argument is otherwise.
    """
    shares, truth = _checked(probabilities, labels)
    order = np.argsort(-shares.max(1), kind="stable")
    return order[(shares.argmax(1) != truth)[order]][:count]


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """In float64 and int64."""
    found, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise InputError(f"the answers are {list(found.shape)}; they must be finite numbers [N, classes], not empty")
    if truth.shape != found.shape[:1] or not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"the labels are {truth.dtype} {list(truth.shape)}; they must be integers [{len(found)}]")
    if truth.min() < 0 or truth.max() >= found.shape[1]:
        raise InputError(f"the labels are {truth.min()}..{truth.max()}; they must be 0..{found.shape[1] - 1}")
    return found, truth.astype(np.int64)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
