import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cpu_devices import on_devices
from jax_contexts import under_other_settings

from seanet_jax.data.augment import PADDING, Augmentation, augment
from seanet_jax.data.erase import cutout, random_erasing
from seanet_jax.data.trivial_augment import trivial_augment
from seanet_jax.errors import InputError

SIDE = 5
jitted = jax.jit(augment, static_argnames=("flip", "padding"))


def numbered_images(count, side=SIDE, channels=1):
    """Returns images in which every pixel differs from the others and from the black padding."""
    pixels = np.arange(side * side * channels).reshape(side, side, channels) + 1
    return np.stack([(pixels + 7 * index) % 251 + 1 for index in range(count)]).astype(np.uint8)


def slow_padded(image, padding):
    """Returns the image with its border, pixel by pixel."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * PADDING, width + 2 * PADDING, channels), image.dtype)
    for y, x in np.ndindex(padded.shape[:2]):
        # A reflection does not repeat the pixels at the border.
        above, left = y - PADDING, x - PADDING
        rows, columns = height - 1 - abs(height - 1 - abs(above)), width - 1 - abs(width - 1 - abs(left))
        if padding == "reflect" or (rows, columns) == (above, left):
            padded[y, x] = image[rows, columns]
    return padded


def views(image, padding="zero"):
    """Returns all crops of the padded image, then all their mirror images."""
    height, width, _ = image.shape
    padded = slow_padded(image, padding)
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


def test_reflected_padding_takes_the_same_crops_of_an_image_mirrored_at_its_border():
    images = np.random.default_rng(0).integers(1, 256, (40, 7, 6, 3), np.uint8)
    outputs, black = (jitted(jax.random.key(0), images, flip=True, padding=name) for name in ("reflect", "zero"))
    for image, output, other in zip(images, np.asarray(outputs), np.asarray(black), strict=True):
        np.testing.assert_array_equal(output, views(image, "reflect")[which_view(image, other)])


def test_another_padding_is_refused():
    with pytest.raises(InputError, match="augment: padding is 'edge'; it must be zero or reflect"):
        augment(jax.random.key(0), np.zeros((1, 8, 8, 3), np.uint8), flip=True, padding="edge")
    with pytest.raises(InputError, match="augment: padding is 'edge'; it must be zero or reflect"):
        Augmentation(padding="edge")


ALL = Augmentation(padding="reflect", trivial_augment=True, cutout=6, erasing=0.5, cutmix=1.0, mixup=0.2)
FILL = (100, 120, 130)


def normalize(images):
    return images.astype(jnp.float32) / 255


def batch(count=16, side=8):
    random = np.random.default_rng(0)
    labels = np.eye(5, dtype=np.float32)[random.integers(0, 5, count)]
    return random.integers(0, 256, (count, side, side, 3), np.uint8), labels


def step(augmentation):
    """Returns the jitted input of a training step: pixels, mixed images and mixed labels."""

    @jax.jit
    def function(key, images, labels):
        pixels = augmentation.pixels(key, images, FILL)
        return pixels, *augmentation.mixed(key, pixels, labels, normalize)

    return function


def test_by_default_pixels_are_cropped_and_mirrored_with_the_key_itself_and_nothing_is_mixed():
    (images, labels), key = batch(), jax.random.key(3)
    expected = jitted(key, images, flip=True)
    pixels, mixed, mixed_labels = step(Augmentation())(key, images, labels)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(mixed, normalize(expected))
    np.testing.assert_array_equal(mixed_labels, labels)
    assert not Augmentation().mixes and Augmentation(cutmix=1.0).mixes and Augmentation(mixup=1.0).mixes


def test_all_can_be_off():
    images, labels = batch()
    off = Augmentation(crop_and_mirror=False)
    np.testing.assert_array_equal(step(off)(jax.random.key(3), images, labels)[0], images)


@pytest.mark.slow
def test_augmentations_are_applied_in_order_with_keys_of_their_own():
    (images, labels), key = batch(), jax.random.key(3)
    keys = [jax.random.fold_in(key, number) for number in range(8)]
    expected = augment(key, images, flip=True, padding="reflect")
    expected = trivial_augment(keys[2], expected)
    expected = cutout(keys[3], expected, size=6, fill=FILL)
    expected = random_erasing(keys[4], expected, probability=0.5, fill=FILL)
    pixels, *_ = step(ALL)(key, images, labels)
    np.testing.assert_array_equal(pixels, expected)
    # The keys of the crop and of the mirror are none of the others.
    data = {tuple(np.asarray(jax.random.key_data(k))) for k in [*jax.random.split(key), *keys[2:]]}
    assert len(data) == 8


def test_each_batch_takes_cutmix_or_mixup_half_of_the_time():
    images, labels = batch()
    off = Augmentation(crop_and_mirror=False)
    both, cut, blended = (
        step(dataclasses.replace(off, **options))
        for options in ({"cutmix": 1.0, "mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2})
    )
    taken = []
    for seed in range(100):
        found, *possible = (function(jax.random.key(seed), images, labels)[1:] for function in (both, cut, blended))
        equal = [all(np.allclose(a, b, atol=1e-6) for a, b in zip(found, other, strict=True)) for other in possible]
        assert sum(equal) == 1
        taken.append(equal[0])
    assert abs(np.mean(taken) - 0.5) < 5 * 0.5 / np.sqrt(100)


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize(("side", "channels"), [(8, 1), (96, 3)])
def test_any_batch_of_any_size_keeps_its_shapes_and_dtypes(count, side, channels):
    images = jax.ShapeDtypeStruct((count, side, side, channels), "uint8")
    labels = jax.ShapeDtypeStruct((count, 5), "float32")

    def function(images, labels):
        key = jax.random.key(0)
        pixels = ALL.pixels(key, images, np.zeros(channels, np.uint8))
        return pixels, *ALL.mixed(key, pixels, labels, normalize)

    pixels, mixed, mixed_labels = jax.eval_shape(function, images, labels)
    assert (pixels.shape, pixels.dtype) == (images.shape, images.dtype)
    assert (mixed.shape, mixed.dtype) == (images.shape, jnp.float32)
    assert (mixed_labels.shape, mixed_labels.dtype) == (labels.shape, labels.dtype)


@pytest.mark.slow
@under_other_settings
def test_settings_of_jax_change_nothing_in_the_chain(context):
    (images, labels), key = batch(), jax.random.key(5)
    expected = step(ALL)(key, images, labels)
    with context:
        found = step(ALL)(key, images, labels)
    assert [a.dtype for a in found] == [a.dtype for a in expected]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_any_number_of_devices_augments_a_batch_in_the_same_way():
    done = on_devices(8, "augmentation_on_devices.py")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # What mixup makes of float32 images may be rounded differently. Everything else is the same, bit for bit.
    blended = {name for name in found if name.startswith("images of mixup")}
    assert len(found) == 18 and len(blended) == 3
    assert not any(found[name] for name in found.keys() - blended), found
    assert max(found[name] for name in blended) < 1e-6, found
