"""2-D convolution, with forms that are faster than XLA's on a CPU and compute the same numbers but for rounding.

XLA's CPU backend computes the weight gradient of a convolution as another convolution, whose kernel is as large as the
image. That takes several times as long as the forward pass. This module computes it as a matrix product instead: of
patches of the input ("patches"), or for 3x3 kernels of stride 1 by Winograd's method ("winograd4", in
``winograd.py``), which needs a quarter of the multiplications and speeds up all three passes.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import export, lax
from jax.sharding import PartitionSpec

from seanet_jax.errors import InputError, positive_integers
from seanet_jax.layers import winograd
from seanet_jax.layers.sharding import has_explicit_axes, partition_automatically, vary_alike

ConvMethod = Literal["auto", "lax", "patches", "winograd4"]
CONV_METHODS: tuple[str, ...] = get_args(ConvMethod)

# Winograd's method pays on a CPU from these sizes, measured on two x86-64 cores. Below 16 channels, transforming the
# tiles costs more than it saves; below 64 tiles (one image of 32x32, 16 of 8x8), transforming the kernel does.
_WINOGRAD_MIN_CHANNELS = 16
_WINOGRAD_MIN_TILES = 64
# From this many channels of a group, in and out, a product for each group is faster than one with zeros between groups.
_WIDE_GROUP = 4


def conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, groups: int = 1, method: ConvMethod = "auto"
) -> jax.Array:
    """Computes a 2-D cross-correlation with an odd square kernel.

    The input is padded by half the kernel on every side, as PyTorch pads. XLA's "SAME" pads asymmetrically when the
    stride is 2, which gives other numbers.

    The methods compute the same function. They differ in speed, in rounding and in the derivatives they support:

    * "lax": ``lax.conv_general_dilated`` with all derivatives that JAX has, on any device and in any dtype.
    * "patches": As "lax", but the weight gradient is the matrix product of the input's patches with the output's
      gradient. A 1x1 convolution, one of more than 3x3, and one in wide groups (a product for each group) are matrix
      products altogether.
    * "winograd4": Winograd's F(4x4, 3x3), for float32, 3x3 kernels, stride 1, and height and width divisible by 4.
    * "auto": The fastest. On a CPU in float32, that is "winograd4" where it is possible and pays, else "patches"; on
      other devices, "lax". The choice is made for the platform that the function is lowered for, which ``jax.export``
      may choose; derivatives are computed as on ``jax.default_backend()``. If the batch size is symbolic, the choice is
      that for a large batch; if height or width is symbolic, it is "lax".

    Except by "lax", groups of few channels are computed as one convolution whose kernel is zero between groups. On a
    CPU, XLA's own convolution in groups is slower than all these zeros.

    "patches" and "winograd4", and so "auto" on a CPU, define their own gradient (``jax.custom_vjp``). It supports
    reverse mode, also under ``jax.hessian`` and ``jax.grad`` of ``jax.grad``. ``jax.jvp`` and ``jax.jacfwd`` of the
    convolution itself raise a TypeError. For them, use "lax", which is ``conv_method="lax"`` in a network.

    Rounding: in float32 the root-mean-square error of the result and of both gradients, relative to their
    root-mean-square, stays below 2e-6 for "lax" and "patches", and below 1e-5 for "winograd4" (measured for 3 to 512
    channels: up to 8e-7 and 5e-6).

    Args:
        x: Feature map ``[N, H, W, C]``.
        kernel: Kernel ``[k, k, C / groups, F]`` with k odd; it is cast to x's dtype.
        stride: Step in both spatial directions.
        groups: Number of groups of adjacent channels. Each group of output channels is computed from its own group of
          input channels alone.
        method: One of the methods above.

    Returns:
        Feature map ``[N, ceil(H / stride), ceil(W / stride), F]``, of x's dtype.

    Raises:
        InputError: If x is not a floating-point map, if ranks, channels or groups do not fit together, if an array is
          empty, if the kernel is not odd and square, if the stride is not a positive integer, or if the method is
          unknown or cannot compute this convolution.
    """
    if method not in CONV_METHODS:
        raise InputError(f"conv2d: method is {method!r}; it must be one of {', '.join(CONV_METHODS)}")
    stride, groups = positive_integers("conv2d", stride=stride, groups=groups)
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != groups * kernel.shape[2] or kernel.shape[3] % groups:
        raise InputError(
            f"conv2d: x {x.shape} and kernel {kernel.shape} must be [N, H, W, C] and [k, k, C, F]"
            + (f", here [k, k, C / {groups}, F] with F divisible by {groups}" if groups > 1 else "")
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"conv2d: x is {x.dtype}; it must be floating point")
    if 0 in x.shape or 0 in kernel.shape:
        raise InputError(f"conv2d: x {x.shape} and kernel {kernel.shape} must not be empty")
    size = kernel.shape[0]
    if size != kernel.shape[1] or size % 2 == 0:
        raise InputError(f"conv2d: the kernel is {kernel.shape[0]}x{kernel.shape[1]}; it must be square and odd")
    kernel = kernel.astype(x.dtype)
    # JAX shards its own convolution there by itself, but not the gradient of one with groups.
    if (method != "lax" or groups > 1) and has_explicit_axes(x, kernel):
        # The images are sharded as x, and the output channels as the kernel.
        result = PartitionSpec(jax.typeof(x).sharding.spec[0], None, None, jax.typeof(kernel).sharding.spec[3])
        function = partial(conv2d, stride=stride, groups=groups, method=method)
        return partition_automatically(function, x, kernel, result=result)
    if method == "auto":
        method = _fastest_on_cpu(x, kernel, stride, groups)
        if method != "lax":
            x, kernel = vary_alike(x, kernel)
            with _error_of_forward_mode():
                return _conv_auto(x, kernel, stride, groups, method)
    if groups > 1 and method != "lax":
        if method == "patches" and _groups_are_wide(kernel, groups):
            return _conv_groups(x, kernel, stride, groups)
        kernel, groups = _block_diagonal(kernel, groups), 1
    if method == "winograd4":
        obstacle = winograd.obstacle(x, kernel, stride)
        if obstacle is not None:
            raise InputError(f"conv2d: method {method!r} {obstacle}")
        with _error_of_forward_mode():
            return winograd.conv2d(*vary_alike(x, kernel))
    if method == "patches":
        if size == 1:
            return _conv_1x1(x, kernel, stride)
        x, kernel = vary_alike(x, kernel)
        with _error_of_forward_mode():
            return _conv_patches(x, kernel, stride) if size == 3 else _conv_products(x, kernel, stride)
    return _conv_lax(x, kernel, stride, groups)


@contextlib.contextmanager
def _error_of_forward_mode() -> Iterator[None]:
    """Says what to use instead if a gradient that is defined for reverse mode alone is asked for in forward mode.

    Where the convolution is jitted, JAX raises its own error instead, when it compiles.
    """
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "conv2d: on a CPU, the fast methods have no forward-mode derivatives (jax.jvp, jax.jacfwd); pass "
            "method='lax', or conv_method='lax' to a network"
        ) from error


def conv_transpose2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, method: ConvMethod = "auto") -> jax.Array:
    """Computes a transposed convolution, which upsamples by ``stride``.

    It is the transpose of ``conv2d`` of the same stride on maps whose height and width are divisible by the stride, and
    equals PyTorch's transposed convolution with half the kernel as padding and ``stride - 1`` as output padding. Zeros
    are inserted between the pixels, and the result is convolved with the kernel rotated by 180 degrees.

    Args:
        x: Feature map ``[N, H, W, C]``.
        kernel: Kernel ``[k, k, C, F]`` with k odd; it is cast to x's dtype.
        stride: Factor by which height and width grow.
        method: How the convolution is computed, see ``conv2d``.

    Returns:
        Feature map ``[N, stride * H, stride * W, F]``, of x's dtype.

    Raises:
        InputError: If the stride is not a positive integer, or if ``conv2d`` cannot compute the convolution.
    """
    (stride,) = positive_integers("conv_transpose2d", stride=stride)
    if x.ndim != 4 or kernel.ndim != 4:
        raise InputError(
            f"conv_transpose2d: x {x.shape} and kernel {kernel.shape} must be [N, H, W, C] and [k, k, C, F]"
        )
    between = (0, stride - 1, stride - 1)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), between, between, (0, 0, 0)))
    return conv2d(x, kernel[::-1, ::-1], method=method)


def _groups_are_wide(kernel: jax.Array, groups: int) -> bool:
    """Whether a matrix product for each group is faster than one product with zeros between groups."""
    return min(kernel.shape[2], kernel.shape[3] // groups) >= _WIDE_GROUP


@partial(jax.jit, static_argnums=(2, 3, 4))
def _conv_of_platform(x: jax.Array, kernel: jax.Array, stride: int, groups: int, on_cpu: ConvMethod) -> jax.Array:
    """Computes the convolution by the method that is fastest on the platform for which this is lowered."""
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(conv2d, stride=stride, groups=groups, method=on_cpu),
        default=partial(_conv_lax, stride=stride, groups=groups),
    )


def _conv_auto(x: jax.Array, kernel: jax.Array, stride: int, groups: int, on_cpu: ConvMethod) -> jax.Array:
    """Computes the convolution by the fastest method.

    An exported function may run on another platform than this process does, so the platform is left open. The
    derivatives are those of the method for this process's own device: with the platform left open, both methods would
    be differentiated.

    Args:
        x: Feature map.
        kernel: Kernel of the same dtype.
        stride: Step in both spatial directions.
        groups: Number of groups of channels.
        on_cpu: The fastest method on a CPU.
    """
    if export.is_symbolic_dim(x.shape[0]):
        return _conv_of_platform(x, kernel, stride, groups, on_cpu)
    return (_auto_on_cpu if jax.default_backend() == "cpu" else _auto_elsewhere)(x, kernel, stride, groups, on_cpu)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _auto_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, groups: int, on_cpu: ConvMethod) -> jax.Array:
    return _conv_of_platform(x, kernel, stride, groups, on_cpu)


def _auto_on_cpu_forward(
    x: jax.Array, kernel: jax.Array, stride: int, groups: int, on_cpu: ConvMethod
) -> tuple[jax.Array, Callable[[jax.Array], tuple[jax.Array, jax.Array]]]:
    return jax.vjp(partial(conv2d, stride=stride, groups=groups, method=on_cpu), x, kernel)


def _auto_on_cpu_backward(
    stride: int,
    groups: int,
    on_cpu: ConvMethod,
    adjoint: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    dy: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return adjoint(dy)


_auto_on_cpu.defvjp(_auto_on_cpu_forward, _auto_on_cpu_backward)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _auto_elsewhere(x: jax.Array, kernel: jax.Array, stride: int, groups: int, on_cpu: ConvMethod) -> jax.Array:
    return _conv_of_platform(x, kernel, stride, groups, on_cpu)


@_auto_elsewhere.defjvp
def _auto_elsewhere_jvp(
    stride: int,
    groups: int,
    on_cpu: ConvMethod,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(partial(_conv_lax, stride=stride, groups=groups), primals, tangents)


def _fastest_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> ConvMethod:
    """Returns the method that "auto" stands for on a CPU."""
    batch, height, width, channels = x.shape
    # The methods round sizes up by different formulas, which JAX cannot prove to be equal for a symbolic size.
    if export.is_symbolic_dim(height) or export.is_symbolic_dim(width):
        return "lax"
    # XLA's own convolution in groups is the slowest in every dtype.
    if groups > 1 and (x.dtype != jnp.float32 or _groups_are_wide(kernel, groups)):
        return "patches"
    if x.dtype != jnp.float32:
        return "lax"
    tiles = batch * height * width // winograd.TILE**2
    if (
        winograd.obstacle(x, kernel, stride) is None
        and min(channels, kernel.shape[3]) >= _WINOGRAD_MIN_CHANNELS
        # A batch of symbolic size is exported together with the kernels, which XLA transforms when it compiles: then
        # transforming them costs nothing at run time, however few the tiles are.
        and (export.is_symbolic_dim(batch) or tiles >= _WINOGRAD_MIN_TILES)
    ):
        return "winograd4"
    return "patches"


def _conv_lax(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    """Computes the convolution by XLA's own operation, with JAX's derivatives."""
    padding = (kernel.shape[0] // 2, kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """Turns a kernel of groups ``[k, k, C / groups, F]`` into one of all channels ``[k, k, C, F]``, zero elsewhere."""
    height, width, inputs, outputs = kernel.shape
    own = jnp.eye(groups, dtype=kernel.dtype)
    blocks = kernel.reshape(height, width, 1, inputs, groups, outputs // groups) * own[None, None, :, None, :, None]
    return blocks.reshape(height, width, groups * inputs, outputs)


def _conv_groups(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    """Computes a matrix product for each group; its gradients are such products too."""
    size, _, inputs, outputs = kernel.shape
    patches = _patches(x, size, stride)
    pixels = patches.reshape(-1, size * size, groups, inputs)
    kernels = kernel.reshape(size * size, inputs, groups, outputs // groups)
    return jnp.einsum("tpgi,pigo->tgo", pixels, kernels).reshape(*patches.shape[:3], outputs)


def _conv_1x1(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Computes a 1x1 convolution as a matrix product; its gradients are matrix products too."""
    x = x[:, ::stride, ::stride]
    # As a product of two matrices: with three axes to sum over, XLA would transpose the output's gradient before it
    # computes the weight gradient.
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Computes the convolution by XLA's own operation, except the weight gradient."""
    return _conv_lax(x, kernel, stride)


def _conv_patches_forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv_lax(x, kernel, stride), (x, kernel)


def _conv_patches_backward(
    stride: int, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    (dx,) = jax.linear_transpose(lambda x: _conv_lax(x, kernel, stride), x)(dy)
    size, channels = kernel.shape[0], kernel.shape[2]
    dkernel = _patches(x, size, stride).reshape(-1, size * size * channels).T @ dy.reshape(-1, dy.shape[-1])
    return dx, dkernel.reshape(kernel.shape)


_conv_patches.defvjp(_conv_patches_forward, _conv_patches_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_products(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Computes the product of the patches with the kernel; its gradients are matrix products too.

    On a CPU, XLA's own convolution is slower by far if the kernel is larger than the map.
    """
    patches = _patches(x, kernel.shape[0], stride)
    y = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*patches.shape[:3], -1)


def _conv_products_forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The patches are computed again in the backward pass, because they are size^2 times as large as x.
    return _conv_products(x, kernel, stride), (x, kernel)


def _conv_products_backward(
    stride: int, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    patches, adjoint = jax.vjp(lambda x: _patches(x, kernel.shape[0], stride), x)
    dy = dy.reshape(-1, dy.shape[-1])
    dkernel = patches.reshape(-1, patches.shape[-1]).T @ dy
    (dx,) = adjoint((dy @ kernel.reshape(-1, kernel.shape[-1]).T).reshape(patches.shape))
    return dx, dkernel.reshape(kernel.shape)


_conv_products.defvjp(_conv_products_forward, _conv_products_backward)


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Returns the pixels that each output pixel depends on.

    Args:
        x: Feature map ``[N, H, W, C]``.
        size: Side length of the kernel.
        stride: Step in both spatial directions.

    Returns:
        Patches ``[N, ceil(H / stride), ceil(W / stride), size * size * C]``.
    """
    _, height, width, _ = x.shape
    half = size // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    return jnp.concatenate(
        [padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)], -1
    )
