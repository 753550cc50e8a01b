"""Optimiser, learning-rate schedule and loss of a config, in optax."""

import jax
import jax.numpy as jnp
import optax

from seanet_jax.config import TrainConfig
from seanet_jax.errors import InputError, demand_positive_integers


def learning_rate_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """``learning_rate * decay_factor ** (epoch // decay_every)`` as a function of the optimiser step.

    Args:
        config: of the run.
        steps_per_epoch: optimiser steps in one epoch.

    Raises:
        InputError: ``steps_per_epoch`` is not a positive integer.
    """
    demand_positive_integers("learning_rate_schedule", steps_per_epoch=steps_per_epoch)
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
        logits: ``[N, classes]``, floating point.
        labels: ``[N]``, integers from 0; the loss of one that is no class is NaN.

    Returns:
        ``[N]``.

    Raises:
        InputError: shapes or dtypes are others.
    """
    if logits.ndim != 2 or not logits.shape[1] or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise InputError(f"cross_entropy: logits are {logits.dtype} {logits.shape}; they must be floating [N, classes]")
    if labels.shape != logits.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"cross_entropy: labels are {labels.dtype} {labels.shape}; they must be integers {logits.shape[:1]}"
        )
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
