"""Mixup and CutMix: each image of a batch is mixed with another one, and so are their labels, on the device.

The partner of an image is the one before it in the batch. The order of the images in an epoch is random, so this is a
random partner. Taking the one before needs no gather: on many devices, each device receives one image from another.

Each image has its own share and its own box, where the papers' code draws one per batch. Both cost the same here, and
one draw per image makes a batch less extreme. Draws depend on the position in the global batch alone, so the number of
devices changes nothing.
"""

import jax
import jax.numpy as jnp

from seanet_jax.data.boxes import Boxes, draw_centered_boxes
from seanet_jax.errors import InputError
from seanet_jax.layers.sharding import keeps_batch_sharding


@keeps_batch_sharding
def cutmix(key: jax.Array, images: jax.Array, labels: jax.Array, *, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Replaces a box of each image by the same box of the image before it in the batch.

    The box's sides are ``sqrt(1 - lambda)`` of the image's, where lambda has the distribution Beta(alpha, alpha). Its
    center is uniform over the pixels of the image, and it is clipped at the image's border. The labels are mixed by the
    area of the clipped box. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features", section 3.1, and the authors' code.

    Args:
        key: Random key. It determines every box.
        images: Pixels ``[N, H, W, C]``. They may be raw or normalized.
        labels: Probability of each class, float32 ``[N, classes]``.
        alpha: Parameter of the beta distribution, a positive number.

    Returns:
        The mixed images, of the same shape and dtype, and the mixed labels, float32 ``[N, classes]``.

    Raises:
        InputError: If the images or the labels do not have these shapes, or there are not as many labels as images.
    """
    _check_shapes("cutmix", images, labels)
    height, width = images.shape[1:3]
    boxes = _draw_boxes(key, len(images), height, width, alpha)
    mixed = jnp.where(boxes.mask(height, width), _partners(images), images)
    share = boxes.area().astype(jnp.float32) / jnp.float32(height * width)
    return mixed, _blend(labels, share)


@keeps_batch_sharding
def mixup(key: jax.Array, images: jax.Array, labels: jax.Array, *, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Averages each image with the one before it in the batch, weighted by a random share.

    The share has the distribution Beta(alpha, alpha). Zhang et al., "mixup: Beyond Empirical Risk Minimization",
    section 2.

    Args:
        key: Random key. It determines every share.
        images: Normalized pixels, float32 ``[N, H, W, C]``.
        labels: Probability of each class, float32 ``[N, classes]``.
        alpha: Parameter of the beta distribution, a positive number.

    Returns:
        The mixed images, float32 ``[N, H, W, C]``, and the mixed labels, float32 ``[N, classes]``.

    Raises:
        InputError: If the images or the labels do not have these shapes, or there are not as many labels as images.
    """
    _check_shapes("mixup", images, labels)
    share = _draw_beta(key, len(images), alpha)
    return _blend(images, share), _blend(labels, share)


def _check_shapes(where: str, images: jax.Array, labels: jax.Array) -> None:
    if images.ndim != 4 or labels.ndim != 2 or len(images) != len(labels):
        raise InputError(
            f"{where}: the images have shape {images.shape} and the labels {labels.shape}; "
            "they must be [N, H, W, C] and [N, classes]"
        )


def _draw_beta(key: jax.Array, count: int, alpha: float) -> jax.Array:
    """Draws from the distribution Beta(alpha, alpha), float32 ``[N]``.

    If T has Student's distribution of 2 alpha degrees of freedom, ``(1 + T / sqrt(2 alpha + T^2)) / 2`` has this one.
    Bailey, "Polar Generation of Random Variates with the t-Distribution" (1994), makes T of two uniform numbers.
    ``jax.random.beta`` draws until a number is accepted, and many devices would have to agree on each round.
    """
    # The dtype is named: the default one depends on jax_enable_x64, and draws of 64 bits are other draws.
    radius, angle = (jax.random.uniform(k, (count,), jnp.float32) for k in jax.random.split(key))
    power, cosine = radius ** (1 / jnp.float32(alpha)), jnp.cos(2 * jnp.pi * angle)
    square = (1 - power) * cosine**2
    return (1 + jnp.sign(cosine) * jnp.sqrt(square / (power + square))) / 2


def _draw_boxes(key: jax.Array, count: int, height: int, width: int, alpha: float) -> Boxes:
    share_key, center_key = jax.random.split(key)
    side = jnp.sqrt(1 - _draw_beta(share_key, count, alpha))
    # The authors' code goes half a side to each direction, rounded down, so that all sides are even.
    heights, widths = ((length * side).astype(jnp.int32) // 2 * 2 for length in (height, width))
    return draw_centered_boxes(center_key, heights, widths, image_height=height, image_width=width)


def _partners(values: jax.Array) -> jax.Array:
    """Returns the values of each image's partner: those of the image before it, and of the last one for the first."""
    return jnp.roll(values, 1, axis=0)


def _blend(values: jax.Array, share: jax.Array) -> jax.Array:
    """Returns ``(1 - share) * values + share * partners``, where the shares have the shape ``[N]``."""
    share = share.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    return (1 - share) * values + share * _partners(values)
