"""What happens to a batch on the device, inside the jitted step: augmentation and normalisation."""

import jax
import jax.numpy as jnp

from seanet_jax.errors import InputError

PADDING = 4


def augment(key: jax.Array, images: jax.Array, *, flip: bool) -> jax.Array:
    """Pads with zeros, crops at random to the old size and mirrors each image with probability one half.

    Args:
        key: determines every choice.
        images: ``[N, H, W, C]``, raw pixels: the padding is black, not the mean.
        flip: whether to mirror at all.

    Returns:
        ``[N, H, W, C]``, of the same dtype.

    Raises:
        InputError: the images have another rank.
    """
    if images.ndim != 4:
        raise InputError(f"augment: the images have shape {images.shape}; they must be [N, H, W, C]")
    count, height, width, channels = images.shape
    crop_key, flip_key = jax.random.split(key)
    margin = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
    corners = jax.random.randint(crop_key, (count, 2), 0, 2 * PADDING + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    images = jax.vmap(crop)(jnp.pad(images, margin), corners)
    if not flip:
        return images
    mirrored = jax.random.bernoulli(flip_key, shape=(count, 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)
