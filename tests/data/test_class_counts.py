import dataclasses

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight
from training_fixtures import made_dataset

from seanet_jax.data.class_counts import balanced_class_weights, class_counts, describe_class_counts


def dataset_of(counts, names):
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    made = made_dataset(train=len(labels), class_names=names)
    return dataclasses.replace(made, train_labels=labels)


def test_every_class_is_counted():
    np.testing.assert_array_equal(class_counts(np.array([2, 0, 2], np.int32), 4), [1, 0, 2, 0])


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat(np.arange(4, dtype=np.int32), [1, 10, 100, 7])
    weights = balanced_class_weights(labels, 4)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_array_equal(weights, expected.astype(np.float32))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights[labels].mean(), 1, rtol=1e-6)


def test_balanced_weights_of_even_classes_are_exactly_one():
    np.testing.assert_array_equal(balanced_class_weights(np.tile(np.arange(100, dtype=np.int32), 7), 100), 1)


def test_a_class_without_images_has_no_weight():
    weights = balanced_class_weights(np.array([0, 0, 2], np.int32), 3)
    np.testing.assert_array_equal(weights, np.array([0.5, 0, 1], np.float32))


def test_even_classes_are_described_in_one_line():
    assert describe_class_counts(dataset_of([1200] * 2, ("a", "b"))) == (
        "2,400 training images, 1,200 of each of 2 classes"
    )


def test_uneven_classes_are_described_by_a_table():
    assert describe_class_counts(dataset_of([5, 1000, 0], ("cat", "dog\n\x1b[31m", "é" * 50))).splitlines() == [
        "1,005 training images of 3 classes: from 0 (" + "é" * 39 + r"…) to 1,000 (dog\n\x1b[31m), median 5",
        "  cat" + " " * 37 + "      5",
        "  " + r"dog\n\x1b[31m".ljust(40) + "  1,000",
        "  " + "é" * 39 + "…" + "      0",
        "classes without a training image: " + "é" * 50,
    ]


@pytest.mark.parametrize(("classes", "lines"), [(20, 21), (21, 1)])
def test_many_uneven_classes_have_no_table(classes, lines):
    text = describe_class_counts(dataset_of([2, *[1] * (classes - 1)], tuple(map(str, range(classes)))))
    assert len(text.splitlines()) == lines
    assert text.startswith(f"{classes + 1} training images of {classes} classes: from 1 (1) to 2 (0), median 1")


def test_almost_even_classes_have_no_table():
    text = describe_class_counts(dataset_of([20, 21], ("a", "b")))
    assert text == "41 training images of 2 classes: from 20 (a) to 21 (b), median 20.5"


def test_a_median_between_two_counts_is_shown_exactly():
    assert describe_class_counts(dataset_of([1, 2], ("a", "b"))).splitlines()[0].endswith("median 1.5")
