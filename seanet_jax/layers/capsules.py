"""EncapNet's operations on capsules, as pure functions of arrays (Li et al., ECCV 2018, arXiv:1808.03749).

Capsules are stored as channels. A channels-last map of ``groups * size`` channels holds ``groups`` capsules of ``size``
components at every position, group by group: channels ``g * size`` to ``g * size + size - 1`` are capsule g.
"""

from functools import partial

import jax
import jax.numpy as jnp

from seanet_jax.errors import InputError, is_integer, plain
from seanet_jax.layers.functional import at_least_float32


def euclidean_norm(x: jax.Array, *, keepdims: bool = False) -> jax.Array:
    """Computes the length of the vectors along the last axis, in float32 or better.

    The gradient of a vector of length zero is zero, not NaN.

    Args:
        x: Vectors ``[..., D]``.
        keepdims: Whether the last axis is kept, with size 1.

    Returns:
        Lengths ``[...]``.

    Raises:
        InputError: If x is not a floating-point array with a last axis.
    """
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"euclidean_norm: x is {x.dtype} {x.shape}; it must be floating point [..., D]")
    return _norm(x, keepdims)


# Jitted, so that a call outside jit sends no constant to the device, which jax_transfer_guard may forbid.
@partial(jax.jit, static_argnums=1)
def _norm(x: jax.Array, keepdims: bool) -> jax.Array:
    squared = jnp.square(x.astype(at_least_float32(x))).sum(-1, keepdims=keepdims)
    # The derivative of a square root at zero is infinite, and infinity times zero is NaN, even in the branch that
    # ``where`` does not select. The inner ``where`` therefore replaces zeros before the root is taken.
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def squash(x: jax.Array, groups: int | None = None) -> jax.Array:
    """Shortens vectors to lengths below 1, short ones most: ``v * |v|^2 / (1 + |v|^2) / |v|``.

    The formula is eq. 1 of Sabour et al., NeurIPS 2017. It is computed as ``v * |v| / (1 + |v|^2)``, which never
    divides by zero and so needs no epsilon. At zero, the value and the gradient are zero.

    Args:
        x: Vectors ``[..., D]``; or, if groups are given, a map ``[..., C]`` in which each group of adjacent channels is
          a vector.
        groups: Number of capsules among the channels; None if the last axis is one vector.

    Returns:
        The shortened vectors, of x's shape and dtype.

    Raises:
        InputError: If x is not a floating-point array with a last axis, or if the groups do not divide the channels.
    """
    vectors = x if groups is None else as_capsules(x, groups)
    return _shorten(vectors, euclidean_norm(vectors, keepdims=True)).astype(x.dtype).reshape(x.shape)


@jax.jit
def _shorten(vectors: jax.Array, length: jax.Array) -> jax.Array:
    return vectors.astype(length.dtype) * (length / (1 + jnp.square(length)))


def as_capsules(x: jax.Array, groups: int) -> jax.Array:
    """Splits the channels of a map into capsules: ``[..., groups * size]`` to ``[..., groups, size]``.

    Args:
        x: Map of any rank, channels last.
        groups: Number of capsules at each position.

    Raises:
        InputError: If x has no channel axis, or if the groups do not divide its channels.
    """
    if x.ndim < 1:
        raise InputError("as_capsules: x is a scalar; it needs a last axis of channels")
    groups = plain(groups)
    if not is_integer(groups, minimum=1) or x.shape[-1] % groups:
        raise InputError(
            f"as_capsules: groups is {groups!r}; it must be a positive integer that divides the {x.shape[-1]} channels"
        )
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def scale_capsules(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Multiplies all components of every capsule by its coefficient.

    Args:
        x: Map ``[..., groups * size]``.
        coefficients: One coefficient for each capsule, ``[..., groups]``.

    Returns:
        The scaled map, of x's shape.

    Raises:
        InputError: If the shapes do not fit together.
    """
    if not x.ndim or x.ndim != coefficients.ndim or x.shape[:-1] != coefficients.shape[:-1]:
        raise InputError(
            f"scale_capsules: x {x.shape} and coefficients {coefficients.shape} must be [..., groups * size] and "
            "[..., groups]"
        )
    return (as_capsules(x, coefficients.shape[-1]) * coefficients[..., None]).reshape(x.shape)


def route(main: jax.Array, aide: jax.Array, main_coefficients: jax.Array, aide_coefficients: jax.Array) -> jax.Array:
    """Combines two branches by EncapNet's approximate routing, in one pass (Li et al., arXiv:1808.03749).

    Each branch is weighted by coefficients that are computed from the other one. Capsule by capsule, the result is
    ``main * aide_coefficients + aide * main_coefficients``.

    Args:
        main: Map of the master branch, ``[..., groups * size]``.
        aide: Map of the aide branch, of the same shape.
        main_coefficients: Coefficients computed from ``main``, ``[..., groups]``.
        aide_coefficients: Coefficients computed from ``aide``, ``[..., groups]``.

    Returns:
        Map ``[..., groups * size]``.

    Raises:
        InputError: If the shapes do not fit together.
    """
    if main.shape != aide.shape:
        raise InputError(f"route: main is {main.shape} and aide {aide.shape}; they must be of one shape")
    return scale_capsules(main, aide_coefficients) + scale_capsules(aide, main_coefficients)


def flatten_capsules(x: jax.Array, groups: int) -> jax.Array:
    """Lists all capsules of a map, ordered by group, then row, then column.

    Args:
        x: Map ``[N, H, W, groups * size]``.
        groups: Number of capsules at each position.

    Returns:
        Capsules ``[N, groups * H * W, size]``.

    Raises:
        InputError: If x is no such map, or if the groups do not divide its channels.
    """
    if x.ndim != 4:
        raise InputError(f"flatten_capsules: x has shape {x.shape}; it must be [N, H, W, groups * size]")
    capsules = as_capsules(x, groups)
    return capsules.transpose(0, 3, 1, 2, 4).reshape(x.shape[0], -1, capsules.shape[-1])


def class_capsules(capsules: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes one squashed capsule for each class.

    Each component of a class's capsule is a linear map of the same component of all input capsules:
    ``squash(sum_n capsules[b, n, d] * kernel[d, n, c])``, where squash acts along d.

    Args:
        capsules: Input capsules ``[N, n, D]``.
        kernel: Weights ``[D, n, classes]``.

    Returns:
        Capsules ``[N, classes, D]``, of the input's dtype.

    Raises:
        InputError: If the shapes do not fit together, or if the capsules are not floating point.
    """
    if capsules.ndim != 3 or kernel.ndim != 3 or kernel.shape[:2] != (capsules.shape[2], capsules.shape[1]):
        raise InputError(
            f"class_capsules: capsules {capsules.shape} and kernel {kernel.shape} must be [N, n, D] and [D, n, classes]"
        )
    return squash(jnp.einsum("bnd,dnc->bcd", capsules, kernel.astype(capsules.dtype)))
