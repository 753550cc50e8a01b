import numpy as np
import pytest

from seanet_jax.data import DATASETS, from_arrays, load
from seanet_jax.errors import InputError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0], np.int32)
GIVEN = {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES[:2], "test_labels": LABELS[:2]}


def test_arrays_become_a_data_set_with_the_statistics_of_their_training_images():
    data = from_arrays(**GIVEN)
    assert data.name == "arrays" and data.flip
    assert data.train_images is IMAGES and data.train_labels is LABELS
    spec = data.image_spec
    assert (spec.height, spec.width, spec.class_names) == (4, 5, ("0", "1", "2"))
    np.testing.assert_allclose(spec.mean, IMAGES.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(spec.std, IMAGES.std((0, 1, 2)) / 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_labels_are_integers_of_any_kind(dtype):
    data = from_arrays(**GIVEN | {"train_labels": LABELS.astype(dtype), "test_labels": LABELS[:2].tolist()})
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    np.testing.assert_array_equal(data.train_labels, LABELS)


def test_given_names_may_be_of_more_classes_than_there_are_training_images_of():
    data = from_arrays(**GIVEN, class_names=["a", "b", "c", "d"], flip=False)
    assert data.image_spec.class_names == ("a", "b", "c", "d") and not data.flip


def test_classes_may_be_grouped_in_superclasses():
    assert from_arrays(**GIVEN).superclasses is None
    assert from_arrays(**GIVEN, superclasses=["x", "y", "x"]).superclasses == ("x", "y", "x")
    with pytest.raises(InputError, match="superclasses has 2 names; it must have one for each of the 3 classes"):
        from_arrays(**GIVEN, superclasses=["x", "y"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_images": IMAGES / 255},
            r"train_images is float64 \[6, 4, 5, 3\]; it must be uint8 \[N, H, W, C\], values 0..255: "
            r"convert it by \(train_images \* 255\).round\(\).astype\('uint8'\)",
        ),
        ({"test_images": IMAGES.astype(np.float32)}, r"convert it by test_images.round\(\).astype\('uint8'\)"),
        ({"train_images": IMAGES.astype(np.int64)}, r"if its values are 0..255, convert it by train_images.astype"),
        ({"train_images": IMAGES[..., 0]}, r"add an axis of channels to gray images, train_images\[..., None\]"),
        ({"train_images": np.moveaxis(IMAGES, 3, 1)}, r"move the channels to the end, train_images.transpose"),
        ({"train_images": IMAGES[:0]}, "with at least one pixel"),
        ({"train_images": "photos"}, "with at least one pixel"),
        ({"train_labels": LABELS[:5]}, "6 images but 5 labels"),
        ({"test_images": IMAGES[:2, :3]}, r"test_images must be \[4, 5, 3\] as image_spec says, not \[3, 5, 3\]"),
        ({"train_labels": LABELS + 1}, "train_labels counts classes from 1; they count from 0: subtract 1 from all"),
        ({"train_labels": LABELS * 2}, "3 different values, but 2 in place of 1; number classes from 0 without gaps"),
        ({"train_labels": LABELS - 1}, "3 different values, but -1 in place of 0; number classes from 0"),
        ({"train_labels": LABELS.astype(float)}, r"train_labels is float64 \[6\]; it must be integers \[N\]$"),
        (
            {"train_labels": np.eye(3, dtype=int)[LABELS]},
            r"for one number of each class, give train_labels.argmax\(1\)",
        ),
        (
            {"test_labels": [0, 3]},
            r"test_labels is in 0..3; it must be in 0..2, because these are the classes in train",
        ),
        ({"test_labels": [0, 2**32]}, r"test_labels is in 0..4294967296; it must be in 0..2"),
        ({"class_names": ["a", "b"]}, r"train_labels is in 0..2; it must be in 0..1, because there are 2 class_names"),
        ({"class_names": ["a", "b", ""]}, "class_names is .*; it must be a tuple of non-empty names"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused_with_what_would_be_right(changes, message):
    with pytest.raises(InputError, match=message):
        from_arrays(**GIVEN | changes)


def test_arrays_cannot_be_loaded_by_their_name():
    assert DATASETS["arrays"].image_spec is None
    with pytest.raises(InputError, match=r"given in Python, by fit\(config, dataset=from_arrays\(...\)\)"):
        load("arrays")
