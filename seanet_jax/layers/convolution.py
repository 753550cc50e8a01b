"""2-D convolution, with forms that are faster than XLA's on a CPU and compute the same numbers but for rounding.

XLA's CPU backend computes the weight gradient of a convolution as another convolution, whose kernel is as large as the
image. That takes several times as long as the forward pass. This module computes it as a matrix product instead: of
patches of the input ("patches"), or for 3x3 kernels of stride 1 in Winograd's transformed domain ("winograd4"), which
needs a quarter of the multiplications and speeds up all three passes.

Winograd's minimal filtering in the form of Lavin and Gray, CVPR 2016 (arXiv:1509.09308, section 4.1), computes the
output in tiles of m x m pixels from overlapping windows d of (m + 2) x (m + 2) pixels:

    Y = A^T [(G g G^T) * (B^T d B)] A        (* is element by element; input channels are summed before A is applied)

Each element of a transformed window therefore needs a matrix product of its own, [tiles, C] @ [C, F]. All these maps
are linear, so the gradients are their adjoints: with dM = A dY A^T, V = B^T d B and U = G g G^T,

    dg = G^T (V^T dM) G   and   dd = B (dM U^T) B^T, summed where windows overlap.

Here m = 4, written F(4x4, 3x3). Smaller tiles round less, and save fewer multiplications.
"""

import operator
from collections.abc import Sequence
from functools import partial, reduce
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

from seanet_jax.errors import InputError, demand_positive_integers

ConvMethod = Literal["auto", "lax", "patches", "winograd4"]
CONV_METHODS: tuple[str, ...] = get_args(ConvMethod)


# The matrices of F(4x4, 3x3): B^T of the input [n, n], G of the kernel [n, 3], A^T of the output [m, n].
_BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_AT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
# Pixels along a side of an output tile (m), and of the input window that it is computed from (n = m + 2).
_TILE, _WINDOW = _AT.shape
# [n * n, 9], so that vec(G g G^T) = _KERNEL_MATRIX @ vec(g): a kernel is too small for two products.
_KERNEL_MATRIX = np.kron(_G, _G).astype(np.float32)

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
    * "auto": The fastest. On a CPU (``jax.default_backend()`` when the function is traced) in float32, that is
      "winograd4" where it is possible and pays, else "patches"; on other devices, "lax". If the batch size is symbolic
      (``jax.export``), the choice is made for each platform when the function is lowered, on a CPU as for a large
      batch.

    Except by "lax", groups of few channels are computed as one convolution whose kernel is zero between groups. On a
    CPU, XLA's own convolution in groups is slower than all these zeros.

    "patches" and "winograd4" define their own gradient (``jax.custom_vjp``), which supports reverse mode, once. Use
    "lax" for ``jax.jvp``, ``jax.jacfwd`` or derivatives of derivatives.

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
    demand_positive_integers("conv2d", stride=stride, groups=groups)
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
    if method == "auto":
        if export.is_symbolic_dim(x.shape[0]):
            # An exported function may run on another platform than this process does.
            on_cpu = partial(conv2d, stride=stride, groups=groups, method=_fastest_on_cpu(x, kernel, stride, groups))
            elsewhere = partial(_conv_lax, stride=stride, groups=groups)
            return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)
        method = _fastest_method(x, kernel, stride, groups)
    if groups > 1 and method != "lax":
        if method == "patches" and _groups_are_wide(kernel, groups):
            return _conv_groups(x, kernel, stride, groups)
        kernel, groups = _block_diagonal(kernel, groups), 1
    if method == "winograd4":
        obstacle = _winograd_obstacle(x, kernel, stride)
        if obstacle is not None:
            raise InputError(f"conv2d: method {method!r} {obstacle}")
        return _conv_winograd(x, kernel)
    if method == "patches":
        if size == 1:
            return _conv_1x1(x, kernel, stride)
        return _conv_patches(x, kernel, stride) if size == 3 else _conv_products(x, kernel, stride)
    return _conv_lax(x, kernel, stride, groups)


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
    demand_positive_integers("conv_transpose2d", stride=stride)
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


def _fastest_method(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> ConvMethod:
    """Returns the method that "auto" stands for, on the device that JAX uses by default."""
    return _fastest_on_cpu(x, kernel, stride, groups) if jax.default_backend() == "cpu" else "lax"


def _fastest_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> ConvMethod:
    """Returns the method that "auto" stands for on a CPU."""
    # XLA's own convolution in groups is the slowest in every dtype.
    if groups > 1 and (x.dtype != jnp.float32 or _groups_are_wide(kernel, groups)):
        return "patches"
    if x.dtype != jnp.float32:
        return "lax"
    batch, height, width, channels = x.shape
    tiles = batch * height * width // _TILE**2
    if (
        _winograd_obstacle(x, kernel, stride) is None
        and min(channels, kernel.shape[3]) >= _WINOGRAD_MIN_CHANNELS
        # A batch of symbolic size is exported together with the kernels, which XLA transforms when it compiles: then
        # transforming them costs nothing at run time, however few the tiles are.
        and (export.is_symbolic_dim(batch) or tiles >= _WINOGRAD_MIN_TILES)
    ):
        return "winograd4"
    return "patches"


def _winograd_obstacle(x: jax.Array, kernel: jax.Array, stride: int) -> str | None:
    """Returns why Winograd's method cannot compute a convolution, as the end of a sentence; None if it can."""
    if kernel.shape[0] != 3 or stride != 1:
        return f"needs a 3x3 kernel and stride 1; they are {kernel.shape[0]}x{kernel.shape[1]} and {stride}"
    if x.dtype != jnp.float32:
        return f"needs float32; x is {x.dtype}"
    if x.shape[1] % _TILE or x.shape[2] % _TILE:
        return f"needs height and width divisible by {_TILE}; they are {x.shape[1]} and {x.shape[2]}"
    return None


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
    blocks = kernel.reshape(height, width, 1, inputs, groups, outputs // groups) * own[:, None, :, None]
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


@jax.custom_vjp
def _conv_winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the convolution by Winograd's method; the caller has checked shapes, stride and dtype."""
    return _conv_winograd_forward(x, kernel)[0]


# Jitted so that layers of equal shapes, of which a network has many, are traced and lowered once.
@jax.jit
def _conv_winograd_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The backward pass keeps V, which is 9/4 as large as x. Computing it again from x would save nothing: XLA finds the
    # common subexpression, even behind a barrier, and compiles the same program.
    V = _transform_input(x)
    M = _products("tc,cf->tf", V, _transform_kernel(kernel))
    return _transform_output(M, x.shape), (V, kernel)


@jax.jit
def _conv_winograd_backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    V, kernel = residuals
    shape = (*dy.shape[:3], kernel.shape[2])
    dM = _adjoint_output(dy)
    # Transforming the transposed kernel is faster than products with a transposed U.
    U = _transform_kernel(kernel.swapaxes(2, 3))
    dx = _adjoint_input(_products("tf,fc->tc", dM, U), shape)
    return dx, _adjoint_kernel(_products("tc,tf->cf", V, dM))


_conv_winograd.defvjp(_conv_winograd_forward, _conv_winograd_backward)


def _products(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes a matrix product for each element of the windows, the first axis of both operands."""
    operands, result = subscripts.split("->")
    left, right = operands.split(",")
    # The barrier keeps XLA from fusing the products into the transforms, which would compute them several times.
    return lax.optimization_barrier(jnp.einsum(f"n{left},n{right}->n{result}", a, b))


def _transform_input(x: jax.Array) -> jax.Array:
    """Computes ``B^T d B`` of all windows: ``[N, H, W, C]`` to ``[n * n, tiles, C]``."""
    m, n = _TILE, _WINDOW
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # A window's pixel k, for all windows at once, is a strided slice of the image.
    rows = _stage(_BT, [padded[:, k : k + height - m + 1 : m] for k in range(n)], 0)
    both = _stage(_BT, [rows[:, :, :, k : k + width - m + 1 : m] for k in range(n)], 1)
    return both.reshape(n * n, -1, channels)


def _adjoint_input(V: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Applies the adjoint of ``_transform_input`` for an input of the shape ``[N, H, W, C]``."""
    m, n = _TILE, _WINDOW
    batch, height, width, channels = shape
    V = V.reshape(n, n, batch, height // m, width // m, channels)
    rows = lax.optimization_barrier(jnp.stack(_add_overlaps(_combine(_BT.T, list(V)), 2)))
    columns = _add_overlaps(_combine(_BT.T, [rows[:, k] for k in range(n)]), 3)
    return jnp.stack(columns, 4).transpose(1, 2, 0, 3, 4, 5).reshape(shape)


def _add_overlaps(pixels: Sequence[jax.Array], axis: int) -> list[jax.Array]:
    """Sums the n pixels of overlapping windows into the m pixels of the tiles.

    A window reaches one pixel into the tiles on either side. The outermost pixels of the image lie in the padding and
    are dropped.

    Args:
        pixels: The windows' n pixels along one dimension of the image.
        axis: The axis of the tiles along that dimension, in each of the arrays.
    """
    first, *own, last = pixels
    zeros = jnp.zeros_like(lax.slice_in_dim(first, 0, 1, axis=axis))
    tiles = first.shape[axis]
    own[0] += jnp.concatenate([zeros, lax.slice_in_dim(last, 0, tiles - 1, axis=axis)], axis)
    own[-1] += jnp.concatenate([lax.slice_in_dim(first, 1, tiles, axis=axis), zeros], axis)
    return own


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """Computes ``G g G^T``: ``[3, 3, C, F]`` to ``[n * n, C, F]``."""
    transformed = jnp.matmul(_KERNEL_MATRIX, kernel.reshape(9, -1))
    return lax.optimization_barrier(transformed.reshape(-1, *kernel.shape[2:]))


def _adjoint_kernel(U: jax.Array) -> jax.Array:
    """Applies the adjoint of ``_transform_kernel``."""
    return jnp.matmul(_KERNEL_MATRIX.T, U.reshape(U.shape[0], -1)).reshape(3, 3, *U.shape[1:])


def _transform_output(M: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Computes ``A^T M A``: ``[n * n, tiles, F]`` to ``[N, H, W, F]``, for a shape of ``[N, H, W, any]``."""
    m, n = _TILE, _WINDOW
    batch, height, width, _ = shape
    channels = M.shape[-1]
    rows = _stage(_AT, list(M.reshape(n, n, -1, channels)), 0)
    pixels = jnp.stack(_combine(_AT, [rows[:, k] for k in range(n)]), 2)
    pixels = pixels.reshape(m, batch, height // m, width, channels)
    return pixels.transpose(1, 2, 0, 3, 4).reshape(batch, height, width, channels)


def _adjoint_output(dy: jax.Array) -> jax.Array:
    """Applies the adjoint of ``_transform_output``, ``A dY A^T``: ``[N, H, W, F]`` to ``[n * n, tiles, F]``."""
    m, n = _TILE, _WINDOW
    batch, height, width, channels = dy.shape
    # The transform reads every pixel several times, so what produces dy must not be fused into it.
    dy = lax.optimization_barrier(dy).reshape(batch, height // m, m, width, channels)
    rows = _stage(_AT.T, [dy[:, :, k] for k in range(m)], 0)
    rows = rows.reshape(n, batch, height // m, width // m, m, channels)
    both = _stage(_AT.T, [rows[..., k, :] for k in range(m)], 1)
    return both.reshape(n * n, -1, channels)


def _stage(matrix: np.ndarray, arrays: Sequence[jax.Array], axis: int) -> jax.Array:
    """Computes ``matrix @ arrays`` along a new axis: one of the two dimensions of a transform.

    The barrier keeps the result in memory. Without it XLA fuses both dimensions, and computes the first again for every
    use by the second.
    """
    return lax.optimization_barrier(jnp.stack(_combine(matrix, arrays), axis))


def _combine(matrix: np.ndarray, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Computes ``matrix @ arrays`` as a few additions without the zeros, which is cheaper than so small a product."""

    def row_times_arrays(row: np.ndarray) -> jax.Array:
        return reduce(operator.add, [float(c) * a for c, a in zip(row, arrays, strict=True) if c])

    return [row_times_arrays(row) for row in matrix]
