"""Cutout and random erasing: rectangles of each image are filled with one color, on the device."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from seanet_jax.data.boxes import Boxes, draw_centered_boxes
from seanet_jax.errors import InputError
from seanet_jax.layers.sharding import keeps_batch_sharding

ERASED_AREA = (0.02, 0.33)  # fractions of the image's area
ERASED_ASPECT = (0.3, 3.3)  # height / width


@keeps_batch_sharding
def cutout(key: jax.Array, images: jax.Array, *, size: int, fill: Sequence[int] | np.ndarray) -> jax.Array:
    """Fills a square of each image with one color.

    The square's center is uniform over the pixels of the image. The square is clipped at the image's border, as in
    DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", section 3.2.

    Args:
        key: Random key. It determines every square.
        images: Raw pixels, uint8 ``[N, H, W, C]``.
        size: Side of the square, in pixels.
        fill: Color of the square, one value in 0..255 per channel.

    Returns:
        uint8 ``[N, H, W, C]``.

    Raises:
        InputError: If the images are not uint8 ``[N, H, W, C]``, or ``fill`` does not have one value per channel.
    """
    count, height, width, _ = _check_images("cutout", images, fill)
    sides = jnp.full((count,), size, jnp.int32)
    return _filled(images, draw_centered_boxes(key, sides, sides, image_height=height, image_width=width), fill)


@keeps_batch_sharding
def random_erasing(
    key: jax.Array, images: jax.Array, *, probability: float, fill: Sequence[int] | np.ndarray
) -> jax.Array:
    """Fills a rectangle of some of the images with one color.

    The rectangle's area is uniform between 2 % and 33 % of the image's, the logarithm of its aspect ratio is uniform
    between those of 0.3 and 3.3, and its position is uniform within the image, as in Zhong et al., "Random Erasing Data
    Augmentation", and in ``torchvision.transforms.RandomErasing``.

    torchvision draws again, up to ten times, where a rectangle is not smaller than the image in both directions. Here
    its longer side is shortened to fit, because all images of a batch take the same time. This happens to 0.6 % of the
    rectangles of a square image.

    Args:
        key: Random key. It determines every rectangle.
        images: Raw pixels, uint8 ``[N, H, W, C]``.
        probability: Probability with which an image is changed.
        fill: Color of the rectangle, one value in 0..255 per channel.

    Returns:
        uint8 ``[N, H, W, C]``.

    Raises:
        InputError: If the images are not uint8 ``[N, H, W, C]``, or ``fill`` does not have one value per channel.
    """
    count, height, width, _ = _check_images("random_erasing", images, fill)
    chosen_key, area_key, aspect_key, top_key, left_key = jax.random.split(key, 5)
    chosen = jax.random.bernoulli(chosen_key, jnp.float32(probability), (count,))
    low, high = (jnp.float32(fraction * height * width) for fraction in ERASED_AREA)
    area = jax.random.uniform(area_key, (count,), jnp.float32, low, high)
    low, high = (jnp.float32(math.log(ratio)) for ratio in ERASED_ASPECT)
    aspect = jnp.exp(jax.random.uniform(aspect_key, (count,), jnp.float32, low, high))

    def shortened(side: jax.Array, length: int) -> jax.Array:
        return jnp.minimum(jnp.round(side).astype(jnp.int32), length - 1)

    heights, widths = shortened(jnp.sqrt(area * aspect), height), shortened(jnp.sqrt(area / aspect), width)
    top = jax.random.randint(top_key, (count,), 0, height - heights + 1, jnp.int32)
    left = jax.random.randint(left_key, (count,), 0, width - widths + 1, jnp.int32)
    # A box without rows changes nothing.
    return _filled(images, Boxes(top, top + jnp.where(chosen, heights, 0), left, left + widths), fill)


def _check_images(where: str, images: jax.Array, fill: Sequence[int] | np.ndarray) -> tuple[int, ...]:
    if images.ndim != 4 or images.dtype != jnp.uint8:
        raise InputError(f"{where}: the images are {images.dtype} {images.shape}; they must be uint8 [N, H, W, C]")
    channels = images.shape[3]
    if len(fill) != channels:
        raise InputError(f"{where}: fill has {len(fill)} values; it must have one for each of the {channels} channels")
    return images.shape


def _filled(images: jax.Array, boxes: Boxes, fill: Sequence[int] | np.ndarray) -> jax.Array:
    color = jnp.asarray(fill, jnp.uint8)[None, None, None]
    return jnp.where(boxes.mask(*images.shape[1:3]), color, images)
