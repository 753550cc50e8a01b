import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seanet_jax.training.config import TrainConfig, published_recipe
from seanet_jax.training.optimizer import learning_rate_schedule, optimizer

PUBLISHED_STEPS = 50_000 // 64


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.1), (1, 0.1), (79, 0.1), (80, 0.01), (159, 0.01), (160, 0.001), (199, 0.001)]
)
def test_published_schedule_over_all_of_an_epoch(epoch, rate):
    schedule = jax.jit(learning_rate_schedule(TrainConfig(), PUBLISHED_STEPS))
    for step in (0, 1, PUBLISHED_STEPS // 2, PUBLISHED_STEPS - 1):
        np.testing.assert_allclose(schedule(jnp.int32(epoch * PUBLISHED_STEPS + step)), rate, rtol=1e-5)


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 10, 49, 97, 195, 390, 781, 1562])
def test_the_rate_decays_at_the_epochs_first_step(steps_per_epoch):
    # Jitted, as in training: a compiled division by a constant may round below the whole number.
    schedule = jax.jit(learning_rate_schedule(TrainConfig(), steps_per_epoch))
    for decays in (1, 2, 3):
        first = decays * 80 * steps_per_epoch
        rates = [float(schedule(jnp.int32(step))) for step in (first - 1, first)]
        np.testing.assert_allclose(rates, [0.1**decays, 0.1 ** (decays + 1)], rtol=1e-4)


def test_schedule_follows_the_config():
    config = TrainConfig(learning_rate=0.4, decay_every=2, decay_factor=0.5)
    schedule = jax.jit(learning_rate_schedule(config, 3))
    rates = [float(schedule(jnp.int32(step))) for step in (0, 5, 6, 11, 12)]
    np.testing.assert_allclose(rates, [0.4, 0.4, 0.2, 0.2, 0.1], rtol=1e-6)


@pytest.mark.parametrize("fields", [{"decay_factor": 1}, {"decay_every": None}])
def test_a_rate_may_stay(fields):
    schedule = learning_rate_schedule(TrainConfig(**fields), 2)
    np.testing.assert_allclose(schedule(jnp.int32(1000)), 0.1, rtol=1e-6)


def pytorch_sgd(parameters, gradients, config, steps_per_epoch):
    """The parameters after each step of torch.optim.SGD, in float64."""
    p = {name: value.astype(np.float64) for name, value in parameters.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    history = []
    for step, g in enumerate(gradients):
        rate = config.learning_rate * config.decay_factor ** (step // steps_per_epoch // config.decay_every)
        for name in p:
            v[name] = config.momentum * v[name] + g[name] + config.weight_decay * p[name]
            p[name] = p[name] - rate * v[name]
        history.append(dict(p))
    return history


def assert_follows(transformation, parameters, gradients, expected):
    p = jax.tree.map(jnp.asarray, parameters)
    state = transformation.init(p)
    update = jax.jit(transformation.update)
    for g, right in zip(gradients, expected, strict=True):
        updates, state = update(g, state, p)
        p = optax.apply_updates(p, updates)
        for name in p:
            np.testing.assert_allclose(p[name], right[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_optimizer_equals_pytorch_sgd_across_a_decay(momentum):
    config = TrainConfig(decay_every=2, weight_decay=0.05, momentum=momentum)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 2, 4), "bias": (4,), "scale": (4,)}
    p = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gradients = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(9)]
    expected = pytorch_sgd(p, gradients, config, steps_per_epoch=2)  # decays before steps 4 and 8

    assert_follows(optimizer(config, steps_per_epoch=2), p, gradients, expected)


def test_weight_decay_reaches_every_parameter_biases_and_normalization_included():
    config = TrainConfig(learning_rate=0.5, weight_decay=0.1)
    transformation = optimizer(config, steps_per_epoch=10)
    p = {"conv": {"kernel": jnp.ones((3, 3, 1, 1))}, "bn": {"scale": jnp.ones(2), "bias": jnp.full(2, -2.0)}}
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, p), transformation.init(p), p)
    jax.tree.map(lambda u, p: np.testing.assert_allclose(u, -0.5 * 0.1 * p, rtol=1e-6), updates, p)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 1e-4), (199, 1e-4), (200, 1e-5), (299, 1e-5), (300, 1e-6), (399, 1e-6), (400, 1e-7), (599, 1e-7)],
)
def test_encapnets_schedule_over_all_of_an_epoch(epoch, rate):
    config, steps = TrainConfig(**published_recipe("encapnet")), 50_000 // 256
    schedule = jax.jit(learning_rate_schedule(config, steps))
    for step in (0, steps - 1):
        np.testing.assert_allclose(schedule(jnp.int32(epoch * steps + step)), rate, rtol=1e-5)


def pytorch_adam(parameters, gradients, config):
    """The parameters after each step of torch.optim.Adam with weight_decay, in float64."""
    p = {name: value.astype(np.float64) for name, value in parameters.items()}
    m = {name: np.zeros_like(value) for name, value in p.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    history = []
    for step, g in enumerate(gradients, start=1):
        for name in p:
            decayed = g[name] + config.weight_decay * p[name]
            m[name] = config.momentum * m[name] + (1 - config.momentum) * decayed
            v[name] = 0.999 * v[name] + 0.001 * decayed**2
            mean, square = m[name] / (1 - config.momentum**step), v[name] / (1 - 0.999**step)
            p[name] = p[name] - config.learning_rate * mean / (np.sqrt(square) + 1e-8)
        history.append(dict(p))
    return history


def test_adam_is_pytorchs():
    config = TrainConfig(optimizer="adam", learning_rate=0.01, weight_decay=0.05, momentum=0.8)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 2, 4), "bias": (4,)}
    p = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gradients = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(6)]
    expected = pytorch_adam(p, gradients, config)
    assert_follows(optimizer(config, steps_per_epoch=100), p, gradients, expected)


@pytest.mark.parametrize(
    ("set_to", "value"),
    [
        (jax.enable_x64, True),
        (jax.numpy_dtype_promotion, "strict"),
        (jax.numpy_rank_promotion, "raise"),
        (jax.transfer_guard, "disallow"),
    ],
    ids=["x64", "strict dtype promotion", "no rank promotion", "transfer guard"],
)
@pytest.mark.parametrize("fields", [{"decay_every": 2}, {"decay_every": None, "decay_at": (1, 3)}])
def test_settings_of_jax_change_no_rate(set_to, value, fields):
    config, steps = TrainConfig(**fields), [jnp.int32(step) for step in range(0, 20, 3)]
    schedule = jax.jit(learning_rate_schedule(config, 4))
    expected = [schedule(step) for step in steps]
    with set_to(value):
        schedule = jax.jit(learning_rate_schedule(config, 4))
        found = [schedule(step) for step in steps]
    assert {rate.dtype for rate in found} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(found, expected)
