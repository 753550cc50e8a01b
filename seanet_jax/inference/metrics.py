"""Accuracy, confusion and calibration of a classifier: pure functions of arrays, computed in float64.

The predicted class is the one with the largest score. If scores are equal, it is the first of them, as in training.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from seanet_jax.errors import InputError, is_integer, plain, positive_integers


class Confusion(NamedTuple):
    """A pair of classes that the classifier confused.

    Attributes:
        label: Index of the true class.
        prediction: Index of the predicted class.
        images: Number of images of the true class that were predicted as the other.
    """

    label: int
    prediction: int
    images: int


class Reliability(NamedTuple):
    """Confidence and accuracy in M bins of equal width.

    Bin m holds the images with a confidence above m / M and up to (m + 1) / M.

    Attributes:
        images: Number of images per bin, int64 ``[M]``.
        confidence: Mean confidence per bin, ``[M]``; NaN in an empty bin.
        accuracy: Share of correct predictions per bin, ``[M]``; NaN in an empty bin.
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Returns the share of images whose label is among the k largest scores.

    Args:
        scores: Score per image and class, ``[N, classes]``. Only their order matters.
        labels: True class per image, integers ``[N]`` from 0.
        k: Number of scores to consider, from 1 to the number of classes.

    Returns:
        The accuracy, from 0 to 1.

    Raises:
        InputError: If an argument has another shape, type or range.
    """
    found, truth = _checked(scores, labels)
    k = plain(k)
    if not is_integer(k, minimum=1) or k > found.shape[1]:
        raise InputError(f"top_k_accuracy: k is {k!r}; it must be from 1 to {found.shape[1]}, the number of classes")
    own = np.take_along_axis(found, truth[:, None], 1)
    earlier = np.arange(found.shape[1]) < truth[:, None]
    ahead = (found > own) | ((found == own) & earlier)
    return float(np.mean(ahead.sum(1) < k))


def confusion_matrix(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Counts the images by true class (row) and predicted class (column).

    Args:
        scores: Score per image and class, ``[N, classes]``. Only their order matters.
        labels: True class per image, integers ``[N]`` from 0.

    Returns:
        Number of images, int64 ``[classes, classes]``.

    Raises:
        InputError: If an argument has another shape, type or range.
    """
    found, truth = _checked(scores, labels)
    classes = found.shape[1]
    return np.bincount(truth * classes + found.argmax(1), minlength=classes**2).reshape(classes, classes)


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """Returns the share of correct predictions among the images of each class.

    Args:
        confusion: Confusion matrix, as ``confusion_matrix`` returns it.

    Returns:
        Accuracy per class, ``[classes]``; NaN for a class without images.
    """
    return _ratio(np.diag(confusion), confusion.sum(1))


def mean_class_accuracy(confusion: np.ndarray) -> float:
    """Returns the mean of the accuracies of the classes, in which a rare class counts as much as a frequent one.

    It is also called balanced accuracy or macro-averaged recall. If every class has equally many images, it equals the
    top-1 accuracy.

    Args:
        confusion: Confusion matrix of one image or more, as ``confusion_matrix`` returns it. Classes without images are
            left out.

    Returns:
        The accuracy, from 0 to 1.
    """
    return float(np.nanmean(class_accuracies(confusion)))


def superclass_confusion(confusion: np.ndarray, superclasses: Sequence[str]) -> tuple[Sequence[str], np.ndarray]:
    """Counts the images by true superclass (row) and superclass of the predicted class (column).

    Args:
        confusion: Confusion matrix, as ``confusion_matrix`` returns it.
        superclasses: Name of the superclass of each class.

    Returns:
        The names of the S superclasses in alphabetical order, and the number of images, int64 ``[S, S]``.
    """
    names = sorted(set(superclasses))
    groups = [names.index(name) for name in superclasses]
    merged = np.zeros((len(names), len(names)), np.int64)
    np.add.at(merged, np.ix_(groups, groups), confusion)
    return names, merged


def superclass_accuracy(confusion: np.ndarray, superclasses: Sequence[str]) -> float:
    """Returns the share of images whose predicted class is in the superclass of the true class.

    Args:
        confusion: Confusion matrix of one image or more, as ``confusion_matrix`` returns it.
        superclasses: Name of the superclass of each class.

    Returns:
        The accuracy, from 0 to 1. It is the top-1 accuracy or more.
    """
    _, merged = superclass_confusion(confusion, superclasses)
    return float(np.trace(merged) / merged.sum())


def most_confused(confusion: np.ndarray, count: int) -> Sequence[Confusion]:
    """Returns the pairs of classes with the most misclassified images, the most confused pair first.

    The two directions of a pair count separately. Pairs with equally many images are in the order of the matrix.

    Args:
        confusion: Confusion matrix, as ``confusion_matrix`` returns it.
        count: Maximum number of pairs. Pairs without a misclassified image are left out.
    """
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [Confusion(int(row), int(column), int(wrong[row, column])) for row, column in pairs if wrong[row, column]]


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> Reliability:
    """Measures how accurate the predictions of each confidence are.

    The confidence of a prediction is the probability of the predicted class.

    Args:
        probabilities: Probability per image and class, from 0 to 1, ``[N, classes]``. Rows need not sum to 1, so
            independent probabilities per class are allowed.
        labels: True class per image, integers ``[N]`` from 0.
        bins: Number of bins, M.

    Raises:
        InputError: If an argument has another shape, type or range.
    """
    shares, truth = _checked(probabilities, labels)
    (bins,) = positive_integers("reliability", bins=bins)
    if shares.min() < 0 or shares.max() > 1 + 1e-6:
        raise InputError(f"reliability: the probabilities are {shares.min()}..{shares.max()}; they must be 0..1")
    confidences = shares.max(1)
    # side="left" puts a confidence on the edge of two bins into the lower one. The edge at 1 is left out, so that a
    # confidence that rounding lifts above 1 is still in the last bin.
    chosen = np.searchsorted(np.arange(1, bins) / bins, confidences, side="left")
    images = np.bincount(chosen, minlength=bins)
    correct = shares.argmax(1) == truth
    sums = (np.bincount(chosen, weights, bins) for weights in (confidences, correct.astype(np.float64)))
    return Reliability(images, *(_ratio(total, images) for total in sums))


def expected_calibration_error(found: Reliability) -> float:
    """Returns the expected calibration error, ``sum_m |B_m| / N * |acc(B_m) - conf(B_m)|``.

    ``B_m`` is the set of images in bin m, and N is the number of all images. The formula is equation 3 of Guo, Pleiss,
    Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017.

    Args:
        found: Accuracy and confidence per bin, as ``reliability`` returns them. The paper uses 15 bins.

    Returns:
        The error, from 0 to 1.
    """
    gaps = np.abs(found.accuracy - found.confidence)
    return float(np.nansum(found.images * gaps) / found.images.sum())


def most_confident_mistakes(probabilities: ArrayLike, labels: ArrayLike, count: int) -> np.ndarray:
    """Finds the wrong predictions with the highest confidence.

    Args:
        probabilities: Probability per image and class, ``[N, classes]``.
        labels: True class per image, integers ``[N]`` from 0.
        count: Maximum number of images.

    Returns:
        Indices of the images, the most confident mistake first; int64.

    Raises:
        InputError: If an argument has another shape, type or range.
    """
    shares, truth = _checked(probabilities, labels)
    order = np.argsort(-shares.max(1), kind="stable")
    return order[(shares.argmax(1) != truth)[order]][:count]


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores in float64 and the labels in int64, after checking both."""
    found, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise InputError(f"the scores are {list(found.shape)}; they must be finite numbers [N, classes], not empty")
    if truth.shape != found.shape[:1] or not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"the labels are {truth.dtype} {list(truth.shape)}; they must be integers [{len(found)}]")
    if truth.min() < 0 or truth.max() >= found.shape[1]:
        raise InputError(f"the labels are {truth.min()}..{truth.max()}; they must be 0..{found.shape[1] - 1}")
    return found, truth.astype(np.int64)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divides elementwise; NaN where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
