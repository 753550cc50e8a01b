"""2-D convolution, and on a CPU faster ways to the same numbers than XLA's.

XLA's CPU backend computes the weight gradient of a convolution as another convolution, whose kernel is as large as the
image; that takes several times as long as the forward pass. Here it becomes a matrix product instead: of the kernel's
patches of the input ("patches"), or for 3x3 kernels of stride 1 in Winograd's transformed domain, which needs a quarter
of the multiplications and speeds up all three passes.

Winograd's minimal filtering in the form of Lavin and Gray, CVPR 2016 (arXiv:1509.09308, section 4.1). The output is
computed in tiles of m x m pixels from overlapping windows d of (m + 2) x (m + 2) pixels:

    Y = A^T [(G g G^T) * (B^T d B)] A        (* element by element; summed over input channels before A)

Every element of a transformed window thus needs a matrix product of its own, [tiles, C] @ [C, F]. All maps are linear,
so the gradients are the adjoints: with dM = A dY A^T, V = B^T d B and U = G g G^T,

    dg = G^T (V^T dM) G   and   dd = B (dM U^T) B^T, added up where windows overlap.
"""

import dataclasses
import operator
from collections.abc import Sequence
from functools import partial, reduce
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

from seanet_jax.errors import InputError, demand_positive_integers

ConvMethod = Literal["auto", "lax", "patches", "winograd2", "winograd4"]
CONV_METHODS: tuple[str, ...] = get_args(ConvMethod)


@dataclasses.dataclass(frozen=True, eq=False)
class _Winograd:
    """The matrices of F(m x m, 3 x 3); the windows have n = m + 2 pixels a side.

    Attributes:
        BT: of the input, ``[n, n]``.
        G: of the kernel, ``[n, 3]``.
        AT: of the output, ``[m, n]``.
    """

    BT: np.ndarray
    G: np.ndarray
    AT: np.ndarray

    @property
    def tile(self) -> int:
        """Pixels along a side of an output tile, m."""
        return self.AT.shape[0]

    @property
    def window(self) -> int:
        """Pixels along a side of an input window, n."""
        return self.AT.shape[1]

    @property
    def kernel_matrix(self) -> np.ndarray:
        """``[n * n, 9]``, so that ``vec(G g G^T) = kernel_matrix @ vec(g)``."""
        return np.kron(self.G, self.G).astype(np.float32)


_WINOGRAD2 = _Winograd(
    BT=np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    G=np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
    AT=np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
)
_WINOGRAD4 = _Winograd(
    BT=np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
    G=np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
    AT=np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
)
_WINOGRADS = {"winograd2": _WINOGRAD2, "winograd4": _WINOGRAD4}


def conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, groups: int = 1, method: ConvMethod = "auto"
) -> jax.Array:
    """2-D cross-correlation with an odd square kernel, padded by half of it on every side (as PyTorch pads).

    XLA's "SAME" pads asymmetrically when the stride is 2 and gives other numbers; this does not.

    The methods compute the same function and differ in speed, in rounding and in the derivatives they offer:

    * "lax": ``lax.conv_general_dilated`` and JAX's derivatives of it, all of them; for any device and dtype.
    * "patches": as "lax", but the weight gradient is the matrix product of the input's patches with the output's
      gradient, and a convolution of 1x1, or of more than 3x3, is a matrix product altogether. So is one of groups, a
      product for each group.
    * "winograd2", "winograd4": Winograd's F(2x2, 3x3) and F(4x4, 3x3), for float32, 3x3 kernels, stride 1, and
      height and width divisible by 2 or 4.
    * "auto": what is fastest. On a CPU (``jax.default_backend()`` when the function is traced) in float32,
      "winograd4" where it is possible and pays, else "patches"; otherwise "lax". Where the batch size is symbolic
      (``jax.export``), each platform gets its own when the function is lowered, a CPU that of a large batch.

    Groups of few channels are, but for "lax", one convolution with a kernel that is zero between groups: on a CPU,
    XLA's own convolution of groups is slower than all these zeros.

    "patches" and both "winograd" methods define their own gradient (``jax.custom_vjp``): reverse mode, once. For
    ``jax.jvp``, ``jax.jacfwd`` or derivatives of derivatives use "lax".

    Rounding: in float32 the root-mean-square error of the result and of both gradients, relative to their
    root-mean-square, stays below 2e-6 for "lax", "patches" and "winograd2", and below 1e-5 for "winograd4" (measured
    for 3 to 512 channels: up to 8e-7 and 5e-6).

    Args:
        x: ``[N, H, W, C]``.
        kernel: ``[k, k, C / groups, F]`` with k odd; cast to x's dtype.
        stride: step in both spatial directions.
        groups: of adjacent channels, as many of the output as of the input, each computed from its own alone.
        method: how it is computed.

    Returns:
        ``[N, ceil(H / stride), ceil(W / stride), F]``, of x's dtype.

    Raises:
        InputError: x is not a floating-point map, the ranks, channels or groups do not fit, something is empty, the
          kernel is not odd and square, the stride is not a positive integer, the method is unknown or cannot compute
          this.
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
            on_cpu = partial(conv2d, stride=stride, groups=groups, method=_fastest_on_cpu(x, kernel, stride, groups))
            elsewhere = partial(_conv_lax, stride=stride, groups=groups)
            return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)
        method = _fastest_method(x, kernel, stride, groups)
    if groups > 1 and method != "lax":
        if method == "patches" and _groups_are_wide(kernel, groups):
            return _conv_groups(x, kernel, stride, groups)
        kernel, groups = _block_diagonal(kernel, groups), 1
    if method in _WINOGRADS:
        matrices = _WINOGRADS[method]
        obstacle = _winograd_obstacle(x, kernel, stride, matrices)
        if obstacle is not None:
            raise InputError(f"conv2d: method {method!r} {obstacle}")
        return _conv_winograd(x, kernel, matrices)
    if method == "patches":
        if size == 1:
            return _conv_1x1(x, kernel, stride)
        return _conv_patches(x, kernel, stride) if size == 3 else _conv_products(x, kernel, stride)
    return _conv_lax(x, kernel, stride, groups)


def conv_transpose2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, method: ConvMethod = "auto") -> jax.Array:
    """The transpose of ``conv2d`` of the same stride, for maps that it does not round up: it multiplies their size.

    PyTorch's transposed convolution with half the kernel as padding and ``stride - 1`` as output padding: zeros are
    laid between the pixels, and the result is convolved with the kernel turned by 180 degrees.

    Args:
        x: ``[N, H, W, C]``.
        kernel: ``[k, k, C, F]`` with k odd; cast to x's dtype.
        stride: factor of the size in both spatial directions.
        method: see ``conv2d``.

    Returns:
        ``[N, stride * H, stride * W, F]``, of x's dtype.

    Raises:
        InputError: as ``conv2d``.
    """
    demand_positive_integers("conv_transpose2d", stride=stride)
    if x.ndim != 4 or kernel.ndim != 4:
        raise InputError(
            f"conv_transpose2d: x {x.shape} and kernel {kernel.shape} must be [N, H, W, C] and [k, k, C, F]"
        )
    between = (0, stride - 1, stride - 1)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), between, between, (0, 0, 0)))
    return conv2d(x, kernel[::-1, ::-1], method=method)


# Where Winograd's method pays on a CPU, measured on two x86-64 cores. Below 16 channels transforming the tiles costs
# more than it saves; below 64 tiles (one image of 32x32, 16 of 8x8) transforming the kernel does.
_WINOGRAD_MIN_CHANNELS = 16
_WINOGRAD_MIN_TILES = 64
# Channels of a group, in and out, above which a product for each group is faster than one with zeros between groups.
_WIDE_GROUP = 4


def _groups_are_wide(kernel: jax.Array, groups: int) -> bool:
    return min(kernel.shape[2], kernel.shape[3] // groups) >= _WIDE_GROUP


def _fastest_method(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> ConvMethod:
    """What "auto" means for this convolution, on the device JAX uses by default."""
    return _fastest_on_cpu(x, kernel, stride, groups) if jax.default_backend() == "cpu" else "lax"


def _fastest_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> ConvMethod:
    """What "auto" means for this convolution on a CPU."""
    # Of groups, not XLA's own in any dtype.
    if groups > 1 and (x.dtype != jnp.float32 or _groups_are_wide(kernel, groups)):
        return "patches"
    if x.dtype != jnp.float32:
        return "lax"
    batch, height, width, channels = x.shape
    tiles = batch * height * width // _WINOGRAD4.tile**2
    if (
        _winograd_obstacle(x, kernel, stride, _WINOGRAD4) is None
        and min(channels, kernel.shape[3]) >= _WINOGRAD_MIN_CHANNELS
        # A batch of any size is exported together with the kernels, which XLA then transforms when it compiles.
        and (export.is_symbolic_dim(batch) or tiles >= _WINOGRAD_MIN_TILES)
    ):
        return "winograd4"
    return "patches"


def _winograd_obstacle(x: jax.Array, kernel: jax.Array, stride: int, matrices: _Winograd) -> str | None:
    """Why Winograd's method cannot compute this convolution, as the end of a sentence; None if it can."""
    if kernel.shape[0] != 3 or stride != 1:
        return f"needs a 3x3 kernel and stride 1; they are {kernel.shape[0]}x{kernel.shape[1]} and {stride}"
    if x.dtype != jnp.float32:
        return f"needs float32; x is {x.dtype}"
    if x.shape[1] % matrices.tile or x.shape[2] % matrices.tile:
        return f"needs height and width divisible by {matrices.tile}; they are {x.shape[1]} and {x.shape[2]}"
    return None


def _conv_lax(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    """XLA's own, with JAX's derivatives."""
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
    """The kernel of groups as one of all channels, zero between them: ``[k, k, C / groups, F]`` to ``[k, k, C, F]``."""
    height, width, inputs, outputs = kernel.shape
    own = jnp.eye(groups, dtype=kernel.dtype)
    blocks = kernel.reshape(height, width, 1, inputs, groups, outputs // groups) * own[:, None, :, None]
    return blocks.reshape(height, width, groups * inputs, outputs)


def _conv_groups(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    """A matrix product for each group; so are its gradients."""
    size, _, inputs, outputs = kernel.shape
    patches = _patches(x, size, stride)
    pixels = patches.reshape(-1, size * size, groups, inputs)
    kernels = kernel.reshape(size * size, inputs, groups, outputs // groups)
    return jnp.einsum("tpgi,pigo->tgo", pixels, kernels).reshape(*patches.shape[:3], outputs)


def _conv_1x1(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A matrix product; so are its gradients."""
    x = x[:, ::stride, ::stride]
    # Of two plain matrices: with three axes to sum over, XLA transposes the output's gradient for the weight gradient.
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """XLA's own, but for the weight gradient."""
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
    """The product of the patches with the kernel; so are its gradients.

    On a CPU XLA's own is slower by far where the kernel is larger than the map.
    """
    patches = _patches(x, kernel.shape[0], stride)
    y = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*patches.shape[:3], -1)


def _conv_products_forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not the patches: they are size^2 times as large as x.
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
    """What each output pixel sees, ``[N, H, W, C]`` to ``[N, ceil(H / stride), ceil(W / stride), size * size * C]``."""
    _, height, width, _ = x.shape
    half = size // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    return jnp.concatenate(
        [padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)], -1
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_winograd(x: jax.Array, kernel: jax.Array, matrices: _Winograd) -> jax.Array:
    """Winograd's; the caller has checked shapes, stride and dtype."""
    return _conv_winograd_forward(x, kernel, matrices)[0]


# Jitted, so that layers of equal shapes are traced and lowered once: a network has many of them.
@partial(jax.jit, static_argnums=(2,))
def _conv_winograd_forward(
    x: jax.Array, kernel: jax.Array, matrices: _Winograd
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The backward pass keeps V, 9/4 of x for 4x4 tiles. Computing it again from x saves nothing: XLA recognises the
    # common subexpression, even behind a barrier, and compiles the same program.
    V = _transform_input(x, matrices)
    M = _products("tc,cf->tf", V, _transform_kernel(kernel, matrices))
    return _transform_output(M, x.shape, matrices), (V, kernel)


@partial(jax.jit, static_argnums=(0,))
def _conv_winograd_backward(
    matrices: _Winograd, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    V, kernel = residuals
    shape = (*dy.shape[:3], kernel.shape[2])
    dM = _adjoint_output(dy, matrices)
    # The transposed kernel is transformed anew: products with a transposed U take longer than that.
    U = _transform_kernel(kernel.swapaxes(2, 3), matrices)
    dx = _adjoint_input(_products("tf,fc->tc", dM, U), shape, matrices)
    return dx, _adjoint_kernel(_products("tc,tf->cf", V, dM), matrices)


_conv_winograd.defvjp(_conv_winograd_forward, _conv_winograd_backward)


def _products(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A matrix product for each element of the windows, the first axis of both operands."""
    operands, result = subscripts.split("->")
    left, right = operands.split(",")
    return lax.optimization_barrier(jnp.einsum(f"n{left},n{right}->n{result}", a, b))


def _transform_input(x: jax.Array, matrices: _Winograd) -> jax.Array:
    """``B^T d B`` of all windows: ``[N, H, W, C]`` to ``[n * n, tiles, C]``."""
    m, n = matrices.tile, matrices.window
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = _stage(matrices.BT, [padded[:, k : k + height - m + 1 : m] for k in range(n)], 0)
    both = _stage(matrices.BT, [rows[:, :, :, k : k + width - m + 1 : m] for k in range(n)], 1)
    return both.reshape(n * n, -1, channels)


def _adjoint_input(V: jax.Array, shape: tuple[int, ...], matrices: _Winograd) -> jax.Array:
    """Adjoint of ``_transform_input`` for an input of the shape ``[N, H, W, C]``."""
    m, n = matrices.tile, matrices.window
    batch, height, width, channels = shape
    V = V.reshape(n, n, batch, height // m, width // m, channels)
    rows = lax.optimization_barrier(jnp.stack(_add_overlaps(_combine(matrices.BT.T, list(V)), 2)))
    columns = _add_overlaps(_combine(matrices.BT.T, [rows[:, k] for k in range(n)]), 3)
    return jnp.stack(columns, 4).transpose(1, 2, 0, 3, 4, 5).reshape(shape)


def _add_overlaps(pixels: Sequence[jax.Array], axis: int) -> list[jax.Array]:
    """The m pixels of the tiles from the n of the windows, which reach one pixel into the tiles on either side.

    The outermost pixels lie in the padding and are dropped.

    Args:
        pixels: the windows' n pixels along one dimension of the image.
        axis: of the tiles along that dimension, in each of the arrays.
    """
    first, *own, last = pixels
    zeros = jnp.zeros_like(lax.slice_in_dim(first, 0, 1, axis=axis))
    tiles = first.shape[axis]
    own[0] += jnp.concatenate([zeros, lax.slice_in_dim(last, 0, tiles - 1, axis=axis)], axis)
    own[-1] += jnp.concatenate([lax.slice_in_dim(first, 1, tiles, axis=axis), zeros], axis)
    return own


def _transform_kernel(kernel: jax.Array, matrices: _Winograd) -> jax.Array:
    """``G g G^T``: ``[3, 3, C, F]`` to ``[n * n, C, F]``."""
    transformed = jnp.matmul(matrices.kernel_matrix, kernel.reshape(9, -1))
    return lax.optimization_barrier(transformed.reshape(-1, *kernel.shape[2:]))


def _adjoint_kernel(U: jax.Array, matrices: _Winograd) -> jax.Array:
    """Adjoint of ``_transform_kernel``."""
    return jnp.matmul(matrices.kernel_matrix.T, U.reshape(U.shape[0], -1)).reshape(3, 3, *U.shape[1:])


def _transform_output(M: jax.Array, shape: tuple[int, ...], matrices: _Winograd) -> jax.Array:
    """``A^T M A``: ``[n * n, tiles, F]`` to ``[N, H, W, F]``; the shape is ``[N, H, W, any]``."""
    m, n = matrices.tile, matrices.window
    batch, height, width, _ = shape
    channels = M.shape[-1]
    rows = _stage(matrices.AT, list(M.reshape(n, n, -1, channels)), 0)
    pixels = jnp.stack(_combine(matrices.AT, [rows[:, k] for k in range(n)]), 2)
    pixels = pixels.reshape(m, batch, height // m, width, channels)
    return pixels.transpose(1, 2, 0, 3, 4).reshape(batch, height, width, channels)


def _adjoint_output(dy: jax.Array, matrices: _Winograd) -> jax.Array:
    """Adjoint of ``_transform_output``, ``A dY A^T``: ``[N, H, W, F]`` to ``[n * n, tiles, F]``."""
    m, n = matrices.tile, matrices.window
    batch, height, width, channels = dy.shape
    # What produces dy must not be fused into the transform either, which reads every pixel several times.
    dy = lax.optimization_barrier(dy).reshape(batch, height // m, m, width, channels)
    rows = _stage(matrices.AT.T, [dy[:, :, k] for k in range(m)], 0)
    rows = rows.reshape(n, batch, height // m, width // m, m, channels)
    both = _stage(matrices.AT.T, [rows[..., k, :] for k in range(m)], 1)
    return both.reshape(n * n, -1, channels)


def _stage(matrix: np.ndarray, arrays: Sequence[jax.Array], axis: int) -> jax.Array:
    """``matrix @ arrays`` along a new axis, kept in memory: one of the two dimensions of a transform.

    Without the barrier XLA fuses both dimensions and computes the first anew for every use by the second.
    """
    return lax.optimization_barrier(jnp.stack(_combine(matrix, arrays), axis))


def _combine(matrix: np.ndarray, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """``matrix @ arrays`` with the zeros left out: a few additions, cheaper than a matrix product so small."""

    def row_times_arrays(row: np.ndarray) -> jax.Array:
        return reduce(operator.add, [float(c) * a for c, a in zip(row, arrays, strict=True) if c])

    return [row_times_arrays(row) for row in matrix]
