"""Compares each metric with numbers computed by hand and with a plain loop."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from seanet_jax.errors import InputError
from seanet_jax.inference import metrics

# Four images, three classes: correct; wrong; a tie whose first class is the label, so correct; the same tie, whose
# second class is the label, so wrong.
LOGITS = np.log([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2]])
LABELS = np.array([0, 2, 0, 1])


@st.composite
def predictions(draw):
    """Draws labels, and logits in steps of a half, so that some are equal."""
    count, classes = draw(st.integers(1, 40)), draw(st.integers(1, 7))
    source = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    return source.randint(-6, 7, (count, classes)) / 2, source.randint(0, classes, count)


def predicted_class(row):
    best = 0
    for index in range(1, len(row)):
        if row[index] > row[best]:
            best = index
    return best


# Accuracy.


def test_top_k_by_hand():
    assert [metrics.top_k_accuracy(LOGITS, LABELS, k) for k in (1, 2, 3)] == [0.5, 1.0, 1.0]


@given(predictions())
def test_top_k_equals_a_plain_loop(made):
    logits, labels = made
    for k in range(1, logits.shape[1] + 1):
        right = 0
        for row, label in zip(logits, labels, strict=True):
            ranking = sorted(range(len(row)), key=lambda index: (-row[index], index))
            right += label in ranking[:k]
        assert metrics.top_k_accuracy(logits, labels, k) == right / len(labels)


# Confusion matrix.


def test_confusion_by_hand():
    confusion = metrics.confusion_matrix(LOGITS, LABELS)
    assert confusion.tolist() == [[2, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert metrics.class_accuracies(confusion).tolist() == [1, 0, 0]
    assert metrics.most_confused(confusion, 5) == [(1, 0, 1), (2, 1, 1)]
    assert metrics.most_confused(np.array([[5, 1, 0], [3, 9, 2], [0, 4, 1]]), 2) == [(2, 1, 4), (1, 0, 3)]


def test_the_mean_over_classes_counts_a_rare_class_as_much_as_a_frequent_one():
    # Classes of 3, 1 and 1 images with recalls of 2/3, 1 and 0, and a class without images. Top-1 accuracy is 3/5.
    confusion = np.array([[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert metrics.mean_class_accuracy(confusion) == pytest.approx((2 / 3 + 1 + 0) / 3, rel=1e-15)
    assert metrics.mean_class_accuracy(np.array([[3, 1], [2, 2]])) == 5 / 8  # classes of equal size: top-1 accuracy


def test_a_class_of_the_same_superclass_counts_as_right():
    confusion = np.array([[5, 1, 2], [3, 4, 0], [6, 0, 7]])
    names, merged = metrics.superclass_confusion(confusion, ("y", "x", "y"))
    assert names == ["x", "y"] and merged.tolist() == [[4, 3], [1, 20]]
    assert metrics.superclass_accuracy(confusion, ("y", "x", "y")) == 24 / 28
    own = metrics.superclass_accuracy(confusion, ("a", "b", "c"))
    assert own == np.trace(confusion) / 28 and metrics.superclass_accuracy(confusion, ("a",) * 3) == 1


def test_a_class_without_images_has_no_accuracy():
    found = metrics.class_accuracies(metrics.confusion_matrix(LOGITS[:1], LABELS[:1]))
    assert found[0] == 1 and np.isnan(found[1:]).all()


@given(predictions())
def test_confusion_equals_a_plain_loop(made):
    logits, labels = made
    classes = logits.shape[1]
    counts = [[0] * classes for _ in range(classes)]
    for row, label in zip(logits, labels, strict=True):
        counts[label][predicted_class(row)] += 1
    confusion = metrics.confusion_matrix(logits, labels)
    assert confusion.tolist() == counts
    for index, accuracy in enumerate(metrics.class_accuracies(confusion)):
        images = sum(counts[index])
        assert (images == 0 and math.isnan(accuracy)) or accuracy == counts[index][index] / images
    recalls = [row[index] / sum(row) for index, row in enumerate(counts) if sum(row)]
    assert metrics.mean_class_accuracy(confusion) == pytest.approx(sum(recalls) / len(recalls), rel=1e-12)
    pairs = [(i, j, n) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
    assert metrics.most_confused(confusion, 4) == sorted(pairs, key=lambda pair: -pair[2])[:4]


# Calibration.


def test_calibration_by_hand():
    shares = softmax(LOGITS, axis=1)
    found = metrics.reliability(shares, LABELS, bins=2)
    # The lower bin holds 0.4 (correct) and 0.4 (wrong); the upper bin holds 0.7 (correct) and 0.6 (wrong).
    assert found.images.tolist() == [2, 2]
    assert found.accuracy.tolist() == [0.5, 0.5]
    assert found.confidence == pytest.approx([0.4, 0.65])
    assert metrics.expected_calibration_error(found) == pytest.approx(0.5 * 0.1 + 0.5 * 0.15)


def test_a_bin_has_its_upper_border_and_not_its_lower():
    borders = np.array([[k / 10, 1 - k / 10] for k in (5, 6, 7, 8, 9, 10)])
    found = metrics.reliability(borders, np.zeros(6, int), bins=10)
    assert found.images.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert np.isnan(found.accuracy[:4]).all() and np.isnan(found.confidence[:4]).all()


@given(predictions(), st.integers(1, 20))
def test_calibration_equals_a_plain_loop(made, bins):
    logits, labels = made
    shares = softmax(logits, axis=1)
    error = 0.0
    for m in range(bins):
        confidences, right = [], []
        for row, label in zip(shares, labels, strict=True):
            confidence = row[predicted_class(row)]
            if m / bins < confidence and (confidence <= (m + 1) / bins or m == bins - 1):
                confidences.append(confidence)
                right.append(predicted_class(row) == label)
        if confidences:
            error += len(right) / len(labels) * abs(sum(right) / len(right) - sum(confidences) / len(confidences))
    found = metrics.reliability(shares, labels, bins)
    assert found.images.sum() == len(labels)
    assert metrics.expected_calibration_error(found) == pytest.approx(error, abs=1e-12)


def test_the_most_confident_mistake_comes_first():
    assert metrics.most_confident_mistakes(softmax(LOGITS, axis=1), LABELS, 5).tolist() == [1, 3]
    assert metrics.most_confident_mistakes(softmax(LOGITS, axis=1), LABELS, 1).tolist() == [1]


@given(predictions(), st.integers(0, 10))
def test_mistakes_are_the_loops(made, count):
    logits, labels = made
    shares = softmax(logits, axis=1)
    wrong = [i for i, (row, label) in enumerate(zip(shares, labels, strict=True)) if predicted_class(row) != label]
    assert (
        metrics.most_confident_mistakes(shares, labels, count).tolist()
        == sorted(wrong, key=lambda i: -max(shares[i]))[:count]
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.top_k_accuracy(LOGITS, LABELS, 4), "k is 4; it must be from 1 to 3"),
        (lambda: metrics.confusion_matrix(LOGITS * np.nan, LABELS), "must be finite numbers"),
        (lambda: metrics.confusion_matrix(LOGITS[0], LABELS), r"the scores are \[3\]"),
        (lambda: metrics.confusion_matrix(LOGITS, LABELS[:2]), r"must be integers \[4\]"),
        (lambda: metrics.confusion_matrix(LOGITS, LABELS / 1), "labels are float64"),
        (lambda: metrics.confusion_matrix(LOGITS, LABELS - 1), r"labels are -1\.\.1; they must be 0\.\.2"),
        (lambda: metrics.reliability(LOGITS - 1, LABELS), r"the probabilities are -\d.*; they must be 0\.\.1"),
        (lambda: metrics.reliability(LOGITS * 0 + 1.1, LABELS), r"the probabilities are 1\.1.*; they must be 0\.\.1"),
        (lambda: metrics.reliability(softmax(LOGITS, axis=1), LABELS, 0), "bins is 0"),
    ],
)
def test_what_cannot_be_measured_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
