"""The learning-rate schedule of a training run, as a function of the optimizer step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seanet_jax.errors import positive_integers
from seanet_jax.training.config import TrainConfig

# The one-cycle schedule rises in this fraction of the steps. It starts at the peak divided by the second number, and
# ends at its start divided by the third. The values are the defaults of PyTorch and optax.
_RISE, _START_DIVISOR, _END_DIVISOR = 0.3, 25.0, 1e4


def learning_rate_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning-rate schedule, a function of the number of optimizer steps done.

    The schedule's value at ``t`` is the rate of the update that follows ``t`` updates. A run of ``T`` updates (all
    epochs, even if ``max_steps`` ends it earlier) uses the values at 0 to ``T - 1``. With ``p`` the ``learning_rate``:

    - ``steps``: ``p * decay_factor ** n``, where ``n`` is the number of decays so far: ``epoch // decay_every``, or the
      number of epochs in ``decay_at`` that are not after the current one. Epochs count from 0, with or without a
      warm-up. If the config has neither, ``n`` is 0.
    - ``cosine``: after a warm-up of ``W`` steps, ``p / 2 * (1 + cos(pi * (t - W) / (T - W)))``. It is ``p`` at ``W``
      and 0 at ``T``, after the last update, so that no update is made at rate 0. PyTorch's ``CosineAnnealingLR`` with
      ``T_max=T - W`` gives the same values. See Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts.
    - ``one_cycle``: rises along half a cosine from ``p / 25`` at 0 to ``p`` at ``int(0.3 * T)``, and falls along
      another to ``p / 250000`` at ``T``, as in ``optax.cosine_onecycle_schedule(T, p)``. See Smith and Topin,
      "Super-Convergence", 2017. PyTorch's ``OneCycleLR(total_steps=T)`` reaches both an update earlier.
    - ``constant``: ``p``.

    The warm-up multiplies the first ``W = round(warmup_epochs * steps_per_epoch)`` values by ``(t + 1) / (W + 1)``, a
    line from 0 before the first update to 1 at ``W``. No update is made at rate 0 here either. PyTorch's ``LinearLR``
    with ``start_factor=1 / (W + 1)`` and ``total_iters=W`` gives the same factors. ``one_cycle`` has its own rise.

    Args:
        config: The run's configuration.
        steps_per_epoch: Number of optimizer steps in one epoch.

    Returns:
        A function from an int32 scalar to a float32 scalar.

    Raises:
        InputError: If ``steps_per_epoch`` is not a positive integer.
    """
    (steps_per_epoch,) = positive_integers("learning_rate_schedule", steps_per_epoch=steps_per_epoch)
    peak, total = config.learning_rate, config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if config.schedule == "one_cycle":
        return _one_cycle(peak, total)
    if config.schedule == "cosine":
        schedule = _cosine(peak, warmup, total)
    elif config.schedule == "constant":
        schedule = _constant(peak)
    else:
        schedule = _steps(config, steps_per_epoch)
    return _warmed_up(schedule, warmup) if warmup else schedule


def _steps(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    # Computed in integers: optax.exponential_decay divides in float32, and once compiled it decays a step late for some
    # lengths of an epoch.
    period = (config.decay_every or 0) * steps_per_epoch
    ends = np.asarray(config.decay_at, np.int32) * np.int32(steps_per_epoch)

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        decays = step // period if period else (step >= ends).sum(dtype=jnp.int32)
        # Not by the operator **, which jax_numpy_dtype_promotion="strict" forbids of a float and an integer.
        return config.learning_rate * jax.lax.pow(jnp.float32(config.decay_factor), decays)

    return rate


def _constant(peak: float) -> optax.Schedule:
    return lambda step: jnp.float32(peak)


def _cosine(peak: float, start: int, end: int) -> optax.Schedule:
    return lambda step: jnp.float32(peak) * _half_cosine(end - jnp.asarray(step), end - start)


def _one_cycle(peak: float, end: int) -> optax.Schedule:
    # optax.cosine_onecycle_schedule itself computes in float64 where jax_enable_x64 is set.
    rise = int(_RISE * end)
    first, last = peak / _START_DIVISOR, peak / _START_DIVISOR / _END_DIVISOR

    def between(low: float, weight: jax.Array) -> jax.Array:
        return jnp.float32(low) * (1 - weight) + jnp.float32(peak) * weight

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        rising, falling = _half_cosine(step, rise), _half_cosine(end - step, end - rise)
        return jnp.where(step < rise, between(first, rising), between(last, falling))

    return rate


def _half_cosine(count: jax.Array, length: int) -> jax.Array:
    """Rises along half a cosine, from exactly 0 where the count is at most 0 to exactly 1 where it is the length."""
    # The square of a sine. Where 1 + cos(x) is almost 0, float32 rounds it to one of few values: the last dozen rates
    # of 150,000 would be 0, as they are in optax.cosine_decay_schedule.
    length = max(length, 1)  # it is 0 if the warm-up takes all steps
    fraction = jnp.clip(count, 0, length).astype(jnp.float32) / jnp.float32(length)
    return jnp.square(jnp.sin(jnp.float32(math.pi / 2) * fraction))


def _warmed_up(schedule: optax.Schedule, warmup: int) -> optax.Schedule:
    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step, full = jnp.asarray(step), schedule(step)
        # Chosen, not clipped at 1: once compiled, a number divided by itself may be just below 1.
        return jnp.where(step < warmup, full * ((step + 1).astype(jnp.float32) / jnp.float32(warmup + 1)), full)

    return rate
