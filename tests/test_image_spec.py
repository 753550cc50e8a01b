import json

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from jax_contexts import under_other_settings

from seanet_jax import ImageSpec, InputError

FIELDS = {"height": 32, "width": 24, "mean": (0.5, 0.4), "std": (0.2, 1), "class_names": ("cat", "dog", "cow")}


def test_a_spec_comes_back_from_json():
    spec = ImageSpec(**FIELDS)
    assert (spec.channels, spec.num_classes) == (2, 3)
    assert ImageSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "height is 0; it must be a positive integer"),
        ({"width": 3.5}, "width is 3.5"),
        ({"mean": (0.5, float("nan"))}, "mean is (0.5, nan); it must be a tuple of finite numbers"),
        ({"mean": [0.5, 0.4]}, "mean is [0.5, 0.4]"),
        ({"mean": (0.5, True)}, "mean is (0.5, True)"),
        ({"std": (0.2, 0.0)}, "std is (0.2, 0.0); it must be a tuple of positive numbers"),
        ({"std": (0.2,)}, "std is (0.2,); it must be a tuple of 2 numbers, like mean"),
        ({"mean": (), "std": ()}, "mean is ()"),
        ({"class_names": ()}, "class_names is ()"),
        ({"class_names": ("cat", "")}, "class_names is ('cat', '')"),
        (
            {"class_names": ("cat", "\ud83d")},
            r"class_names is ('cat', '\ud83d'); it must be a tuple of non-empty names",
        ),
        ({"class_names": "cats"}, "class_names is 'cats'; it must be a tuple of non-empty names"),
    ],
)
def test_an_invalid_field_is_named(changes, message):
    with pytest.raises(InputError) as caught:
        ImageSpec(**FIELDS | changes)
    assert message in str(caught.value)


def test_normalize_equals_numpy():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    mean, std = (0.49, 0.48, 0.44), (0.2, 0.25, 0.3)
    outputs = ImageSpec(5, 6, mean, std, ("cat",)).normalize(jnp.asarray(images))
    chex.assert_shape(outputs, images.shape)
    chex.assert_type(outputs, jnp.float32)
    expected = (images.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_normalized_training_pixels_have_mean_zero_and_deviation_one():
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 2), np.uint8)
    pixels = images.astype(np.float64) / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    spec = ImageSpec(8, 8, tuple(mean), tuple(std), ("cat",))
    outputs = np.asarray(spec.normalize(jnp.asarray(images)), np.float64)
    np.testing.assert_allclose(outputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std((0, 1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 8, 8, 2), np.float32, r"the images are float32 \(2, 8, 8, 2\); they must be uint8 \[N, H, W, C\]"),
        ((8, 8, 2), np.uint8, r"the images are uint8 \(8, 8, 2\)"),
        ((2, 8, 8, 3), np.uint8, "the images have 3 channels; they must have 2"),
    ],
)
def test_images_that_cannot_be_normalized_are_named(shape, dtype, message):
    with pytest.raises(InputError, match=message):
        ImageSpec(**FIELDS).normalize(np.zeros(shape, dtype))


@pytest.mark.parametrize("changes", [{"mean": ...}, {"depth": 3}], ids=["missing", "unknown"])
def test_json_with_other_fields_is_refused(changes):
    values = {name: value for name, value in (FIELDS | changes).items() if value is not ...}
    with pytest.raises(TypeError):
        ImageSpec.from_json(values)


@under_other_settings
def test_settings_of_jax_change_no_normalized_image(context):
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 32, 24, 2), np.uint8))
    expected = ImageSpec(**FIELDS).normalize(images)
    with context:
        found = ImageSpec(**FIELDS).normalize(images)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
