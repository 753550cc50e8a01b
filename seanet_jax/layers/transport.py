"""Entropy-regularized optimal transport between two sets of samples, as pure functions of arrays.

Each set is a distribution in which all samples have the same weight. Sinkhorn's iteration (Cuturi, NeurIPS 2013) scales
the rows and the columns of ``exp(-cost / regularization)`` in turn, until they sum to the weights. This module iterates
on logarithms, so that nothing overflows, and no row underflows to zeros, by which the iteration would divide.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.sharding import PartitionSpec

from seanet_jax.errors import InputError, is_number, plain, positive_integers
from seanet_jax.layers.capsules import euclidean_norm
from seanet_jax.layers.functional import at_least_float32
from seanet_jax.layers.sharding import has_explicit_axes, partition_automatically


def pairwise_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the Euclidean distances between the rows of x and the rows of y.

    The gradient of a distance of zero is zero, not NaN.

    Args:
        x: Samples ``[n, D]``.
        y: Samples ``[m, D]``.

    Returns:
        Distances ``[n, m]``, in float32 or better.

    Raises:
        InputError: If the shapes do not fit together, or if the samples are not floating point.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError(f"pairwise_distances: x {x.shape} and y {y.shape} must be [n, D] and [m, D]")
    if has_explicit_axes(x, y):
        # Only the rows are sharded, as x is. An axis of a mesh cannot shard both.
        result = PartitionSpec(jax.typeof(x).sharding.spec[0], None)
        return partition_automatically(pairwise_distances, x, y, result=result)
    # Not as |x|^2 + |y|^2 - 2 x y, which cancels when two samples are near each other.
    return euclidean_norm(x[:, None] - y[None])


def sinkhorn(cost: jax.Array, *, rounds: int = 10, regularization: float = 1.0) -> jax.Array:
    """Computes a transport plan between equal weights, by a fixed number of rounds of Sinkhorn's iteration.

    Let ``K = exp(-cost / regularization)``, and ``b = 1 / m`` at the start. A round computes ``a = (1 / n) / (K b)``
    and then ``b = (1 / m) / (K^T a)``. The plan is ``diag(a) K diag(b)``. Its columns sum to 1 / m exactly, and its
    rows to 1 / n in the limit.

    Args:
        cost: Cost of moving a unit of weight from each sample to each other, ``[n, m]``, floating point.
        rounds: Number of rounds.
        regularization: Weight of the entropy, in the unit of the cost. A smaller one gives a plan nearer to the
          unregularized optimum, and needs more rounds.

    Returns:
        Plan ``[n, m]``, in float32 or better.

    Raises:
        InputError: If the cost is no such matrix or is empty, or if rounds or regularization is not a positive number.
    """
    if cost.ndim != 2 or not cost.size or not jnp.issubdtype(cost.dtype, jnp.floating):
        raise InputError(f"sinkhorn: cost is {cost.dtype} {cost.shape}; it must be floating point [n, m], not empty")
    (rounds,) = positive_integers("sinkhorn", rounds=rounds)
    regularization = plain(regularization)
    if not is_number(regularization) or regularization <= 0:
        raise InputError(f"sinkhorn: regularization is {regularization!r}; it must be a positive number")
    if has_explicit_axes(cost):
        function = partial(sinkhorn, rounds=rounds, regularization=regularization)
        return partition_automatically(function, cost, result=jax.typeof(cost).sharding.spec)
    log_kernel = -cost.astype(at_least_float32(cost)) / regularization
    rows, columns = (-jnp.log(jnp.asarray(size, log_kernel.dtype)) for size in cost.shape)

    def one_round(log_b: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        log_a = rows - logsumexp(log_kernel + log_b[None], axis=1)
        return columns - logsumexp(log_kernel + log_a[:, None], axis=0), log_a

    # Made from the kernel, so that inside shard_map it varies over the same axes.
    start = jnp.full_like(log_kernel[0], columns)
    log_b, log_as = jax.lax.scan(one_round, start, length=rounds)
    return jnp.exp(log_as[-1][:, None] + log_kernel + log_b[None])


def transport_cost(x: jax.Array, y: jax.Array, *, rounds: int = 10, regularization: float = 1.0) -> jax.Array:
    """Computes the cost of moving the samples x to the samples y by the plan of ``sinkhorn``.

    The cost is the Euclidean distance. Gradients flow through the plan as well as through the distances.

    Args:
        x: Samples ``[n, D]``.
        y: Samples ``[m, D]``.
        rounds: Number of rounds of ``sinkhorn``.
        regularization: Weight of the entropy in ``sinkhorn``.

    Returns:
        A scalar, the sum of plan times distance.

    Raises:
        InputError: If ``pairwise_distances`` or ``sinkhorn`` raises it.
    """
    cost = pairwise_distances(x, y)
    return (sinkhorn(cost, rounds=rounds, regularization=regularization) * cost).sum()


def transport_divergence(x: jax.Array, y: jax.Array, *, rounds: int = 10, regularization: float = 1.0) -> jax.Array:
    """Computes Sinkhorn's divergence between two sets of samples, which is zero if they are the same.

    It is ``2 W(x, y) - W(x, x) - W(y, y)``, where W is ``transport_cost`` (Genevay et al., AISTATS 2018). EncapNet
    trains with it as its agreement term (Li et al., arXiv:1808.03749).

    Args:
        x: Samples ``[n, D]``.
        y: Samples ``[m, D]``.
        rounds: Number of rounds of ``sinkhorn``.
        regularization: Weight of the entropy in ``sinkhorn``.

    Returns:
        A scalar.

    Raises:
        InputError: If ``transport_cost`` raises it.
    """

    def cost(x: jax.Array, y: jax.Array) -> jax.Array:
        return transport_cost(x, y, rounds=rounds, regularization=regularization)

    return 2 * cost(x, y) - cost(x, x) - cost(y, y)
