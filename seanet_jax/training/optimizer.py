"""Optimiser and learning-rate schedule of a config, in optax."""

import jax
import jax.numpy as jnp
import optax

from seanet_jax.errors import demand_positive_integers
from seanet_jax.training.config import TrainConfig


def learning_rate_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """``learning_rate * decay_factor ** n`` as a function of the optimiser step.

    n is ``epoch // decay_every``, or how many of ``decay_at`` the epoch, from 0, has reached; 0 if there are neither.

    Args:
        config: of the run.
        steps_per_epoch: optimiser steps in one epoch.

    Raises:
        InputError: ``steps_per_epoch`` is not a positive integer.
    """
    demand_positive_integers("learning_rate_schedule", steps_per_epoch=steps_per_epoch)
    # In integers: optax.exponential_decay divides in float32, which once compiled is a step late for some lengths.
    period = (config.decay_every or 0) * steps_per_epoch
    ends = jnp.asarray(config.decay_at, jnp.int32) * steps_per_epoch

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        decays = step // period if period else (step >= ends).sum(dtype=jnp.int32)
        return config.learning_rate * config.decay_factor**decays

    return rate


def optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD or Adam as PyTorch computes them: weight decay joins the gradient, then momentum, then the learning rate.

    Args:
        config: of the run.
        steps_per_epoch: optimiser steps in one epoch.
    """
    rate = learning_rate_schedule(config, steps_per_epoch)
    if config.optimizer == "adam":
        descent = optax.adam(rate, b1=config.momentum)
    else:
        descent = optax.sgd(rate, momentum=config.momentum)
    return optax.chain(optax.add_decayed_weights(config.weight_decay), descent)
