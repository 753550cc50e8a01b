"""TrivialAugment beside Pillow: every operation, every magnitude and both signs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax_contexts import under_other_settings
from optimized_jit import optimized_jit
from PIL import Image, ImageEnhance, ImageOps

from seanet_jax.data.trivial_augment import OPERATIONS, apply_operations, trivial_augment
from seanet_jax.errors import InputError

BINS = 31
SHAPES = [
    *((32, 32, 3), (32, 32, 1), (8, 8, 3), (13, 40, 3), (2, 2, 1)),
    pytest.param((96, 96, 3), marks=pytest.mark.slow),
]
# Thousands of images are worth the time in XLA's optimizations.
pytestmark = pytest.mark.usefixtures("optimized")
apply = optimized_jit(apply_operations)
augmented = jax.jit(trivial_augment)


@functools.cache
def images(height, width, channels):
    """Returns noise, dull noise, noise around gray, one level, a gradient, and few levels."""
    random, shape = np.random.default_rng(0), (height, width, channels)
    gradient = (np.indices((height, width)).sum(0)[..., None] * np.arange(1, channels + 1)) % 256
    made = [random.integers(0, 256, shape), random.integers(60, 165, shape), random.normal(128, 30, shape).clip(0, 255)]
    return np.stack([*made, np.full(shape, 77), gradient, 40 * random.integers(0, 3, shape)]).astype(np.uint8)


def with_pillow(image, name, index, sign):
    """Returns an image of Pillow after an operation, as torchvision's ``_apply_op`` makes it."""
    shear, translation, rotation, change = (
        sign * float(np.linspace(0, largest, BINS)[index]) for largest in (0.99, 32, 135, 0.99)
    )

    def affine(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=black)

    black = (0,) * len(image.getbands()) if image.mode == "RGB" else 0
    if name in ("brightness", "color", "contrast", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(image).enhance(1 + change)
    return {
        "identity": lambda: image,
        "shear_x": lambda: affine(1, math.tan(math.atan(shear)), 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, math.tan(math.atan(shear)), 1, 0),
        "translate_x": lambda: affine(1, 0, -int(translation), 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, -int(translation)),
        "rotate": lambda: image.rotate(rotation, Image.Resampling.NEAREST, fillcolor=black),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(index / ((BINS - 1) / 6))),
        "solarize": lambda: ImageOps.solarize(image, np.linspace(255, 0, BINS)[index]),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


def all_strengths(name, shape):
    """Returns, for every image, magnitude and sign, our result and Pillow's, and which image it is."""
    batch = images(*shape)
    strengths = [(index, sign) for index in range(BINS) for sign in (1, -1)]
    found, expected = [], []
    for index, sign in strengths:
        numbers = (OPERATIONS.index(name), index, int(sign < 0))
        found.append(apply(batch, *(np.full(len(batch), number, np.int32) for number in numbers)))
        pictures = [Image.fromarray(image if shape[2] == 3 else image[..., 0]) for image in batch]
        expected.append([np.asarray(with_pillow(picture, name, index, sign)).reshape(shape) for picture in pictures])
    return np.asarray(found), np.asarray(expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "autocontrast"])
def test_an_operation_gives_the_pixels_of_pillow(name, shape):
    found, expected = all_strengths(name, shape)
    np.testing.assert_array_equal(found, expected)
    if name != "identity" and shape == (32, 32, 3):
        assert (found != images(*shape)).any()


def stretched(image):
    """Returns the image with each channel's levels stretched to 0 and 255, rounded down, in exact arithmetic."""
    output = image.copy()
    for channel in range(image.shape[2]):
        low, high = int(image[..., channel].min()), int(image[..., channel].max())
        for place in np.ndindex(image.shape[:2]) if high > low else ():
            output[*place, channel] = (int(image[*place, channel]) - low) * 255 // (high - low)
    return output


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_automatic_contrast_is_exact_and_differs_from_pillow_where_float64_falls_below_a_whole_number(shape):
    found, expected = all_strengths("autocontrast", shape)
    exact = np.stack([stretched(image) for image in images(*shape)])
    np.testing.assert_array_equal(found, np.broadcast_to(exact, found.shape))
    higher = found[0].astype(int) - expected[0]
    assert set(np.unique(higher)) <= {0, 1}
    low, high = (extremum(images(*shape), (1, 2), keepdims=True).astype(int) for extremum in (np.min, np.max))
    whole = (images(*shape) - low) * 255 % np.maximum(high - low, 1) == 0
    assert whole[higher > 0].all()


def test_each_image_of_a_batch_has_its_own_operation():
    batch = images(32, 32, 3)[np.arange(60) % 6]
    random = np.random.default_rng(0)
    numbers = [random.integers(0, n, 60, np.int32) for n in (len(OPERATIONS), BINS, 2)]
    alone = [apply(batch[i, None], *(number[i, None] for number in numbers))[0] for i in range(60)]
    np.testing.assert_array_equal(apply(batch, *numbers), alone)


def test_operations_magnitudes_and_signs_are_equally_likely_and_independent():
    # A gradient of levels and noise, on which no two strengths of these operations look alike.
    batch = np.stack([np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)] * 4000)
    outputs = np.asarray(augmented(jax.random.key(0), batch))
    views, counts = [], np.zeros((len(OPERATIONS), BINS, 2))
    for place in np.ndindex(counts.shape):
        views.append(apply(batch[:1], *(np.array([number], np.int32) for number in place))[0])
    views = np.stack(views)
    distinct, which = np.unique(views.reshape(len(views), -1), axis=0, return_inverse=True)
    chance = np.bincount(which) / len(views)
    lines = {line.tobytes(): number for number, line in enumerate(distinct)}
    seen = np.bincount([lines[output.tobytes()] for output in outputs], minlength=len(distinct))
    # Pearson's statistic: its mean is the number of degrees of freedom, its variance twice that.
    statistic, freedom = ((seen - 4000 * chance) ** 2 / (4000 * chance)).sum(), len(distinct) - 1
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 8, 8, 1), (7, 13, 40, 3), (2, 96, 9, 3)]))
def test_the_key_determines_the_result_and_shape_and_dtype_are_kept(seed, shape):
    batch, key = np.random.default_rng(seed).integers(0, 256, shape, np.uint8), jax.random.key(seed)
    outputs = augmented(key, batch)
    assert outputs.shape == shape and outputs.dtype == jnp.uint8
    np.testing.assert_array_equal(outputs, augmented(key, batch))


@pytest.mark.slow
@under_other_settings
def test_settings_of_jax_change_no_pixel(context):
    batch, key = images(32, 32, 3)[np.arange(120) % 6], jax.random.key(5)
    expected = augmented(key, batch)
    with context:
        found = augmented(key, batch)
    assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 8, 8, 3), "float32"), ((8, 8, 3), "uint8"), ((2, 8, 8, 2), "uint8"), ((2, 8, 8, 4), "uint8")],
)
def test_other_images_are_refused(shape, dtype):
    with pytest.raises(InputError, match=r"they must be uint8 \[N, H, W, C\] with 1 or 3 channels"):
        trivial_augment(jax.random.key(0), np.zeros(shape, dtype))
