"""What the numbers mean that a network gives for the classes: how they are learned, and how sure they are.

The class with the largest is the answer, whatever they mean.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from seanet_jax.errors import InputError

# Lengths that a capsule should have at least where its class is the label, and at most where it is not; and how much
# the latter counts (Sabour et al., NeurIPS 2017, section 3).
_PRESENT, _ABSENT, _ABSENT_WEIGHT = 0.9, 0.1, 0.5


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
    _demand("cross_entropy", "logits", logits, labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def margin_loss(lengths: jax.Array, labels: jax.Array) -> jax.Array:
    """The margin loss of every image: a sum over all classes.

    ``t max(0, 0.9 - v)^2 + 0.5 (1 - t) max(0, v - 0.1)^2`` for a capsule of length v, with t = 1 for the label and 0
    for every other class (Sabour et al., NeurIPS 2017, eq. 4).

    Args:
        lengths: ``[N, classes]``, floating point.
        labels: ``[N]``, integers from 0; the loss of one that is no class is NaN.

    Returns:
        ``[N]``.

    Raises:
        InputError: shapes or dtypes are others.
    """
    _demand("margin_loss", "lengths", lengths, labels)
    classes = lengths.shape[1]
    is_label = labels[:, None] == jnp.arange(classes)
    missing = jnp.square(jax.nn.relu(_PRESENT - lengths))
    excess = _ABSENT_WEIGHT * jnp.square(jax.nn.relu(lengths - _ABSENT))
    losses = jnp.where(is_label, missing, excess).sum(1)
    return jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)


def _demand(where: str, name: str, scores: jax.Array, labels: jax.Array) -> None:
    if scores.ndim != 2 or not scores.shape[1] or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise InputError(f"{where}: {name} are {scores.dtype} {scores.shape}; they must be floating [N, classes]")
    if labels.shape != scores.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"{where}: labels are {labels.dtype} {labels.shape}; they must be integers {scores.shape[:1]}")


@dataclasses.dataclass(frozen=True)
class Scores:
    """A kind of scores, ``[N, classes]``.

    Attributes:
        name: of all of an image.
        loss_label: of an axis along which the loss is drawn.
        loss_unit: said after a loss.
        distribution: whether an image's probabilities sum to 1.
        loss: of every image, from scores and labels.
        probabilities: of the classes, from scores.
    """

    name: str
    loss_label: str
    loss_unit: str
    distribution: bool
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    probabilities: Callable[[jax.Array], jax.Array]


LOGITS = Scores("logits", "cross entropy (nats)", "nats", True, cross_entropy, jax.nn.softmax)

# "The length of the output vector of a capsule [is] to represent the probability that the entity [...] is present"
# (Sabour et al., section 2): of each class on its own, so they need not sum to one. A softmax of lengths would say
# almost the same of all classes.
LENGTHS = Scores("capsule lengths", "margin loss", "margin loss", False, margin_loss, lambda lengths: lengths)
