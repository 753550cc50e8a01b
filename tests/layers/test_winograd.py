"""Winograd's transforms: exact in rational numbers, and each gradient the adjoint of its transform."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seanet_jax.layers import winograd


def rational(matrix, denominator=1):
    """Returns a matrix of fractions. Its elements times the denominator are integers."""
    scaled = np.rint(matrix * denominator).astype(int)
    np.testing.assert_allclose(scaled, matrix * denominator, atol=1e-9)
    return [[Fraction(int(element), denominator) for element in row] for row in scaled]


def product(matrix, vector):
    return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


def test_one_dimension_is_exact_for_every_pair_of_unit_vectors():
    # The method is bilinear, so that unit vectors show it for all inputs: y[i] = sum_k g[k] d[i + k].
    bt, g_matrix, at = rational(winograd._BT), rational(winograd._G, 24), rational(winograd._AT)
    for pixel in range(winograd.WINDOW):
        d = [Fraction(int(pixel == index)) for index in range(winograd.WINDOW)]
        for tap in range(3):
            g = [Fraction(int(tap == index)) for index in range(3)]
            transformed = [a * b for a, b in zip(product(g_matrix, g), product(bt, d), strict=True)]
            direct = [sum(g[k] * d[i + k] for k in range(3)) for i in range(winograd.TILE)]
            assert product(at, transformed) == direct, (pixel, tap)


def test_the_transformed_window_has_the_documented_shape_and_value():
    x = np.random.default_rng(0).integers(-4, 4, (2, 8, 4, 3)).astype(np.float32)
    transformed = winograd._transform_input(jnp.asarray(x))
    assert transformed.shape == (36, 2 * 2 * 1, 3)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # The second image's lower tile, channel 1.
    window = padded[1, 4:10, 0:6, 1]
    np.testing.assert_array_equal(transformed[:, 3, 1].reshape(6, 6), winograd._BT @ window @ winograd._BT.T)


@pytest.mark.parametrize(
    ("transform", "adjoint", "shape"),
    [
        (winograd._transform_input, lambda V: winograd._adjoint_input(V, (2, 8, 12, 3)), (2, 8, 12, 3)),
        (winograd._transform_kernel, winograd._adjoint_kernel, (3, 3, 4, 5)),
        (lambda M: winograd._transform_output(M, (2, 8, 12, 3)), winograd._adjoint_output, (36, 12, 5)),
    ],
    ids=["input", "kernel", "output"],
)
def test_each_adjoint_is_the_transpose_of_its_transform(transform, adjoint, shape):
    random = np.random.default_rng(1)
    x = random.normal(size=shape).astype(np.float32)
    y = transform(jnp.asarray(x))
    dy = random.normal(size=y.shape).astype(np.float32)
    (expected,) = jax.linear_transpose(transform, jax.ShapeDtypeStruct(shape, np.float32))(jnp.asarray(dy))
    np.testing.assert_allclose(adjoint(jnp.asarray(dy)), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("side", "size", "stride", "dtype", "expected"),
    [
        (8, 3, 1, jnp.float32, None),
        (8, 5, 1, jnp.float32, "needs a 3x3 kernel and stride 1; they are 5x5 and 1"),
        (8, 3, 2, jnp.float32, "needs a 3x3 kernel and stride 1; they are 3x3 and 2"),
        (6, 3, 1, jnp.float32, "needs height and width divisible by 4; they are 6 and 6"),
        (8, 3, 1, jnp.bfloat16, "needs float32; x is bfloat16"),
    ],
)
def test_the_obstacle_is_named(side, size, stride, dtype, expected):
    x, kernel = jnp.zeros((1, side, side, 2), dtype), jnp.zeros((size, size, 2, 2), dtype)
    assert winograd.obstacle(x, kernel, stride) == expected
