import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.optimize import linprog

from seanet_jax.errors import InputError
from seanet_jax.layers import transport


def slow_distances(x, y):
    return np.array([[np.sqrt(sum((a - b) ** 2 for a, b in zip(p, q, strict=True))) for q in y] for p in x])


def slow_sinkhorn(cost, rounds=10):
    """Sinkhorn's iteration as published, in float64: exponentials, sums and quotients."""
    n, m = cost.shape
    kernel, b = np.exp(-cost), np.full(m, 1 / m)
    for _ in range(rounds):
        a = np.array([(1 / n) / sum(kernel[i, j] * b[j] for j in range(m)) for i in range(n)])
        b = np.array([(1 / m) / sum(kernel[i, j] * a[i] for i in range(n)) for j in range(m)])
    return a[:, None] * kernel * b


def optimum(cost):
    """Returns the cost of the cheapest plan, by linear programming."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    solved = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=[1 / n] * n + [1 / m] * m)
    assert solved.success
    return solved.fun


def samples(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_distances_are_the_loops(n, m, size, seed):
    x, y = samples(n, size, seed=seed), samples(m, size, seed=seed + 1)
    found = transport.pairwise_distances(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(found, slow_distances(x, y), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_distance_of_zero_has_a_finite_gradient():
    x = jnp.asarray(samples(3, 2), jnp.float32)
    gradient = jax.grad(lambda x: transport.pairwise_distances(x, x).sum())(x)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(jax.grad(lambda y: transport.pairwise_distances(x[:1], y).sum())(x[:1]), [[0, 0]])
    # All samples are the same, as when all activations of a critic are zero.
    same = jnp.zeros((4, 3))
    value, gradient = jax.value_and_grad(lambda x: transport.transport_divergence(x, same))(same)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((4, 3)))


@pytest.mark.slow
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_plan_is_that_of_the_plain_iteration(n, m, seed):
    cost = np.abs(samples(n, m, seed=seed)) * 3
    np.testing.assert_allclose(transport.sinkhorn(jnp.asarray(cost, jnp.float32)), slow_sinkhorn(cost), rtol=1e-4)


def test_marginals():
    cost = np.abs(samples(6, 4)) * 5
    plan = np.asarray(transport.sinkhorn(jnp.asarray(cost, jnp.float32)))
    # The columns are scaled last, so their sums are exact.
    np.testing.assert_allclose(plan.sum(0), np.full(4, 1 / 4), rtol=1e-5)
    far = [
        np.abs(transport.sinkhorn(jnp.asarray(cost), rounds=rounds).sum(1) - 1 / 6).max() for rounds in (1, 3, 10, 100)
    ]
    assert far == sorted(far, reverse=True) and far[-1] < 1e-6 < far[0]


def test_the_cost_nears_that_of_linear_programming_as_the_regularization_shrinks():
    with jax.enable_x64(True):
        for seed in range(3):
            x, y = samples(6, 2, seed=seed), samples(5, 2, seed=seed + 10) + 1
            exact = optimum(slow_distances(x, y))
            excess = [
                float(transport.transport_cost(x, y, rounds=5000, regularization=regularization)) - exact
                for regularization in (1.0, 0.3, 0.1, 0.03, 0.01)
            ]
            assert all(value > -1e-6 for value in excess)
            assert excess == sorted(excess, reverse=True)
            assert excess[0] > 0.05 and excess[-1] < 2e-3


def test_where_the_plain_iteration_fails_this_one_does_not():
    # exp(-2000) is zero even in float64. A row without any mass is divided by, and the plan is NaN.
    cost = np.array([[2000.0, 2001.0], [2003.0, 2000.0]])
    with np.errstate(all="ignore"):
        assert np.isnan(slow_sinkhorn(cost)).any()
    plan, gradient = jax.value_and_grad(lambda c: (transport.sinkhorn(c) * c).sum())(jnp.asarray(cost, jnp.float32))
    assert np.isfinite(plan) and np.isfinite(gradient).all()
    np.testing.assert_allclose(transport.sinkhorn(jnp.asarray(cost)), slow_sinkhorn(cost - 2000), rtol=1e-3)


@pytest.mark.slow
def test_the_divergence_of_equal_sets_is_zero_and_of_shifted_ones_grows():
    x = jnp.asarray(samples(8, 3), jnp.float32)
    found = [float(transport.transport_divergence(x, x + shift)) for shift in (0, 0.5, 1, 2)]
    assert found[0] == 0 and found == sorted(found)
    x, y = samples(5, 2, seed=1), samples(4, 2, seed=2)

    def slow_cost(x, y):
        cost = slow_distances(x, y)
        return (slow_sinkhorn(cost) * cost).sum()

    expected = 2 * slow_cost(x, y) - slow_cost(x, x) - slow_cost(y, y)
    found = transport.transport_divergence(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_the_gradient_goes_through_the_plan():
    x, y = samples(4, 2, seed=1), samples(3, 2, seed=2)
    with jax.enable_x64(True):
        x, y = jnp.asarray(x), jnp.asarray(y)
        check_grads(lambda x: transport.transport_divergence(x, y), (x,), order=1, modes=["rev"])
        cost = transport.pairwise_distances(x, y)
        without = jax.grad(lambda x: (transport.sinkhorn(cost) * transport.pairwise_distances(x, y)).sum())(x)
        assert not np.allclose(without, jax.grad(lambda x: transport.transport_cost(x, y))(x), rtol=1e-2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: transport.pairwise_distances(jnp.ones((2, 3)), jnp.ones((2, 4))), r"must be \[n, D\] and \[m, D\]"),
        (lambda: transport.pairwise_distances(jnp.ones((2, 3), int), jnp.ones((2, 3), int)), "floating point"),
        (lambda: transport.sinkhorn(jnp.ones(3)), r"must be floating point \[n, m\], not empty"),
        (lambda: transport.sinkhorn(jnp.ones((0, 3))), "not empty"),
        (lambda: transport.sinkhorn(jnp.ones((2, 3)), rounds=0), "rounds is 0"),
        (
            lambda: transport.sinkhorn(jnp.ones((2, 3)), regularization=0.0),
            r"regularization is 0\.0; it must be a positive number",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
