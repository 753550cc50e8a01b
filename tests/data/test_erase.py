import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax_contexts import under_other_settings

from seanet_jax.data.erase import cutout, random_erasing
from seanet_jax.errors import InputError

FILL = {1: (77,), 3: (10, 20, 30)}
FUNCTIONS = {
    "cutout": jax.jit(lambda key, images: cutout(key, images, size=6, fill=FILL[images.shape[3]])),
    "erasing": jax.jit(lambda key, images: random_erasing(key, images, probability=0.7, fill=FILL[images.shape[3]])),
}
seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(3, 8, 8, 1), (3, 13, 40, 3), (5, 96, 9, 3), (1, 32, 32, 3)])


def white(*shape):
    """Returns images without a pixel of the fill."""
    return np.full(shape, 255, np.uint8)


def slow_cutout(image, center, size, fill):
    output = image.copy()
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if all(0 <= here - middle + size // 2 < size for here, middle in zip((y, x), center, strict=True)):
                output[y, x] = fill
    return output


def slow_erasing_sides(random, height, width):
    """Returns the sides of a rectangle as ``torchvision.transforms.RandomErasing`` draws them."""
    for _ in range(10):
        area = height * width * random.uniform(0.02, 0.33)
        aspect = math.exp(random.uniform(math.log(0.3), math.log(3.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return h, w
    return 0, 0


def rectangles(images, outputs):
    """Returns the rows and columns in which each image was changed, and checks that they make a rectangle."""
    for image, output in zip(images, np.asarray(outputs), strict=True):
        changed = (image != output).any(-1)
        rows, columns = changed.any(1), changed.any(0)
        np.testing.assert_array_equal(changed, rows[:, None] & columns[None])
        for line in (rows, columns):
            assert (np.diff(np.flatnonzero(line)) == 1).all()
        np.testing.assert_array_equal(output[changed], np.broadcast_to(FILL[image.shape[2]], output[changed].shape))
        yield np.flatnonzero(rows), np.flatnonzero(columns)


@pytest.mark.parametrize("size", [1, 4, 5, 30])
def test_cutout_is_the_slow_one_around_one_of_the_pixels_and_each_pixel_has_its_turn(size):
    image = np.random.default_rng(0).integers(31, 256, (6, 5, 3), np.uint8)
    outputs = np.asarray(cutout(jax.random.key(0), np.stack([image] * 600), size=size, fill=FILL[3]))
    possible = [slow_cutout(image, center, size, FILL[3]) for center in np.ndindex(6, 5)]
    seen = [(outputs == view).all((1, 2, 3)) for view in possible]
    assert np.any(seen, axis=0).all()
    assert np.any(seen, axis=1).all()


@given(seeds, shapes)
def test_erasing_changes_a_rectangle_in_the_image(seed, shape):
    _, height, width, _ = shape
    images = white(*shape)
    for rows, columns in rectangles(images, FUNCTIONS["erasing"](jax.random.key(seed), images)):
        assert len(rows) < height and len(columns) < width


def test_erasing_draws_areas_and_sides_as_torchvision_does():
    images, random = white(4000, 16, 16, 1), np.random.default_rng(0)
    outputs = jax.jit(lambda key: random_erasing(key, images, probability=1, fill=FILL[1]))(jax.random.key(0))
    found = np.array([(len(rows), len(columns)) for rows, columns in rectangles(images, outputs)])
    expected = np.array([slow_erasing_sides(random, 16, 16) for _ in range(4000)])
    for values, right in ((found, expected), (found.prod(1), expected.prod(1)), (found**2, expected**2)):
        error = np.std(right, axis=0) * np.sqrt(2 / 4000)
        assert (np.abs(values.mean(0) - right.mean(0)) < 5 * error).all()
    starts = np.array([(rows[0], columns[0]) for rows, columns in rectangles(images, outputs)])
    places = starts / (16 - found)
    assert places.min() == 0 and places.max() == 1
    assert (np.abs(places.mean(0) - 0.5) < 5 * places.std(0) / np.sqrt(4000)).all()


@pytest.mark.parametrize("probability", [0, 0.25, np.float64(0.75), 1])
def test_erasing_changes_the_asked_part_of_the_images(probability):
    images = white(4000, 8, 8, 1)
    outputs = jax.jit(lambda key: random_erasing(key, images, probability=probability, fill=FILL[1]))(jax.random.key(1))
    changed = (np.asarray(outputs) != images).any((1, 2, 3)).mean()
    # A rectangle of 2 % of 64 pixels still has one pixel.
    assert abs(changed - probability) <= 5 * np.sqrt(probability * (1 - probability) / 4000)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(seeds, shapes)
def test_the_key_determines_the_result_and_shape_and_dtype_are_kept(name, seed, shape):
    images, key = white(*shape), jax.random.key(seed)
    outputs = FUNCTIONS[name](key, images)
    assert outputs.shape == shape and outputs.dtype == jnp.uint8
    np.testing.assert_array_equal(outputs, FUNCTIONS[name](key, images))


@pytest.mark.parametrize("name", FUNCTIONS)
@under_other_settings
def test_settings_of_jax_change_no_pixel(name, context):
    images, key = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8), jax.random.key(5)
    expected = FUNCTIONS[name](key, images)
    assert (expected != images).any()
    with context:
        found = FUNCTIONS[name](key, images)
    assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("images", "fill", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), (0, 0, 0), r"the images are float32 .*; they must be uint8"),
        (
            np.zeros((4, 4, 3), np.uint8),
            (0, 0, 0),
            r"the images are uint8 \(4, 4, 3\); they must be uint8",
        ),
        (np.zeros((2, 4, 4, 3), np.uint8), (0,), "fill has 1 values; it must have one for each of the 3 channels"),
    ],
)
def test_other_images_and_colors_are_refused(images, fill, message):
    with pytest.raises(InputError, match=f"cutout: {message}"):
        cutout(jax.random.key(0), images, size=2, fill=fill)
    with pytest.raises(InputError, match=f"random_erasing: {message}"):
        random_erasing(jax.random.key(0), images, probability=1, fill=fill)
