import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seanet_jax.training.averaging import averaged


def run(values, decay, average=averaged):
    """The averages of a list of numbers after each of them, from an initial average of 1000."""
    tree, found = {"params": {"w": jnp.float32([1000])}, "batch_stats": {"mean": jnp.float32([1000])}}, []
    for step, value in enumerate(values):
        new = {"params": {"w": jnp.float32([value])}, "batch_stats": {"mean": jnp.float32([-value])}}
        tree = average(tree, new, decay, jnp.int32(step))
        found.append((tree["params"]["w"].item(), tree["batch_stats"]["mean"].item()))
    return np.array(found)


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_an_average_is_the_closed_form(decay):
    values = np.random.default_rng(0).normal(size=60)
    decays = np.minimum(decay, (1 + np.arange(60)) / (10 + np.arange(60)))
    # Each value has the weight with which it was added, times all later decays.
    for count in (1, 2, 17, 60):
        later = np.array([np.prod(decays[k + 1 : count]) for k in range(count)])
        weights = (1 - decays[:count]) * later
        initial = 1000 * np.prod(decays[:count])
        expected = (initial + weights @ values[:count], initial - weights @ values[:count])
        np.testing.assert_allclose(run(values, decay)[count - 1], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(weights.sum() + np.prod(decays[:count]), 1)


def test_the_initial_network_is_forgotten_however_large_the_decay():
    assert abs(run([0.0] * 100, 0.9999)[-1]).max() < 1e-7 * 1000


def test_the_average_of_equal_networks_is_that_network():
    w = jnp.float32(np.random.default_rng(0).normal(size=100))
    found = w
    for step in range(50):
        found = averaged(found, w, 0.9999, step)
    np.testing.assert_array_equal(found, w)


@pytest.mark.parametrize(
    ("set_to", "value"),
    [(jax.enable_x64, True), (jax.numpy_dtype_promotion, "strict"), (jax.numpy_rank_promotion, "raise")],
    ids=["x64", "strict dtype promotion", "no rank promotion"],
)
def test_settings_of_jax_change_no_average(set_to, value):
    values = np.random.default_rng(0).normal(size=20)
    jitted = jax.jit(averaged, static_argnums=2)
    expected = run(values, 0.99, jitted)
    with set_to(value):
        found = run(values, 0.99, jax.jit(averaged, static_argnums=2))
        dtype = averaged(jnp.float32(0), jnp.float32(1), 0.99, jnp.int32(3)).dtype
    np.testing.assert_array_equal(found, expected)
    assert dtype == jnp.float32
