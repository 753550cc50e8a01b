import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seanet_jax.training.config import TrainConfig, published_recipe
from seanet_jax.training.schedule import learning_rate_schedule

PUBLISHED_STEPS = 50_000 // 64


def rates(fields, steps_per_epoch, steps):
    """The rates at these steps. Jitted, as in training: a compiled division by a constant may round otherwise."""
    schedule = jax.jit(learning_rate_schedule(TrainConfig(**fields), steps_per_epoch))
    return np.array([schedule(jnp.int32(step)) for step in steps])


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
        found = [float(schedule(jnp.int32(step))) for step in (first - 1, first)]
        np.testing.assert_allclose(found, [0.1**decays, 0.1 ** (decays + 1)], rtol=1e-4)


def test_schedule_follows_the_config():
    config = TrainConfig(learning_rate=0.4, decay_every=2, decay_factor=0.5)
    schedule = jax.jit(learning_rate_schedule(config, 3))
    found = [float(schedule(jnp.int32(step))) for step in (0, 5, 6, 11, 12)]
    np.testing.assert_allclose(found, [0.4, 0.4, 0.2, 0.2, 0.1], rtol=1e-6)


@pytest.mark.parametrize("fields", [{"decay_factor": 1}, {"decay_every": None}, {"schedule": "constant"}])
def test_a_rate_may_stay(fields):
    schedule = learning_rate_schedule(TrainConfig(**fields), 2)
    np.testing.assert_allclose(schedule(jnp.int32(1000)), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 1e-4), (199, 1e-4), (200, 1e-5), (299, 1e-5), (300, 1e-6), (399, 1e-6), (400, 1e-7), (599, 1e-7)],
)
def test_encapnets_schedule_over_all_of_an_epoch(epoch, rate):
    config, steps = TrainConfig(**published_recipe("encapnet")), 50_000 // 256
    schedule = jax.jit(learning_rate_schedule(config, steps))
    for step in (0, steps - 1):
        np.testing.assert_allclose(schedule(jnp.int32(epoch * steps + step)), rate, rtol=1e-5)


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
@pytest.mark.parametrize(
    "fields",
    [
        {"decay_every": 2},
        {"decay_every": None, "decay_at": (1, 3)},
        {"schedule": "cosine", "warmup_epochs": 1.2},
        {"schedule": "one_cycle"},
        {"schedule": "constant", "warmup_epochs": 1},
    ],
    ids=str,
)
def test_settings_of_jax_change_no_rate(set_to, value, fields):
    config, steps = TrainConfig(**fields, epochs=5), [jnp.int32(step) for step in range(0, 21, 3)]
    schedule = jax.jit(learning_rate_schedule(config, 4))
    expected = [schedule(step) for step in steps]
    with set_to(value):
        schedule = jax.jit(learning_rate_schedule(config, 4))
        found = [schedule(step) for step in steps]
    assert {rate.dtype for rate in found} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(found, expected)


LENGTHS = [(1, 1), (1, 2), (2, 3), (3, 7), (10, 15), (200, PUBLISHED_STEPS)]


@pytest.mark.parametrize(("epochs", "steps"), LENGTHS)
@pytest.mark.parametrize("warmup_epochs", [0, 0.5, 1])
def test_a_cosine_is_exact_at_both_ends_and_updates_at_no_rate_of_0(epochs, steps, warmup_epochs):
    fields = {"schedule": "cosine", "learning_rate": 0.3, "epochs": epochs, "warmup_epochs": warmup_epochs}
    end, warmup = epochs * steps, round(warmup_epochs * steps)
    first, peak, last, after, beyond = rates(fields, steps, [0, warmup, end - 1, end, end + 100])
    assert first > 0 and first == pytest.approx(0.3 / (warmup + 1), rel=1e-6)
    assert peak == np.float32(0.3) or warmup == end  # then no update is left after the warm-up
    assert last > 0 == after == beyond


@pytest.mark.parametrize(("epochs", "steps"), LENGTHS)
def test_one_cycle_is_exact_at_both_ends_and_at_its_peak(epochs, steps):
    end = epochs * steps
    found = rates({"schedule": "one_cycle", "epochs": epochs}, steps, [0, int(0.3 * end), end, end + 100])
    start = 0.1 if end < 4 else 0.1 / 25  # so short a run has no step to rise in
    np.testing.assert_array_equal(found, np.float32([start, 0.1, 0.1 / 25e4, 0.1 / 25e4]))


@pytest.mark.parametrize("schedule", ["steps", "constant"])
def test_a_warm_up_is_a_line_to_the_rate_that_is_exact_ever_after(schedule):
    fields = {"schedule": schedule, "learning_rate": 0.7}
    steps = range(1000)
    plain, warmed = (rates({**fields, "warmup_epochs": epochs}, 97, steps) for epochs in (0, 2.5))
    warmup = 242  # round(2.5 * 97)
    np.testing.assert_array_equal(warmed[warmup:], plain[warmup:])
    np.testing.assert_allclose(warmed[:warmup], 0.7 * np.arange(1, warmup + 1) / (warmup + 1), rtol=1e-6)


def test_decays_count_from_the_first_step_with_a_warm_up_too():
    fields = {"decay_every": 2, "epochs": 6, "decay_factor": 0.5}
    plain, warmed = (rates({**fields, "warmup_epochs": epochs}, 3, range(18)) for epochs in (0, 3))
    np.testing.assert_allclose(warmed, plain * np.minimum(np.arange(1, 19) / 10, 1), rtol=1e-6)


def test_a_cosine_has_no_step_in_its_last_rates():
    # In float32, 1 + cos(x) is a multiple of 6e-8.
    last = rates({"schedule": "cosine"}, PUBLISHED_STEPS, range(200 * PUBLISHED_STEPS - 30, 200 * PUBLISHED_STEPS))
    left = np.arange(30, 0, -1) / (200 * PUBLISHED_STEPS)
    np.testing.assert_allclose(last, 0.1 * np.sin(np.pi / 2 * left) ** 2, rtol=1e-5)


def test_one_cycle_is_optaxs():
    steps = range(61)
    theirs = optax.cosine_onecycle_schedule(60, 0.2)
    found = rates({"schedule": "one_cycle", "learning_rate": 0.2, "epochs": 6}, 10, steps)
    np.testing.assert_allclose(found, [theirs(step) for step in steps], rtol=1e-5, atol=1e-7)


# 12 epochs of 7 steps.
PYTORCH = {
    "steps": (
        {"schedule": "steps", "decay_every": 5},
        lambda module, descent: module.StepLR(descent, 5 * 7, 0.1),
    ),
    "steps at": (
        {"schedule": "steps", "decay_every": None, "decay_at": (3, 8)},
        lambda module, descent: module.MultiStepLR(descent, [3 * 7, 8 * 7], 0.1),
    ),
    "cosine": (
        {"schedule": "cosine"},
        lambda module, descent: module.CosineAnnealingLR(descent, 12 * 7),
    ),
    "cosine after a warm-up": (
        {"schedule": "cosine", "warmup_epochs": 1.5},
        lambda module, descent: module.SequentialLR(
            descent,
            [module.LinearLR(descent, 1 / 11, total_iters=10), module.CosineAnnealingLR(descent, 12 * 7 - 10)],
            [10],
        ),
    ),
    # PyTorch takes the last of its steps for the end, and counts the rise from 1.
    "one_cycle": (
        {"schedule": "one_cycle"},
        lambda module, descent: module.OneCycleLR(descent, 0.1, total_steps=85, pct_start=26 / 85),
    ),
    "constant": (
        {"schedule": "constant", "warmup_epochs": 1.5},
        lambda module, descent: module.LinearLR(descent, 1 / 11, total_iters=10),
    ),
}


@pytest.mark.parametrize("name", PYTORCH)
def test_schedules_are_pytorchs(torch, name):
    fields, make = PYTORCH[name]
    descent = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    schedule = make(torch.optim.lr_scheduler, descent)
    expected = []
    for _ in range(12 * 7 + 1):
        expected.append(descent.param_groups[0]["lr"])
        descent.step()
        if len(expected) <= 12 * 7:
            schedule.step()
    np.testing.assert_allclose(rates({**fields, "epochs": 12}, 7, range(12 * 7 + 1)), expected, rtol=1e-5, atol=1e-9)
