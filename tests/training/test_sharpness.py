import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seanet_jax.training.sharpness import sharpness_aware_gradient

RANDOM = np.random.default_rng(0)
PARAMS = {"kernel": RANDOM.normal(size=(3, 2)).astype(np.float32), "bias": RANDOM.normal(size=2).astype(np.float32)}
X = RANDOM.normal(size=(5, 3)).astype(np.float32)


def loss(params):
    outputs = jnp.tanh(X @ params["kernel"] + params["bias"])
    return jnp.square(outputs).mean(), {"mean": outputs.mean(0)}


gradient_fn = jax.value_and_grad(loss, has_aux=True)


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_the_gradient_is_that_of_two_explicit_passes(rho):
    (expected_loss, expected_aux), first = gradient_fn(PARAMS)
    norm = np.sqrt(sum(np.square(np.float64(g)).sum() for g in jax.tree.leaves(first)))
    moved = {name: PARAMS[name] + rho * np.asarray(first[name]) / norm for name in PARAMS}
    distance = np.sqrt(sum(np.square(moved[name] - PARAMS[name]).sum() for name in PARAMS))
    np.testing.assert_allclose(distance, rho, rtol=1e-5)
    (second_loss, _), expected = gradient_fn(moved)

    (found_loss, aux), found = jax.jit(lambda params: sharpness_aware_gradient(gradient_fn, params, rho))(PARAMS)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7), found, expected)
    # Loss and batch statistics are those of the first pass. The second is uphill.
    np.testing.assert_allclose(found_loss, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(aux["mean"], expected_aux["mean"], rtol=1e-6)
    assert second_loss > found_loss
    assert max(abs(found[name] - first[name]).max() for name in PARAMS) > 1e-3


def test_the_gradient_of_a_quadratic_function_is_known():
    # The gradient of (x / 2)**2 + (2 * y)**2 at (2, 0) is (1, 0): the function's slope at (2 + rho, 0).
    def function(p):
        return (p[0] / 2) ** 2 + (2 * p[1]) ** 2, None

    _, found = sharpness_aware_gradient(jax.value_and_grad(function, has_aux=True), jnp.float32([2, 0]), 0.5)
    np.testing.assert_allclose(found, [1.25, 0], rtol=1e-6)


def test_a_gradient_of_zero_stays_zero():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    (found_loss, _), found = sharpness_aware_gradient(gradient_fn, zero, 0.05)
    assert found_loss == 0 and all(not leaf.any() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("set_to", "value"),
    [(jax.enable_x64, True), (jax.numpy_dtype_promotion, "strict"), (jax.debug_nans, True)],
    ids=["x64", "strict dtype promotion", "debug NaN"],
)
def test_settings_of_jax_change_no_gradient(set_to, value):
    _, expected = sharpness_aware_gradient(gradient_fn, PARAMS, 0.05)
    with set_to(value):
        _, found = sharpness_aware_gradient(gradient_fn, PARAMS, 0.05)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
