import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from seanet_jax.errors import InputError
from seanet_jax.layers import capsules

# The reference: plain loops over every capsule, in float64.


def slow_squash(vector):
    length = np.sqrt(sum(float(v) ** 2 for v in vector))
    if length == 0:
        return np.zeros(len(vector))
    return np.asarray(vector, np.float64) * (length**2 / (1 + length**2) / length)


def slow_squash_map(x, groups):
    size = x.shape[-1] // groups
    out = np.zeros(x.shape)
    for where in np.ndindex(x.shape[:-1]):
        for g in range(groups):
            out[where][g * size : g * size + size] = slow_squash(x[where][g * size : g * size + size])
    return out


def slow_route(main, aide, main_coefficients, aide_coefficients):
    groups = main_coefficients.shape[-1]
    size = main.shape[-1] // groups
    out = np.zeros(main.shape)
    for where in np.ndindex(main.shape):
        *position, channel = where
        g = (*position, channel // size)
        out[where] = main[where] * aide_coefficients[g] + aide[where] * main_coefficients[g]
    return out


def slow_flatten(x, groups):
    batch, height, width, channels = x.shape
    size = channels // groups
    out = np.zeros((batch, groups * height * width, size))
    for b, g, i, j, d in np.ndindex(batch, groups, height, width, size):
        out[b, (g * height + i) * width + j, d] = x[b, i, j, g * size + d]
    return out


def slow_class_capsules(u, kernel):
    batch, count, size = u.shape
    classes = kernel.shape[2]
    out = np.zeros((batch, classes, size))
    for b in range(batch):
        for c in range(classes):
            total = np.zeros(size)
            for n in range(count):
                for d in range(size):
                    total[d] += float(u[b, n, d]) * float(kernel[d, n, c])
            out[b, c] = slow_squash(total)
    return out


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_squash_equals_a_plain_loop(groups, size, seed):
    x = normal(2, 3, groups * size, seed=seed) * 3
    np.testing.assert_allclose(
        capsules.squash(jnp.asarray(x), groups), slow_squash_map(x, groups), rtol=2e-5, atol=1e-7
    )
    vectors = x.reshape(2, 3, groups, size)
    np.testing.assert_allclose(capsules.squash(jnp.asarray(vectors)).reshape(x.shape), capsules.squash(x, groups))


def test_squash_shortens_and_keeps_the_direction():
    x = np.concatenate([normal(50, 4, seed=1) * 10.0**power for power in (-3, 0, 3)])
    squashed = np.asarray(capsules.squash(jnp.asarray(x)), np.float64)
    before, after = np.linalg.norm(x, axis=1), np.linalg.norm(squashed, axis=1)
    assert (after < 1 + 1e-6).all()
    np.testing.assert_allclose(after, before**2 / (1 + before**2), rtol=1e-4)
    np.testing.assert_allclose((x * squashed).sum(1), before * after, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e15])
def test_squash_has_finite_values_and_gradients_at_zero_and_far_from_it(scale):
    x = jnp.asarray([[scale, -scale, 0.0]], jnp.float32)
    value, gradient = jax.value_and_grad(lambda x: capsules.squash(x).sum())(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    jacobian = jax.jacrev(capsules.squash)(x)
    assert np.isfinite(jacobian).all()
    if scale == 0:
        np.testing.assert_array_equal(jacobian, np.zeros_like(jacobian))


def test_the_gradient_of_squash_is_that_of_differences():
    x = normal(1, 4).astype(np.float64)
    with jax.enable_x64(True):
        check_grads(lambda x: capsules.squash(x, 2), (jnp.asarray(x),), order=1, modes=["fwd", "rev"])


def test_the_norm_is_numpys_and_its_gradient_at_zero_is_zero():
    x = normal(3, 5)
    np.testing.assert_allclose(capsules.euclidean_norm(jnp.asarray(x)), np.linalg.norm(x, axis=-1), rtol=1e-6)
    assert capsules.euclidean_norm(jnp.asarray(x), keepdims=True).shape == (3, 1)
    gradient = jax.grad(lambda x: capsules.euclidean_norm(x).sum())(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_routing_equals_a_plain_loop(groups, size, seed):
    random = np.random.default_rng(seed)
    main, aide = random.normal(size=(2, 2, 3, 2, groups * size)).astype(np.float32)
    main_coefficients, aide_coefficients = random.normal(size=(2, 2, 3, 2, groups)).astype(np.float32)
    found = capsules.route(*map(jnp.asarray, (main, aide, main_coefficients, aide_coefficients)))
    expected = slow_route(main, aide, main_coefficients, aide_coefficients)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_coefficients_cross():
    main, aide = jnp.ones((1, 4)), jnp.full((1, 4), 10.0)
    found = capsules.route(main, aide, jnp.asarray([[1.0, 2.0]]), jnp.asarray([[3.0, 4.0]]))
    np.testing.assert_array_equal(found, [[13, 13, 24, 24]])


def test_capsules_are_flattened_in_the_order_of_group_row_column():
    x = normal(2, 3, 4, 6)
    np.testing.assert_array_equal(capsules.flatten_capsules(jnp.asarray(x), 3), slow_flatten(x, 3).astype(np.float32))


@pytest.mark.slow
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_class_capsules_are_the_loops(count, size, classes, seed):
    u, kernel = normal(2, count, size, seed=seed), normal(size, count, classes, seed=seed + 1)
    found = capsules.class_capsules(jnp.asarray(u), jnp.asarray(kernel))
    np.testing.assert_allclose(found, slow_class_capsules(u, kernel), rtol=1e-4, atol=1e-6)


def test_half_precision_stays_half_precision():
    x = jnp.asarray(normal(2, 2, 2, 8), jnp.bfloat16)
    assert capsules.squash(x, 4).dtype == jnp.bfloat16
    assert capsules.class_capsules(x.reshape(2, 4, 8), jnp.ones((8, 4, 3))).dtype == jnp.bfloat16
    assert capsules.euclidean_norm(x).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: capsules.squash(jnp.ones((2, 5)), 2), "groups is 2; it must be a positive integer that divides the 5"),
        (lambda: capsules.squash(jnp.ones((2, 5)), 0), "groups is 0"),
        (lambda: capsules.squash(jnp.ones((2, 5), int)), r"x is int32 \(2, 5, *\)|x is int32 \(2, 5\)"),
        (lambda: capsules.squash(jnp.float32(1)), "must be floating point"),
        (lambda: capsules.as_capsules(jnp.float32(1), 1), "it needs a last axis"),
        (lambda: capsules.scale_capsules(jnp.ones((2, 4)), jnp.ones((3, 2))), r"must be \[\.\.\., groups \* size\]"),
        (lambda: capsules.route(*map(jnp.ones, ((2, 4), (2, 6), (2, 2), (2, 2)))), "must be of one shape"),
        (lambda: capsules.flatten_capsules(jnp.ones((2, 4)), 2), r"must be \[N, H, W, groups \* size\]"),
        (
            lambda: capsules.class_capsules(jnp.ones((2, 3, 4)), jnp.ones((3, 4, 5))),
            r"\[N, n, D\] and \[D, n, classes\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
