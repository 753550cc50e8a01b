"""The meaning of a network's scores: the loss that they are trained by, and the probabilities that they stand for.

Whatever the meaning, the class with the largest score is the prediction.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from seanet_jax.errors import InputError

# The least length of a label's capsule, the greatest length of every other, and the weight of the latter's loss, which
# keeps training from shrinking all capsules at the start (Sabour et al., NeurIPS 2017, section 3).
_PRESENT, _ABSENT, _ABSENT_WEIGHT = 0.9, 0.1, 0.5


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the softmax cross entropy of every image, in nats.

    Args:
        logits: Logits ``[N, classes]``, floating point.
        labels: Labels ``[N]``, integers from 0. The loss of a label that is not a class is NaN.

    Returns:
        Losses ``[N]``.

    Raises:
        InputError: If a shape or a dtype is another.
    """
    _check("cross_entropy", "logits", logits, labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes the softmax cross entropy of every image whose label is a distribution over the classes, in nats.

    Args:
        logits: Logits ``[N, classes]``, floating point.
        targets: Shares of the classes, ``[N, classes]``, floating point. They need not sum to 1, so that they may be
            multiplied by weights of the classes.

    Returns:
        Losses ``[N]``, each ``-sum(target * log_softmax(logit))``.

    Raises:
        InputError: If a shape or a dtype is another.
    """
    _check_scores("soft_cross_entropy", "logits", logits)
    if targets.shape != logits.shape or not jnp.issubdtype(targets.dtype, jnp.floating):
        raise InputError(
            f"soft_cross_entropy: targets are {targets.dtype} {targets.shape}; they must be floating {logits.shape}"
        )
    return optax.softmax_cross_entropy(logits, targets)


def margin_loss(lengths: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the margin loss of every image, a sum over all classes (Sabour et al., NeurIPS 2017, eq. 4).

    A capsule of length v contributes ``t max(0, 0.9 - v)^2 + 0.5 (1 - t) max(0, v - 0.1)^2``, with t = 1 for the label
    and t = 0 for every other class.

    Args:
        lengths: Lengths of the classes' capsules, ``[N, classes]``, floating point.
        labels: Labels ``[N]``, integers from 0. The loss of a label that is not a class is NaN.

    Returns:
        Losses ``[N]``.

    Raises:
        InputError: If a shape or a dtype is another.
    """
    _check("margin_loss", "lengths", lengths, labels)
    classes = lengths.shape[1]
    is_label = labels[:, None] == jnp.arange(classes, dtype=labels.dtype)[None]
    missing = jnp.square(jax.nn.relu(_PRESENT - lengths))
    excess = _ABSENT_WEIGHT * jnp.square(jax.nn.relu(lengths - _ABSENT))
    losses = jnp.where(is_label, missing, excess).sum(1)
    return jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)


def _check(where: str, name: str, scores: jax.Array, labels: jax.Array) -> None:
    _check_scores(where, name, scores)
    if labels.shape != scores.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"{where}: labels are {labels.dtype} {labels.shape}; they must be integers {scores.shape[:1]}")


def _check_scores(where: str, name: str, scores: jax.Array) -> None:
    if scores.ndim != 2 or not scores.shape[1] or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise InputError(f"{where}: {name} are {scores.dtype} {scores.shape}; they must be floating [N, classes]")


@dataclasses.dataclass(frozen=True)
class Scores:
    """A kind of scores ``[N, classes]``.

    Attributes:
        name: Name of the scores, in the plural.
        loss_label: Label of an axis along which the loss is drawn.
        loss_unit: Unit that is printed after a loss.
        distribution: Whether an image's probabilities sum to 1.
        loss: Function that maps scores and labels to the loss of every image.
        probabilities: Function that maps scores to the probabilities of the classes.
        soft_loss: Function that maps scores and distributions over the classes, ``[N, classes]``, to the loss of every
            image. It is None if the loss has no meaning for images of several classes.
    """

    name: str
    loss_label: str
    loss_unit: str
    distribution: bool
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    probabilities: Callable[[jax.Array], jax.Array]
    soft_loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None


LOGITS = Scores("logits", "cross entropy (nats)", "nats", True, cross_entropy, jax.nn.softmax, soft_cross_entropy)

# "The length of the output vector of a capsule [is] to represent the probability that the entity [...] is present"
# (Sabour et al., section 2). Each class has a probability of its own, so they need not sum to 1. A softmax of lengths,
# which lie between 0 and 1, would give all classes almost the same probability.
LENGTHS = Scores("capsule lengths", "margin loss", "margin loss", False, margin_loss, lambda lengths: lengths)
