"""The optimizer and the learning-rate schedule of a training run, in optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seanet_jax.errors import positive_integers
from seanet_jax.training.config import TrainConfig


def learning_rate_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning-rate schedule: ``learning_rate * decay_factor ** n`` as a function of the optimizer step.

    ``n`` is the number of decays so far: ``epoch // decay_every``, or the number of epochs in ``decay_at`` that are not
    after the current one. Epochs count from 0. If the config has neither, ``n`` is 0.

    Args:
        config: The run's configuration.
        steps_per_epoch: Number of optimizer steps in one epoch.

    Raises:
        InputError: If ``steps_per_epoch`` is not a positive integer.
    """
    (steps_per_epoch,) = positive_integers("learning_rate_schedule", steps_per_epoch=steps_per_epoch)
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


def optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """Returns the optimizer, SGD or Adam, computed as in PyTorch.

    Weight decay is added to the gradient first. Momentum (or Adam's averages) and the learning rate come after it.

    Args:
        config: The run's configuration.
        steps_per_epoch: Number of optimizer steps in one epoch.

    Raises:
        InputError: If ``steps_per_epoch`` is not a positive integer.
    """
    rate = learning_rate_schedule(config, steps_per_epoch)
    if config.optimizer == "adam":
        descent = optax.adam(rate, b1=config.momentum)
    else:
        descent = optax.sgd(rate, momentum=config.momentum)
    return optax.chain(optax.add_decayed_weights(config.weight_decay), descent)
