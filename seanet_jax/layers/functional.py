"""SEANet's operations as pure functions of arrays, for use from Flax, Haiku, Equinox or plain JAX.

Feature maps are channels-last: ``[N, H, W, C]``. All functions can be jitted, differentiated and vmapped.

A function whose map is written ``[..., C]`` or ``[..., H, W, C]`` takes any number of leading axes, including none. The
others, such as ``conv2d`` with its ``[N, H, W, C]``, take a map of exactly this rank, and raise an error for another.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from seanet_jax.errors import InputError, is_integer, plain
from seanet_jax.layers.convolution import conv2d as conv2d
from seanet_jax.layers.convolution import conv_transpose2d as conv_transpose2d

AggregateOp = Literal["sum", "mean", "max", "normalized_sum", "drop"]
AGGREGATE_OPS: tuple[str, ...] = get_args(AggregateOp)


def aggregate(x: jax.Array, factor: int = 4, op: AggregateOp = "sum") -> jax.Array:
    """Reduces every group of ``factor`` adjacent channels to one.

    Output channel ``g`` is the sum of the input channels ``g * factor`` to ``g * factor + factor - 1``, or what another
    operation makes of them:

    * "sum", as in the published network.
    * "mean", the sum divided by ``factor``.
    * "max", the maximum: maxout (Goodfellow et al., ICML 2013) of adjacent channels.
    * "normalized_sum", the sum divided by ``sqrt(factor)``. It has the variance of one channel if the channels of a
      group are uncorrelated and have the same variance.
    * "drop", the first channel of the group. The others are dropped.

    Sum, mean and normalized sum differ by a constant factor alone. A batch normalization that follows, also after a
    convolution, removes it but for its epsilon.

    Args:
        x: Feature map of any rank, channels last: ``[..., C]``.
        factor: Number of channels in a group, k in the SEANet talk (MIND 2019). It divides C.
        op: How a group is reduced, one of the operations above.

    Returns:
        Feature map ``[..., C / factor]``, of x's dtype if that is a floating-point one.

    Raises:
        InputError: If x has no channel axis, if the factor does not divide the channels, or if the operation is
          unknown.
    """
    if op not in AGGREGATE_OPS:
        raise InputError(f"aggregate: op is {op!r}; it must be one of {', '.join(AGGREGATE_OPS)}")
    if x.ndim < 1:
        raise InputError("aggregate: x is a scalar; it needs a last axis of channels")
    channels = x.shape[-1]
    factor = plain(factor)
    if not is_integer(factor, minimum=1) or channels % factor:
        raise InputError(
            f"aggregate: factor is {factor!r}; it must be a positive integer that divides the {channels} channels"
        )
    return _REDUCTIONS[op](x.reshape(*x.shape[:-1], channels // factor, factor))


# Jitted, so that a call outside jit sends no constant to the device, which jax_transfer_guard may forbid.
@jax.jit
def _normalized_sum(groups: jax.Array) -> jax.Array:
    return groups.mean(-1) * groups.shape[-1] ** 0.5


# For each operation, the function of groups ``[..., C / k, k]`` that returns ``[..., C / k]``.
_REDUCTIONS: dict[AggregateOp, Callable[[jax.Array], jax.Array]] = {
    "sum": lambda groups: groups.sum(-1),
    "mean": lambda groups: groups.mean(-1),
    "max": lambda groups: groups.max(-1),
    "normalized_sum": _normalized_sum,
    "drop": lambda groups: lax.index_in_dim(groups, 0, axis=-1, keepdims=False),
}


def squeeze_excite(
    x: jax.Array, reduce_kernel: jax.Array, reduce_bias: jax.Array, expand_kernel: jax.Array, expand_bias: jax.Array
) -> jax.Array:
    """Scales every channel by a weight in (0, 1) that is computed from the global averages of all channels.

    This is squeeze-and-excitation (Hu et al., CVPR 2018, eq. 2-4), with biases as in the SEANet release:
    ``x * sigmoid(relu(mean(x) @ reduce_kernel + reduce_bias) @ expand_kernel + expand_bias)``.

    Args:
        x: Feature maps ``[..., H, W, C]``, with any number of leading axes. Each map has weights of its own.
        reduce_kernel: Kernel of the hidden layer, ``[C, C // reduction]``.
        reduce_bias: Bias of the hidden layer, ``[C // reduction]``.
        expand_kernel: Kernel of the output layer, ``[C // reduction, C]``.
        expand_bias: Bias of the output layer, ``[C]``.

    Returns:
        The scaled map, of x's shape and dtype.

    Raises:
        InputError: If x is not a floating-point map, or if the shapes do not fit together.
    """
    weights = squeeze_excite_weights(x, reduce_kernel, reduce_bias, expand_kernel, expand_bias)
    return x * weights[..., None, None, :]


def squeeze_excite_weights(
    x: jax.Array, reduce_kernel: jax.Array, reduce_bias: jax.Array, expand_kernel: jax.Array, expand_bias: jax.Array
) -> jax.Array:
    """Computes the weights of the channels by which ``squeeze_excite`` scales a map.

    Args:
        x: Feature maps ``[..., H, W, C]``, as for ``squeeze_excite``, like the other arrays.
        reduce_kernel: Kernel of the hidden layer, ``[C, C // reduction]``.
        reduce_bias: Bias of the hidden layer, ``[C // reduction]``.
        expand_kernel: Kernel of the output layer, ``[C // reduction, C]``.
        expand_bias: Bias of the output layer, ``[C]``.

    Returns:
        Weights ``[..., C]`` from 0 to 1, of x's dtype.

    Raises:
        InputError: If x is not a floating-point map, or if the shapes do not fit together.
    """
    if x.ndim < 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"squeeze_excite: x is {x.dtype} {x.shape}; it must be floating point [..., H, W, C]")
    channels = x.shape[-1]
    hidden = reduce_kernel.shape[1] if reduce_kernel.ndim == 2 else reduce_bias.size
    _check_shape("squeeze_excite", "reduce_kernel", reduce_kernel, (channels, hidden))
    _check_shape("squeeze_excite", "reduce_bias", reduce_bias, (hidden,))
    _check_shape("squeeze_excite", "expand_kernel", expand_kernel, (hidden, channels))
    _check_shape("squeeze_excite", "expand_bias", expand_bias, (channels,))
    squeezed = x.mean((-3, -2), dtype=at_least_float32(x)).astype(x.dtype)
    hidden_units = squeezed @ reduce_kernel.astype(x.dtype)
    hidden_units = jax.nn.relu(hidden_units + per_channel(reduce_bias.astype(x.dtype), hidden_units))
    scale = hidden_units @ expand_kernel.astype(x.dtype)
    return jax.nn.sigmoid(scale + per_channel(expand_bias.astype(x.dtype), scale))


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    """Gives one value per channel as many axes as a map has, so that both combine without a promotion of ranks.

    JAX would add the axes itself, unless ``jax_numpy_rank_promotion`` forbids or reports it.

    Args:
        values: One value for each channel, ``[C]``.
        x: Feature map ``[..., C]``.

    Returns:
        The values as ``[1, ..., 1, C]``, of x's rank.
    """
    return lax.expand_dims(values, range(x.ndim - 1))


def at_least_float32(x: jax.Array) -> jnp.dtype:
    """Returns the dtype in which values of x are averaged: float32, or float64 if x is float64.

    With its 8 bits of precision, bfloat16 cannot hold a sum over tens of thousands of pixels.
    """
    # Not jnp.promote_types, which jax_numpy_dtype_promotion=strict forbids for bfloat16 and float32.
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def batch_statistics(x: jax.Array, *, axis_name: str | tuple[str, ...] | None = None) -> tuple[jax.Array, jax.Array]:
    """Computes the mean and the biased variance of every channel over all other axes, in float32 or better.

    Args:
        x: Feature map ``[..., C]``.
        axis_name: Name, or names, of mapped axes (of ``shard_map``, ``pmap`` or ``vmap``) over which to average too.

    Returns:
        ``(mean, variance)``, each ``[C]``.

    Raises:
        InputError: If x has no channel axis, or no values.
    """
    if x.ndim < 1 or not x.size:
        raise InputError(f"batch_statistics: x has shape {x.shape}; it must be [..., C] and not empty")
    axes = tuple(range(x.ndim - 1))
    x = x.astype(at_least_float32(x))

    def average(values: jax.Array) -> jax.Array:
        own = values.mean(axes)
        return own if axis_name is None else lax.pmean(own, axis_name)

    mean = average(x)
    # Not mean(x^2) - mean(x)^2, which cancels when the mean is large beside the deviation.
    return mean, average(jnp.square(x - per_channel(mean, x)))


def batch_norm(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float = 1e-5
) -> jax.Array:
    """Normalizes every channel (Ioffe and Szegedy, 2015), in float32 or better.

    It computes ``(x - mean) / sqrt(var + epsilon) * scale + bias``.

    Args:
        x: Feature map ``[..., C]``.
        mean: Mean of each channel, of the batch or running, ``[C]``.
        var: Variance of each channel, of the batch or running, ``[C]``.
        scale: Learned scale of each channel, ``[C]``.
        bias: Learned bias of each channel, ``[C]``.
        epsilon: Value added to the variance, so that a constant channel is not divided by zero.

    Returns:
        The normalized map, of x's shape and dtype.

    Raises:
        InputError: If x is not a floating-point map, or if the shapes do not fit together.
    """
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"batch_norm: x is {x.dtype} {x.shape}; it must be floating point [..., C]")
    # Without this check, wrong shapes could broadcast silently.
    for name, array in (("mean", mean), ("var", var), ("scale", scale), ("bias", bias)):
        _check_shape("batch_norm", name, array, x.shape[-1:])
    return _normalize(x, mean, var, scale, bias, epsilon)


# Jitted, so that a call outside jit sends no constant to the device, which jax_transfer_guard may forbid.
@partial(jax.jit, static_argnums=5)
def _normalize(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    # One multiplier per channel, so that each pixel costs one subtraction, one multiplication and one addition.
    multiplier = lax.rsqrt(var + epsilon) * scale
    mean, multiplier, bias = (per_channel(values, x) for values in (mean, multiplier, bias))
    return ((x.astype(at_least_float32(x)) - mean) * multiplier + bias).astype(x.dtype)


def _check_shape(where: str, name: str, array: jax.Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise InputError(f"{where}: {name} has shape {array.shape}; beside the other arrays it must be {shape}")
