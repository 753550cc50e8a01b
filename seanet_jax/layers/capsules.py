"""Capsules kept as channels: pure functions of arrays, as in EncapNet (Li et al., ECCV 2018, arXiv:1808.03749).

A map of ``groups * size`` channels, channels last, is ``groups`` capsules of ``size`` components at every position,
group-major: channels ``g * size`` to ``g * size + size - 1`` are capsule g.
"""

import jax
import jax.numpy as jnp

from seanet_jax.errors import InputError, is_integer
from seanet_jax.layers.functional import at_least_float32


def euclidean_norm(x: jax.Array, *, keepdims: bool = False) -> jax.Array:
    """The length of the vectors along the last axis, in float32 at least; at zero its gradient is zero, not NaN.

    Args:
        x: ``[..., D]``.
        keepdims: whether the last axis stays, of size 1.

    Returns:
        ``[...]``.

    Raises:
        InputError: x is not a floating-point array with a last axis.
    """
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"euclidean_norm: x is {x.dtype} {x.shape}; it must be floating point [..., D]")
    squared = jnp.square(x.astype(at_least_float32(x))).sum(-1, keepdims=keepdims)
    # The derivative of a square root at zero is infinite, and infinity times zero is NaN, even where it is not chosen.
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def squash(x: jax.Array, groups: int | None = None) -> jax.Array:
    """Shortens vectors to less than 1, the short ones most: ``v * |v|^2 / (1 + |v|^2) / |v|``.

    Sabour et al., NeurIPS 2017, eq. 1. Computed as ``v * |v| / (1 + |v|^2)``, which divides by nothing that may be zero
    and therefore needs no epsilon beside a length; at zero the value and the gradient are zero.

    Args:
        x: ``[..., D]``; or, with groups, ``[..., C]``, of which each group of adjacent channels is a vector.
        groups: capsules among the channels; None where the last axis is the vector.

    Returns:
        Of x's shape and dtype.

    Raises:
        InputError: x is not floating point with a last axis, or the groups do not divide its channels.
    """
    vectors = x if groups is None else as_capsules(x, groups)
    length = euclidean_norm(vectors, keepdims=True)
    return (vectors * (length / (1 + jnp.square(length)))).astype(x.dtype).reshape(x.shape)


def as_capsules(x: jax.Array, groups: int) -> jax.Array:
    """The capsules of a map: ``[..., groups * size]`` to ``[..., groups, size]``.

    Args:
        x: of any rank, channels last.
        groups: capsules at each position.

    Raises:
        InputError: x has no channel axis, or the groups do not divide its channels.
    """
    if x.ndim < 1:
        raise InputError("as_capsules: x is a scalar; it needs a last axis of channels")
    if not is_integer(groups, minimum=1) or x.shape[-1] % groups:
        raise InputError(
            f"as_capsules: groups is {groups!r}; it must be a positive integer that divides the {x.shape[-1]} channels"
        )
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def scale_capsules(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Multiplies all components of every capsule by its coefficient.

    Args:
        x: ``[..., groups * size]``.
        coefficients: ``[..., groups]``.

    Returns:
        Of x's shape.

    Raises:
        InputError: the shapes do not fit together.
    """
    if not x.ndim or x.ndim != coefficients.ndim or x.shape[:-1] != coefficients.shape[:-1]:
        raise InputError(
            f"scale_capsules: x {x.shape} and coefficients {coefficients.shape} must be [..., groups * size] and "
            "[..., groups]"
        )
    return (as_capsules(x, coefficients.shape[-1]) * coefficients[..., None]).reshape(x.shape)


def route(main: jax.Array, aide: jax.Array, main_coefficients: jax.Array, aide_coefficients: jax.Array) -> jax.Array:
    """EncapNet's approximate routing in one pass: each branch is weighted by what the other one says.

    ``main * aide_coefficients + aide * main_coefficients``, capsule by capsule (Li et al., arXiv:1808.03749).

    Args:
        main: ``[..., groups * size]``, of the master branch.
        aide: likewise, of the aide branch.
        main_coefficients: ``[..., groups]``, computed from ``main``.
        aide_coefficients: likewise, from ``aide``.

    Returns:
        ``[..., groups * size]``.

    Raises:
        InputError: the shapes do not fit together.
    """
    if main.shape != aide.shape:
        raise InputError(f"route: main is {main.shape} and aide {aide.shape}; they must be of one shape")
    return scale_capsules(main, aide_coefficients) + scale_capsules(aide, main_coefficients)


def flatten_capsules(x: jax.Array, groups: int) -> jax.Array:
    """All capsules of a map in the order of group, row, column.

    Args:
        x: ``[N, H, W, groups * size]``.
        groups: capsules at each position.

    Returns:
        ``[N, groups * H * W, size]``.

    Raises:
        InputError: x is no such map, or the groups do not divide its channels.
    """
    if x.ndim != 4:
        raise InputError(f"flatten_capsules: x has shape {x.shape}; it must be [N, H, W, groups * size]")
    capsules = as_capsules(x, groups)
    return capsules.transpose(0, 3, 1, 2, 4).reshape(x.shape[0], -1, capsules.shape[-1])


def class_capsules(capsules: jax.Array, kernel: jax.Array) -> jax.Array:
    """A capsule for each class, squashed: each component is a linear map of that component of all capsules.

    ``squash(sum_n capsules[b, n, d] * kernel[d, n, c])``, over d.

    Args:
        capsules: ``[N, n, D]``.
        kernel: ``[D, n, classes]``.

    Returns:
        ``[N, classes, D]``, of the capsules' dtype.

    Raises:
        InputError: the shapes do not fit together, or the capsules are not floating point.
    """
    if capsules.ndim != 3 or kernel.ndim != 3 or kernel.shape[:2] != (capsules.shape[2], capsules.shape[1]):
        raise InputError(
            f"class_capsules: capsules {capsules.shape} and kernel {kernel.shape} must be [N, n, D] and [D, n, classes]"
        )
    return squash(jnp.einsum("bnd,dnc->bcd", capsules, kernel.astype(capsules.dtype)))
