"""Optimal transport between two sets of samples, regularised by entropy: pure functions of arrays.

Each set is a distribution of equal weights. Sinkhorn's iteration (Cuturi, NeurIPS 2013) scales the rows and columns of
``exp(-cost / regularization)`` in turn until they sum to the weights; here in the domain of logarithms, where nothing
overflows and no row underflows to zeros that would be divided by.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from seanet_jax.errors import InputError, demand_positive_integers
from seanet_jax.layers.capsules import euclidean_norm
from seanet_jax.layers.functional import at_least_float32


def pairwise_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """The Euclidean distances between the rows of x and the rows of y; where one is zero, so is its gradient.

    Args:
        x: ``[n, D]``.
        y: ``[m, D]``.

    Returns:
        ``[n, m]``, float32 at least.

    Raises:
        InputError: the shapes do not fit together, or they are not floating point.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError(f"pairwise_distances: x {x.shape} and y {y.shape} must be [n, D] and [m, D]")
    # Not by the squares and the product: their difference cancels just where samples are near.
    return euclidean_norm(x[:, None] - y[None])


def sinkhorn(cost: jax.Array, *, rounds: int = 10, regularization: float = 1.0) -> jax.Array:
    """The plan that moves equal weights to equal weights, after some rounds of Sinkhorn's iteration.

    A round computes ``a = (1 / n) / (K b)`` and then ``b = (1 / m) / (K^T a)``, with ``K = exp(-cost /
    regularization)`` and ``b = 1 / m`` at the beginning; the plan is ``diag(a) K diag(b)``. Its columns sum to 1 / m
    exactly, its rows to 1 / n in the limit.

    Args:
        cost: ``[n, m]``, floating point.
        rounds: of the iteration.
        regularization: weight of the entropy, in the unit of the cost; the smaller, the nearer to the unregularised
          optimum, and the more rounds it takes.

    Returns:
        ``[n, m]``, float32 at least.

    Raises:
        InputError: the cost is no such matrix, or empty; or rounds or regularization are no positive numbers.
    """
    if cost.ndim != 2 or not cost.size or not jnp.issubdtype(cost.dtype, jnp.floating):
        raise InputError(f"sinkhorn: cost is {cost.dtype} {cost.shape}; it must be floating point [n, m], not empty")
    demand_positive_integers("sinkhorn", rounds=rounds)
    if not isinstance(regularization, int | float) or isinstance(regularization, bool) or not regularization > 0:
        raise InputError(f"sinkhorn: regularization is {regularization!r}; it must be a positive number")
    log_kernel = -cost.astype(at_least_float32(cost)) / regularization
    rows, columns = (-jnp.log(jnp.asarray(size, log_kernel.dtype)) for size in cost.shape)

    def one_round(log_b: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        log_a = rows - logsumexp(log_kernel + log_b, axis=1)
        return columns - logsumexp(log_kernel + log_a[:, None], axis=0), log_a

    log_b, log_as = jax.lax.scan(one_round, jnp.full(cost.shape[1], columns), length=rounds)
    return jnp.exp(log_as[-1][:, None] + log_kernel + log_b)


def transport_cost(x: jax.Array, y: jax.Array, *, rounds: int = 10, regularization: float = 1.0) -> jax.Array:
    """What it costs to move the samples x to the samples y by the plan of ``sinkhorn``, over Euclidean distances.

    The gradient goes through the plan as well as through the distances.

    Args:
        x: ``[n, D]``.
        y: ``[m, D]``.
        rounds: see ``sinkhorn``.
        regularization: likewise.

    Returns:
        A scalar: the sum of plan times distance.

    Raises:
        InputError: as ``pairwise_distances`` and ``sinkhorn``.
    """
    cost = pairwise_distances(x, y)
    return (sinkhorn(cost, rounds=rounds, regularization=regularization) * cost).sum()


def transport_divergence(x: jax.Array, y: jax.Array, *, rounds: int = 10, regularization: float = 1.0) -> jax.Array:
    """``2 W(x, y) - W(x, x) - W(y, y)`` with W = ``transport_cost``: zero where the samples are the same.

    Sinkhorn's divergence (Genevay et al., AISTATS 2018): EncapNet's agreement (Li et al., arXiv:1808.03749).

    Args:
        x: ``[n, D]``.
        y: ``[m, D]``.
        rounds: see ``sinkhorn``.
        regularization: likewise.

    Returns:
        A scalar.

    Raises:
        InputError: as ``transport_cost``.
    """

    def cost(x: jax.Array, y: jax.Array) -> jax.Array:
        return transport_cost(x, y, rounds=rounds, regularization=regularization)

    return 2 * cost(x, y) - cost(x, x) - cost(y, y)
