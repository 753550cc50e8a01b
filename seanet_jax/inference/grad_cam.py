"""Grad-CAM: where in an image a network sees a class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def grad_cam(classify: Callable[[jax.Array], jax.Array], maps: jax.Array, classes: jax.Array) -> jax.Array:
    """Computes where the evidence for classes is, from the last maps of a network.

    This is Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2): ``relu(sum_k weight_k * map_k)``. The weight of a
    channel is the gradient of the class's score with respect to its map, averaged over the positions. Before a global
    average pooling and a linear classifier, it is the positive part of CAM (Zhou et al., CVPR 2016), divided by the
    number of positions.

    Args:
        classify: Function of maps ``[1, h, w, C]`` that returns scores ``[1, number of classes]`` before any softmax,
            such as ``Network.classify_maps``.
        maps: The last maps of one image, ``[1, h, w, C]``.
        classes: Numbers of the classes, ``[n]``.

    Returns:
        A map for each class, float32 ``[n, h, w]`` from 0. Its unit is that of the scores divided by ``h * w``.
    """
    scores, pull_back = jax.vjp(classify, maps)
    chosen = jax.nn.one_hot(classes, scores.shape[-1], dtype=scores.dtype)
    (gradients,) = jax.vmap(pull_back)(chosen[:, None])
    weights = gradients[:, 0].astype(jnp.float32).mean((1, 2))
    return jax.nn.relu(jnp.einsum("hwc,nc->nhw", maps[0].astype(jnp.float32), weights))
