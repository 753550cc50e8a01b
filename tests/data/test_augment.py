import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_contexts import under_other_settings

from seanet_jax.data.augment import PADDING, augment

SIDE = 5
jitted = jax.jit(augment, static_argnames="flip")


def numbered_images(count, side=SIDE, channels=1):
    """Returns images in which every pixel differs from the others and from the black padding."""
    pixels = np.arange(side * side * channels).reshape(side, side, channels) + 1
    return np.stack([(pixels + 7 * index) % 251 + 1 for index in range(count)]).astype(np.uint8)


def views(image):
    """Returns all crops of the padded image, then all their mirror images."""
    height, width, _ = image.shape
    padded = np.zeros((height + 2 * PADDING, width + 2 * PADDING, image.shape[2]), image.dtype)
    padded[PADDING : PADDING + height, PADDING : PADDING + width] = image
    crops = [
        padded[top : top + height, left : left + width]
        for top in range(2 * PADDING + 1)
        for left in range(2 * PADDING + 1)
    ]
    return np.stack(crops + [crop[:, ::-1] for crop in crops])


def which_view(image, output):
    found = np.flatnonzero((views(image) == output).all((1, 2, 3)))
    assert len(found) == 1, f"the output is {len(found)} of the crops"
    return found[0]


def draws(flip, count=4000):
    """Returns the index of the view that each of many copies of one image became."""
    image = numbered_images(1)[0]
    outputs = jitted(jax.random.key(3), jnp.asarray(np.stack([image] * count)), flip=flip)
    same = (np.asarray(outputs)[:, None] == views(image)[None]).all((2, 3, 4))
    assert (same.sum(1) == 1).all()
    return same.argmax(1)


def test_every_output_is_a_crop_of_its_own_padded_image_or_its_mirror():
    images = numbered_images(40, channels=3)
    outputs = jitted(jax.random.key(0), jnp.asarray(images), flip=True)
    for image, output in zip(images, np.asarray(outputs), strict=True):
        which_view(image, output)


def test_crops_of_images_that_are_not_square():
    images = np.random.default_rng(0).integers(1, 256, (20, 7, 5, 2), np.uint8)
    outputs = jitted(jax.random.key(0), jnp.asarray(images), flip=True)
    chex.assert_shape(outputs, images.shape)
    for image, output in zip(images, np.asarray(outputs), strict=True):
        which_view(image, output)


def test_without_flip_nothing_is_mirrored():
    assert draws(flip=False).max() < 81


def test_every_offset_occurs_equally_often():
    counts = np.bincount(draws(flip=True) % 81, minlength=81)
    # 4000 draws over 81 offsets: 49 each, standard deviation 7.
    assert counts.min() > 49 - 5 * 7
    assert counts.max() < 49 + 5 * 7


def test_half_of_the_images_are_mirrored_whatever_their_crop():
    chosen = draws(flip=True)
    mirrored, offset = chosen >= 81, chosen % 81
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(chosen))
    for coordinate in (offset // 9, offset % 9):
        assert abs(np.corrcoef(mirrored, coordinate)[0, 1]) < 5 / np.sqrt(len(chosen))


def test_vertical_and_horizontal_offsets_are_independent():
    offset = draws(flip=False)
    assert abs(np.corrcoef(offset // 9, offset % 9)[0, 1]) < 5 / np.sqrt(len(offset))


def test_the_padding_is_black():
    outputs = np.asarray(jitted(jax.random.key(0), jnp.full((200, SIDE, SIDE, 3), 255, jnp.uint8), flip=True))
    assert set(np.unique(outputs)) == {0, 255}
    # A crop without black is one of the 81; all others show some.
    assert (outputs == 0).any((1, 2, 3)).mean() > 0.9


def test_the_key_determines_the_result():
    images = jnp.asarray(numbered_images(16))
    first, again, other = (jitted(jax.random.key(seed), images, flip=True) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_jit_gives_the_same_result():
    images, key = jnp.asarray(numbered_images(16)), jax.random.key(0)
    np.testing.assert_array_equal(jitted(key, images, flip=True), augment(key, images, flip=True))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_shape_and_dtype_are_kept(flip, dtype):
    images = jax.ShapeDtypeStruct((3, 8, 6, 2), dtype)
    outputs = jax.eval_shape(lambda images: augment(jax.random.key(0), images, flip=flip), images)
    chex.assert_shape(outputs, (3, 8, 6, 2))
    assert outputs.dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("jit", [False, True])
@under_other_settings
def test_settings_of_jax_change_no_crop_and_no_mirror_image(context, jit):
    function = jax.jit(augment, static_argnames="flip") if jit else augment
    images, key = jnp.asarray(numbered_images(64, channels=3)), jax.random.key(5)
    expected = function(key, images, flip=True)
    with context:
        found = function(key, images, flip=True)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_the_crops_of_a_key_stay_what_they_are():
    # Other draws would change every run of a seed, without an error.
    image = numbered_images(1)[0]
    outputs = jitted(jax.random.key(0), jnp.asarray(np.stack([image] * 8)), flip=True)
    assert [which_view(image, output) for output in np.asarray(outputs)] == [98, 91, 16, 124, 147, 121, 90, 72]
