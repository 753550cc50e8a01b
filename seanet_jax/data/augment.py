"""Augmentation of a batch on the device, inside the jitted training step."""

from functools import partial

import jax
import jax.numpy as jnp

from seanet_jax.errors import InputError
from seanet_jax.layers.sharding import has_explicit_axes, partition_automatically

PADDING = 4  # pixels on each side


def augment(key: jax.Array, images: jax.Array, *, flip: bool) -> jax.Array:
    """Pads each image by four black pixels, crops it to its former size at random, and mirrors it at random.

    He et al., "Deep Residual Learning for Image Recognition", section 4.2, pad, crop and mirror in the same way. The
    padding is black, not the mean of the training pixels, because images are augmented before normalization.

    Args:
        key: Random key. It determines every crop and every mirrored image.
        images: Raw pixels ``[N, H, W, C]``, before normalization.
        flip: Whether to mirror each image with probability one half. If False, no image is mirrored.

    Returns:
        ``[N, H, W, C]``, of the same dtype as the images.

    Raises:
        InputError: If the images are not of rank 4.
    """
    if images.ndim != 4:
        raise InputError(f"augment: the images have shape {images.shape}; they must be [N, H, W, C]")
    if has_explicit_axes(images):
        # The corners of the crops are drawn unsharded, and vmap would refuse to map both.
        function = partial(augment, flip=flip)
        return partition_automatically(function, key, images, result=jax.typeof(images).sharding.spec)
    count, height, width, channels = images.shape
    crop_key, flip_key = jax.random.split(key)
    margin = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
    # The dtypes are named: the default ones depend on jax_enable_x64, and draws of 64 bits are other draws.
    corners = jax.random.randint(crop_key, (count, 2), 0, 2 * PADDING + 1, jnp.int32)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (height, width, channels))

    images = jax.vmap(crop)(jnp.pad(images, margin), corners)
    if not flip:
        return images
    mirrored = jax.random.bernoulli(flip_key, jnp.float32(0.5), (count, 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)
