"""TrivialAugment: each image is changed by one operation of random strength, on the device.

Müller & Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation" (ICCV 2021), with the wide ranges.
The operations and magnitudes are those of ``torchvision.transforms.TrivialAugmentWide``, and the pixels are those that
it makes of images of Pillow. torchvision rounds magnitudes differently on different processors, and translates by 15 or
by 16 pixels where the magnitude is 16. Here the magnitudes are exact.

The operations of a batch differ, and a branch for each image would compute all of them. Instead, all images take the
same three steps, and the operation and its magnitude only choose numbers from tables:

- Shears, translations and rotations look up the pixel of a source position. Pillow computes positions in 16.16 fixed
  point, so integers give the same pixels. The other operations have the identity's positions.
- Posterizing, solarizing, automatic contrast and equalizing replace each level by another one. The others have the
  identity's table.
- Brightness, color, contrast and sharpness blend the image with another one: black, its gray version, its mean level,
  or a smoothed version. Their products of a factor and a difference of levels come from a table, because a compiler may
  otherwise round a product and a sum at once, and the results are rounded down to whole levels.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from seanet_jax.errors import InputError
from seanet_jax.layers.sharding import keeps_batch_sharding

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
BINS = 31  # magnitudes of an operation
LARGEST_SHEAR = 0.99  # pixels per pixel
LARGEST_TRANSLATION = 32.0  # pixels, whatever the size of the image
LARGEST_ROTATION = 135.0  # degrees
LARGEST_CHANGE = 0.99  # by which the factor of a blend differs from 1
FEWEST_BITS = 2  # of a posterized image
FIXED_POINT = 65536


@keeps_batch_sharding
def trivial_augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Changes each image by one of 14 operations, all equally likely, with one of 31 magnitudes and a random sign.

    Pixels from outside the image are black. Automatic contrast may give a level one higher than Pillow, where Pillow's
    product in float64 falls below a whole number. All other operations give the levels of Pillow on x86-64.

    Args:
        key: Random key. It determines every operation, magnitude and sign.
        images: Raw pixels, uint8 ``[N, H, W, C]``, with 1 or 3 channels.

    Returns:
        uint8 ``[N, H, W, C]``.

    Raises:
        InputError: If the images are not uint8 ``[N, H, W, C]`` with 1 or 3 channels.
    """
    if images.ndim != 4 or images.dtype != jnp.uint8 or images.shape[3] not in (1, 3):
        raise InputError(
            f"trivial_augment: the images are {images.dtype} {images.shape}; "
            "they must be uint8 [N, H, W, C] with 1 or 3 channels"
        )
    # The dtypes are named: the default ones depend on jax_enable_x64, and draws of 64 bits are other draws.
    operations, bins, negative = (
        jax.random.randint(k, images.shape[:1], 0, choices, jnp.int32)
        for k, choices in zip(jax.random.split(key, 3), (len(OPERATIONS), BINS, 2), strict=True)
    )
    return apply_operations(images, operations, bins, negative)


def apply_operations(images: jax.Array, operations: jax.Array, bins: jax.Array, negative: jax.Array) -> jax.Array:
    """Changes each image by a given operation.

    Args:
        images: Raw pixels, uint8 ``[N, H, W, C]``, with 1 or 3 channels.
        operations: Indices into ``OPERATIONS``, int32 ``[N]``.
        bins: Indices of the magnitudes, 0 to 30, int32 ``[N]``.
        negative: 1 where an operation that has a sign is applied with the negative magnitude, and 0 elsewhere, int32
            ``[N]``.

    Returns:
        uint8 ``[N, H, W, C]``.
    """
    positions = jnp.asarray(_position_table(*images.shape[1:3]))[operations, negative, bins]
    levels = jnp.asarray(_level_table())[operations, bins]
    products = jnp.asarray(_product_table())[negative, bins]
    return jax.vmap(_changed)(images, operations, positions, levels, products)


def _changed(
    image: jax.Array, operation: jax.Array, positions: jax.Array, levels: jax.Array, products: jax.Array
) -> jax.Array:
    """Returns one image after its operation, uint8 ``[H, W, C]``.

    Args:
        image: uint8 ``[H, W, C]``.
        operation: Index into ``OPERATIONS``.
        positions: The operation's row of ``_position_table``.
        levels: The operation's row of ``_level_table``.
        products: The magnitude's row of ``_product_table``.
    """

    def is_one_of(*names: str) -> jax.Array:
        return functools.reduce(jnp.logical_or, (operation == OPERATIONS.index(name) for name in names))

    moved = _resampled(image, positions)
    statistics = jnp.where(is_one_of("autocontrast"), _autocontrast_levels(image), _equalized_levels(image))
    levels = jnp.where(is_one_of("autocontrast", "equalize"), statistics, levels[:, None])
    replaced = jnp.take_along_axis(levels, moved.reshape(-1, image.shape[2]).astype(jnp.int32), 0, mode="clip")

    wide = image.astype(jnp.int32)
    gray = _gray(wide)
    base = jnp.where(is_one_of("sharpness"), _smoothed(wide), gray)
    # The mean is rounded to the nearest level.
    base = jnp.where(is_one_of("contrast"), (gray.sum(dtype=jnp.int32) + gray.size // 2) // gray.size, base)
    base = jnp.where(is_one_of("brightness"), 0, base)
    blended = base.astype(jnp.float32) + products[wide - base + 255]
    blended = jnp.clip(blended, 0, 255).astype(jnp.uint8)

    is_blend = is_one_of("brightness", "color", "contrast", "sharpness")
    return jnp.where(is_blend, blended, replaced.reshape(image.shape))


def _resampled(image: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns the image whose pixels are those at the source positions, and black where these are outside."""
    height, width, channels = image.shape
    rows = jnp.arange(height, dtype=jnp.int32)[:, None]
    columns = jnp.arange(width, dtype=jnp.int32)[None]
    x, y = (
        (per_column * columns + per_row * rows + start) // FIXED_POINT
        for per_column, per_row, start in positions.reshape(2, 3)
    )
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    source = jnp.where(inside, y * width + x, 0)
    return jnp.where(inside[:, :, None], image.reshape(-1, channels)[source], 0)


def _autocontrast_levels(image: jax.Array) -> jax.Array:
    """Returns levels that stretch each channel to 0 and 255, uint8 ``[256, C]``. See ``ImageOps.autocontrast``."""
    low, high = (extremum((0, 1)).astype(jnp.int32)[None] for extremum in (image.min, image.max))
    level = jnp.arange(256, dtype=jnp.int32)[:, None]
    stretched = 255 * (level - low) // jnp.maximum(high - low, 1)
    # Levels outside the range do not occur in the image.
    return jnp.where(high > low, stretched, level).astype(jnp.uint8)


def _equalized_levels(image: jax.Array) -> jax.Array:
    """Returns levels that equalize each channel's histogram, uint8 ``[256, C]``. See ``ImageOps.equalize``."""
    channels = image.shape[2]
    channel = jnp.arange(channels, dtype=jnp.int32)[None, None]
    histogram = jnp.zeros((256, channels), jnp.int32).at[image.astype(jnp.int32), channel].add(1)
    below = jnp.cumsum(histogram, axis=0, dtype=jnp.int32) - histogram
    brightest = image.max((0, 1)).astype(jnp.int32)[None]
    # The number of pixels of one new level. Pillow leaves out those of the brightest level of the channel.
    step = jnp.take_along_axis(below, brightest, axis=0, mode="clip") // 255
    level = jnp.arange(256, dtype=jnp.int32)[:, None]
    equalized = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, equalized, level).astype(jnp.uint8)


def _gray(image: jax.Array) -> jax.Array:
    """Returns the luma of ITU-R 601 in fixed point, int32 ``[H, W, 1]``. See ``Image.convert("L")``."""
    if image.shape[2] == 1:
        return image
    red, green, blue = (image[:, :, channel, None] for channel in range(3))
    return (19595 * red + 38470 * green + 7471 * blue + 32768) // 65536


def _smoothed(image: jax.Array) -> jax.Array:
    """Returns a weighted mean of 3x3 pixels, the middle one counting five times, int32. See ``ImageFilter.SMOOTH``.

    The pixels at the border stay what they are.
    """
    height, width, _ = image.shape
    rows = image[:-2] + image[1:-1] + image[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image[1:-1, 1:-1]
    middle = (2 * total + 13) // 26  # rounded to the nearest level
    border = np.ones((height, width, 1), bool)
    border[1:-1, 1:-1] = False
    return jnp.where(border, image, jnp.pad(middle, ((1, 1), (1, 1), (0, 0)))[:height, :width])


# The tables depend on nothing but the size of the images, and are computed once for each.


def _magnitudes(largest: float) -> np.ndarray:
    """Returns equally spaced magnitudes from 0 to the largest one, with both signs, float64 ``[2, 31]``."""
    magnitudes = np.linspace(0, largest, BINS)
    return np.stack([magnitudes, -magnitudes])


@functools.lru_cache
def _position_table(height: int, width: int) -> np.ndarray:
    """Returns source positions in 16.16 fixed point, int32 ``[operations, 2 signs, 31 bins, 6]``.

    A row has the change of the source's x per column and per row and its x at the first pixel, then the same numbers of
    its y. See ``ImagingTransformAffine`` of Pillow.
    """
    matrices = np.zeros((len(OPERATIONS), 2, BINS, 6))
    matrices[..., 0] = matrices[..., 4] = 1
    shear, translation, rotation = map(_magnitudes, (LARGEST_SHEAR, LARGEST_TRANSLATION, LARGEST_ROTATION))
    matrices[OPERATIONS.index("shear_x"), ..., 1] = shear
    matrices[OPERATIONS.index("shear_y"), ..., 3] = shear
    matrices[OPERATIONS.index("translate_x"), ..., 2] = -np.trunc(translation)
    matrices[OPERATIONS.index("translate_y"), ..., 5] = -np.trunc(translation)
    for place in np.ndindex(rotation.shape):
        # Rounded as in Image.rotate, around the middle of the image.
        cos, sin = (round(f(-math.radians(rotation[place])), 15) for f in (math.cos, math.sin))
        x, y = width / 2, height / 2
        matrix = (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)
        matrices[OPERATIONS.index("rotate"), *place] = matrix
    for start in (0, 3):  # positions are those of the middle of a pixel
        matrices[..., start + 2] += matrices[..., start] * 0.5 + matrices[..., start + 1] * 0.5
    return np.floor(matrices * FIXED_POINT + 0.5).astype(np.int32)


@functools.lru_cache
def _level_table() -> np.ndarray:
    """Returns the new level of each level, uint8 ``[operations, 31 bins, 256]``. Most are the level itself."""
    level = np.arange(256)
    table = np.tile(level, (len(OPERATIONS), BINS, 1))
    for index in range(BINS):
        removed = round(index * (8 - FEWEST_BITS) / (BINS - 1))
        table[OPERATIONS.index("posterize"), index] = level >> removed << removed
        threshold = 255 - 255 * index / (BINS - 1)
        table[OPERATIONS.index("solarize"), index] = np.where(level < threshold, level, 255 - level)
    return table.astype(np.uint8)


@functools.lru_cache
def _product_table() -> np.ndarray:
    """Returns a blend's factor times each difference of levels, -255 to 255, float32 ``[2 signs, 31 bins, 511]``."""
    factors = (1 + _magnitudes(LARGEST_CHANGE)).astype(np.float32)
    return factors[..., None] * np.arange(-255, 256).astype(np.float32)
