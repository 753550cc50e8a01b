"""Optimiser, learning-rate schedule and loss of a config, in optax."""

import jax
import jax.numpy as jnp
import optax

from seanet_jax.config import TrainConfig


def learning_rate_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """``learning_rate * decay_factor ** (epoch // decay_every)`` as a function of the optimiser step.

    Args:
        config: of the run.
        steps_per_epoch: optimiser steps in one epoch.
    """
    # In integers: optax.exponential_decay divides in float32, which once compiled is a step late for some lengths.
    period = config.decay_every * steps_per_epoch
    return lambda step: config.learning_rate * config.decay_factor ** (jnp.asarray(step) // period)


def optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD as PyTorch computes it: weight decay joins the gradient, then momentum, then the learning rate.

    Args:
        config: of the run.
        steps_per_epoch: optimiser steps in one epoch.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(learning_rate_schedule(config, steps_per_epoch), momentum=config.momentum),
    )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross entropy of every image, in nats.

    Args:
        logits: ``[N, classes]``.
        labels: ``[N]``, integers.

    Returns:
        ``[N]``.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
