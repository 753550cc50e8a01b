import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from seanet_jax.data import Dataset
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec

SPEC = ImageSpec(4, 4, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), ("a", "b"))


def make(**changes) -> Dataset:
    fields = {
        "name": "made",
        "train_images": np.zeros((20, 4, 4, 3), np.uint8),
        "train_labels": np.arange(20, dtype=np.int32) % 2,
        "test_images": np.zeros((5, 4, 4, 3), np.uint8),
        "test_labels": np.zeros(5, np.int32),
        "image_spec": SPEC,
        "flip": True,
    }
    return Dataset(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train_images": np.zeros((20, 4, 4, 3), np.float32)}, "train_images must be uint8"),
        ({"test_images": np.zeros((5, 4, 4), np.uint8)}, "test_images must be uint8"),
        ({"test_images": np.zeros((5, 4, 5, 3), np.uint8)}, "test_images must be"),
        ({"test_images": np.zeros((0, 4, 4, 3), np.uint8)}, "at least one image"),
        ({"train_labels": np.zeros(20, np.int64)}, "train_labels must be int32"),
        ({"train_labels": np.zeros(19, np.int32)}, "20 images but 19 labels"),
        ({"train_labels": np.full(20, 2, np.int32)}, r"train_labels must be in 0\.\.1"),
        ({"test_labels": np.full(5, -1, np.int32)}, r"test_labels must be in 0\.\.1"),
        ({"train_images": np.zeros((20, 4, 4, 1), np.uint8)}, r"train_images must be \[4, 4, 3\] as image_spec says"),
        ({"image_spec": dataclasses.replace(SPEC, height=5)}, r"train_images must be \[5, 4, 3\] as image_spec says"),
        ({"image_spec": dataclasses.replace(SPEC, mean=(0.5,), std=(0.2,))}, r"train_images must be \[4, 4, 1\]"),
        ({"image_spec": dataclasses.replace(SPEC, class_names=("a",))}, r"train_labels must be in 0\.\.0"),
        ({"val_images": np.zeros((1, 4, 4, 3), np.uint8)}, "together"),
        ({"val_images": np.zeros((1, 4, 4, 3), np.uint8), "val_labels": np.zeros(2, np.int32)}, "val: 1 images"),
        ({"superclasses": ("x",)}, "superclasses has 1 names; it must have one for each of the 2 classes"),
        ({"superclasses": ("x", "")}, r"superclasses is \('x', ''\); it must be a tuple of non-empty names of Unic"),
        ({"superclasses": {"x": ("a", "b")}}, "superclasses is {.*}; it must be a tuple of non-empty names"),
    ],
)
def test_a_contradictory_data_set_is_refused(changes, named):
    with pytest.raises(InputError, match=named):
        make(**changes)


def test_limit_keeps_the_first():
    data = make(train_images=np.arange(20, dtype=np.uint8)[:, None, None, None] + np.zeros((20, 4, 4, 3), np.uint8))
    small = data.limit(7, None)
    np.testing.assert_array_equal(small.train_images, data.train_images[:7])
    np.testing.assert_array_equal(small.train_labels, data.train_labels[:7])
    assert (len(small.test_images), len(small.test_labels)) == (5, 5)
    assert len(data.limit(None, 2).test_labels) == 2
    assert len(data.limit(20, 5).train_labels) == 20


@pytest.mark.parametrize(
    ("train", "test", "named"), [(0, None, "--limit-train"), (21, None, "--limit-train"), (None, 6, "--limit-test")]
)
def test_limits_out_of_range_name_the_option(train, test, named):
    with pytest.raises(InputError, match=named):
        make().limit(train, test)


def test_validation_images_are_the_last_training_images():
    labels = np.arange(20, dtype=np.int32) % 2
    split = make(train_labels=labels).split_validation(0.1)
    np.testing.assert_array_equal(split.train_labels, labels[:18])
    np.testing.assert_array_equal(split.val_labels, labels[18:])
    assert (len(split.train_images), len(split.val_images), len(split.test_images)) == (18, 2, 5)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), 0.01, 0.999])
def test_fractions_that_leave_nothing_are_refused(fraction):
    with pytest.raises(InputError, match="fraction"):
        make().split_validation(fraction)


def test_validation_is_split_off_once():
    with pytest.raises(InputError, match="already"):
        make().split_validation(0.5).split_validation(0.5)


def test_importing_is_light():
    heavy = "('tensorflow', 'tensorflow_datasets', 'sklearn', 'requests', 'array_record')"
    code = f"import sys, seanet_jax.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sha256_is_of_every_image_and_label_and_of_parts_of_each_split():
    images = np.zeros((20, 4, 4, 3), np.uint8)
    images[12, 0, 0, 0] = 1
    plain, other = make(), make(train_images=images)
    assert plain.sha256() == make().sha256() == plain.sha256(0, 1) != other.sha256()
    assert make(test_labels=np.ones(5, np.int32)).sha256() != plain.sha256()
    # The 13th of 20 images is in the second of three parts.
    assert [plain.sha256(part, 3) == other.sha256(part, 3) for part in range(3)] == [True, False, True]
