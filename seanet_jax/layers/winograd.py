"""3x3 convolution of stride 1 by Winograd's minimal filtering, with its own gradients.

It is written for XLA's CPU backend. ``convolution.py`` decides when it pays.

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
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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
TILE, WINDOW = _AT.shape
# [n * n, 9], so that vec(G g G^T) = _KERNEL_MATRIX @ vec(g): a kernel is too small for two products.
_KERNEL_MATRIX = np.kron(_G, _G).astype(np.float32)


def obstacle(x: jax.Array, kernel: jax.Array, stride: int) -> str | None:
    """Returns why Winograd's method cannot compute a convolution, as the end of a sentence; None if it can."""
    if kernel.shape[0] != 3 or stride != 1:
        return f"needs a 3x3 kernel and stride 1; they are {kernel.shape[0]}x{kernel.shape[1]} and {stride}"
    if x.dtype != jnp.float32:
        return f"needs float32; x is {x.dtype}"
    if x.shape[1] % TILE or x.shape[2] % TILE:
        return f"needs height and width divisible by {TILE}; they are {x.shape[1]} and {x.shape[2]}"
    return None


@jax.custom_vjp
def conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the convolution by Winograd's method; the caller has checked shapes, stride and dtype."""
    return _forward(x, kernel)[0]


# Jitted so that layers of equal shapes, of which a network has many, are traced and lowered once.
@jax.jit
def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The backward pass keeps V, which is 9/4 as large as x. Computing it again from x would save nothing: XLA finds the
    # common subexpression, even behind a barrier, and compiles the same program.
    V = _transform_input(x)
    M = _products("tc,cf->tf", V, _transform_kernel(kernel))
    return _transform_output(M, x.shape), (V, kernel)


@jax.jit
def _backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    V, kernel = residuals
    shape = (*dy.shape[:3], kernel.shape[2])
    dM = _adjoint_output(dy)
    # Transforming the transposed kernel is faster than products with a transposed U.
    U = _transform_kernel(kernel.swapaxes(2, 3))
    dx = _adjoint_input(_products("tf,fc->tc", dM, U), shape)
    return dx, _adjoint_kernel(_products("tc,tf->cf", V, dM))


conv2d.defvjp(_forward, _backward)


def _products(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes a matrix product for each element of the windows, the first axis of both operands."""
    operands, result = subscripts.split("->")
    left, right = operands.split(",")
    # The barrier keeps XLA from fusing the products into the transforms, which would compute them several times.
    return lax.optimization_barrier(jnp.einsum(f"n{left},n{right}->n{result}", a, b))


def _transform_input(x: jax.Array) -> jax.Array:
    """Computes ``B^T d B`` of all windows: ``[N, H, W, C]`` to ``[n * n, tiles, C]``."""
    m, n = TILE, WINDOW
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # A window's pixel k, for all windows at once, is a strided slice of the image.
    rows = _stage(_BT, [padded[:, k : k + height - m + 1 : m] for k in range(n)], 0)
    both = _stage(_BT, [rows[:, :, :, k : k + width - m + 1 : m] for k in range(n)], 1)
    return both.reshape(n * n, -1, channels)


def _adjoint_input(V: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Applies the adjoint of ``_transform_input`` for an input of the shape ``[N, H, W, C]``."""
    m, n = TILE, WINDOW
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
    m, n = TILE, WINDOW
    batch, height, width, _ = shape
    channels = M.shape[-1]
    rows = _stage(_AT, list(M.reshape(n, n, -1, channels)), 0)
    pixels = jnp.stack(_combine(_AT, [rows[:, k] for k in range(n)]), 2)
    pixels = pixels.reshape(m, batch, height // m, width, channels)
    return pixels.transpose(1, 2, 0, 3, 4).reshape(batch, height, width, channels)


def _adjoint_output(dy: jax.Array) -> jax.Array:
    """Applies the adjoint of ``_transform_output``, ``A dY A^T``: ``[N, H, W, F]`` to ``[n * n, tiles, F]``."""
    m, n = TILE, WINDOW
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
