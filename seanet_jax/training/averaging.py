"""The exponential moving average of a network's parameters and batch statistics."""

from typing import TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


def averaged(average: Tree, new: Tree, decay: float, step: jax.typing.ArrayLike) -> Tree:
    """Returns an exponential moving average with new values added: ``d * average + (1 - d) * new``.

    ``d`` is ``min(decay, (1 + step) / (10 + step))``, as in ``tf.train.ExponentialMovingAverage`` with ``num_updates``.
    A constant ``d`` of 0.999 would leave 37 % of the initial, random parameters in the average after 1000 steps. The
    smaller ``d`` of the first steps leaves none.

    Args:
        average: The average so far: nested dicts of floating-point arrays.
        new: The values to add, of the same structure.
        decay: Largest weight of the old average, at least 0 and below 1.
        step: Number of values that were added before, an integer scalar.
    """
    step = jnp.asarray(step).astype(jnp.float32)
    # The weight of the new values, 1 - d. Computed thus, it is exact even if the decay is almost 1.
    weight = jnp.maximum(jnp.float32(1 - decay), 9 / (10 + step))
    return jax.tree.map(lambda old, value: old + weight.astype(old.dtype) * (value - old), average, new)
