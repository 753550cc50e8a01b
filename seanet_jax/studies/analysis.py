"""Measurements of a network's feature maps and gradients, as pure functions of arrays.

Correlations and effective ranks follow from the covariance of the channels. Every position of every image is a sample.
A sum of channels is linear, so the covariance of any selection or grouping of channels also follows from it, exactly.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from seanet_jax.errors import InputError, positive_integers
from seanet_jax.layers.functional import AggregateOp, aggregate
from seanet_jax.models import SEANet, SEANetConfig
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import cross_entropy


class Moments(NamedTuple):
    """First and second moments of channels, in float64. The moments of separate batches of samples can be merged.

    Attributes:
        samples: Number of samples.
        mean: Mean of each channel, ``[C]``.
        scatter: Sums over the samples of products of deviations from the mean, ``[C, C]``.
        low: Smallest value of each channel, ``[C]``.
        high: Largest value of each channel, ``[C]``.
    """

    samples: int
    mean: np.ndarray
    scatter: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, maps: ArrayLike) -> "Moments":
        """Returns the moments of feature maps.

        Args:
            maps: Finite feature maps, ``[N, H, W, C]`` or ``[samples, C]``.

        Raises:
            InputError: If the maps have another rank, are empty, or hold NaN or infinity.
        """
        found = np.asarray(maps)
        if found.ndim not in (2, 4) or not found.size:
            raise InputError(f"the maps have shape {found.shape}; they must be [N, H, W, C] or [samples, C], not empty")
        samples = found.reshape(-1, found.shape[-1]).astype(np.float64)
        if not np.isfinite(samples).all():
            raise InputError("the maps hold NaN or infinity; they must be finite")
        mean = samples.mean(0)
        deviations = samples - mean
        return cls(len(samples), mean, deviations.T @ deviations, samples.min(0), samples.max(0))

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of the samples of both (Chan, Golub and LeVeque, 1983, eq. 2.1)."""
        count = self.samples + other.samples
        shift = other.mean - self.mean
        return Moments(
            count,
            self.mean + shift * (other.samples / count),
            self.scatter + other.scatter + np.outer(shift, shift) * (self.samples * other.samples / count),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def covariance(self) -> np.ndarray:
        """Returns the covariance of the channels, ``[C, C]``.

        The rows and columns of constant channels are exactly 0.
        """
        # The mean of a constant channel can be rounded, which leaves it a small variance. Its range is exact.
        varies = self.high > self.low
        return np.where(np.outer(varies, varies), self.scatter / self.samples, 0.0)


class Correlations(NamedTuple):
    """Correlations between the channels of feature maps.

    Attributes:
        absolute: Absolute correlation of each pair of the V channels that vary, float64 ``[V (V - 1) / 2]``.
        constant: Number of channels that do not vary. They are left out, because their correlations are undefined.
    """

    absolute: np.ndarray
    constant: int


def absolute_correlations(maps: ArrayLike) -> Correlations:
    """Returns the absolute Pearson correlations between the channels of feature maps.

    Args:
        maps: Feature maps, ``[N, H, W, C]`` or ``[samples, C]``. Every position of every image is a sample.

    Raises:
        InputError: If the maps have another rank, are empty, or hold NaN or infinity.
    """
    return correlations_of(Moments.of(maps).covariance())


def correlations_of(covariance: np.ndarray) -> Correlations:
    """Returns the absolute Pearson correlations between channels whose covariance is known.

    Args:
        covariance: Covariance of the channels, ``[C, C]``.
    """
    variance = np.diagonal(covariance)
    varies = np.flatnonzero(variance > 0)
    deviation = np.sqrt(variance[varies])
    correlation = covariance[np.ix_(varies, varies)] / np.outer(deviation, deviation)
    pairs = np.abs(correlation[np.triu_indices(len(varies), 1)])
    # Rounding can put the correlation of two copies slightly above 1.
    return Correlations(np.minimum(pairs, 1.0), len(variance) - len(varies))


def effective_rank(maps: ArrayLike) -> float:
    """Returns the number of directions that the channels of feature maps use, from 1 (all are copies) to C.

    It is the exponential of the entropy of the covariance's singular values divided by their sum (Roy and Vetterli,
    EUSIPCO 2007, definition 1). It depends on the scales of the channels: if one varies far more than the others, the
    rank is close to 1.

    Args:
        maps: Feature maps, ``[N, H, W, C]`` or ``[samples, C]``. Every position of every image is a sample.

    Raises:
        InputError: If no channel varies, or the maps have another rank, are empty, or hold NaN or infinity.
    """
    return effective_rank_of(Moments.of(maps).covariance())


def effective_rank_of(covariance: np.ndarray) -> float:
    """Returns the effective rank of channels whose covariance is known; see ``effective_rank``.

    Args:
        covariance: Covariance of the channels, ``[C, C]``.

    Raises:
        InputError: If the covariance is zero.
    """
    # The singular values of a symmetric positive semidefinite matrix are its eigenvalues, which is faster. Rounding can
    # make an eigenvalue slightly negative.
    values = np.linalg.eigvalsh(covariance).clip(min=0)
    if not values.sum():
        raise InputError("no channel of the maps varies; the effective rank needs one that does")
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def chosen_channels(covariance: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Returns the covariance of some of the channels.

    Args:
        covariance: Covariance of all channels, ``[C, C]``.
        channels: Indices of the K chosen channels, ``[K]``.

    Returns:
        Covariance of the chosen channels, ``[K, K]``.
    """
    return covariance[np.ix_(channels, channels)]


def summed_groups(covariance: np.ndarray, order: np.ndarray, factor: int) -> np.ndarray:
    """Returns the covariance of the sums of groups of channels.

    Args:
        covariance: Covariance of the channels, ``[C, C]``.
        order: Permutation of the channels, ``[C]``. Its first ``factor`` channels are the first group, and so on.
        factor: Number of channels in a group.

    Returns:
        Covariance of the groups' sums, ``[C / factor, C / factor]``.

    Raises:
        InputError: If the factor is not a positive integer, or does not divide the number of channels.
    """
    (factor,) = positive_integers("summed_groups", factor=factor)
    if len(covariance) % factor:
        raise InputError(f"summed_groups: factor is {factor}; it must divide the {len(covariance)} channels")
    groups = len(covariance) // factor
    ordered = covariance[np.ix_(order, order)]
    # The covariance of two sums is the sum of the covariances of all pairs of their terms.
    return ordered.reshape(groups, factor, groups, factor).sum((1, 3))


class StageMaps(NamedTuple):
    """Feature maps at the end of a stage.

    Attributes:
        before: Output of the stage's last block, ``[N, H, W, C]``.
        after: Aggregated maps, ``[N, H, W, C / k]``. They equal ``before`` if the stage does not aggregate.
    """

    before: jax.Array
    after: jax.Array


@functools.partial(jax.jit, static_argnums=0)
def _stage_maps(graphdef: nnx.GraphDef, params: Any, batch_stats: Any, images: jax.Array) -> list[StageMaps]:
    found = nnx.merge(graphdef, params, batch_stats).features(images)
    stages = [name for name in found if re.fullmatch(r"stage\d+", name)]
    return [StageMaps(found.get(f"{name}.blocks", found[name]), found[name]) for name in stages]


def feature_maps(model: SEANet, images: ArrayLike) -> list[StageMaps]:
    """Returns the feature maps of every stage, before and after its aggregation.

    Args:
        model: Network in evaluation mode. It is not changed.
        images: Normalized images, ``[N, H, W, in_channels]``.

    Raises:
        InputError: If the network is in training mode, aggregates inside its blocks, or does not take such images.
    """
    if model.config.aggregate_placement == "block":
        raise InputError("the network aggregates inside its blocks; it must aggregate after its stages, or not at all")
    if not model.stages[0].blocks[0].bn1.use_running_average:
        raise InputError("the network is in training mode; call its eval() first")
    return _stage_maps(*split_model(model), jnp.asarray(images))


@functools.partial(jax.jit, static_argnames=("factor", "op"))
def active_share(maps: jax.Array, order: jax.Array, *, factor: int = 1, op: AggregateOp = "sum") -> jax.Array:
    """Returns the share of positions at which groups of feature maps are above zero.

    A group of rectified maps is above zero wherever one of its maps is, whatever the operation.

    Args:
        maps: Feature maps, ``[N, H, W, C]``.
        order: Permutation of the channels, ``[C]``. Its first ``factor`` channels are the first group, and so on.
        factor: Number of channels in a group; 1 does not group them.
        op: Operation that reduces a group.

    Returns:
        Share of all images, positions and groups, a float32 scalar in [0, 1].

    Raises:
        InputError: If ``layers.functional.aggregate`` cannot group the channels by this factor and operation.
    """
    return (aggregate(maps[..., order], factor, op) > 0).mean(dtype=jnp.float32)


class LayerGradient(NamedTuple):
    """Gradient norm of one convolution's kernel.

    Attributes:
        layer: Name of the convolution, such as "stem", "stage 1 block 2 conv 1" or "stage 2 block 1 shortcut".
        gradient: L2 norm of the loss's gradient with respect to the kernel.
        parameter: L2 norm of the kernel.
    """

    layer: str
    gradient: float
    parameter: float

    @property
    def relative(self) -> float:
        """Norm of the gradient divided by the norm of the kernel."""
        return self.gradient / self.parameter


class Gradients(NamedTuple):
    """Loss and gradient norms of a batch.

    Attributes:
        loss: Mean cross entropy, in nats.
        layers: Gradient norm of each convolution, in order of depth. A block's shortcut comes last.
    """

    loss: float
    layers: tuple[LayerGradient, ...]


def _kernels(config: SEANetConfig, params: Any) -> Iterator[tuple[str, jax.Array]]:
    """Yields the name and the kernel of each convolution, in order of depth."""
    yield "stem", params["stem"]["kernel"]
    for stage, blocks in enumerate(config.stage_sizes):
        for position in range(blocks):
            block = params["stages"][stage]["blocks"][position]
            for layer, name in (("conv1", "conv 1"), ("conv2", "conv 2"), ("shortcut", "shortcut")):
                if layer in block:
                    yield f"stage {stage + 1} block {position + 1} {name}", block[layer]["kernel"]


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_norms(
    config: SEANetConfig, params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Only the structure of the network is needed here: its values are arguments.
    model = nnx.eval_shape(lambda: SEANet(config, rngs=nnx.Rngs(0)))
    model.train()
    graphdef, _, _ = split_model(model)

    def loss_fn(params: Any) -> jax.Array:
        return cross_entropy(nnx.merge(graphdef, params, batch_stats)(images), labels).mean()

    def norms(tree: Any) -> jax.Array:
        return jnp.stack([jnp.linalg.norm(kernel.reshape(-1)) for _, kernel in _kernels(config, tree)])

    loss, gradients = jax.value_and_grad(loss_fn)(params)
    return loss, norms(gradients), norms(params)


def gradient_norms(
    config: SEANetConfig, params: Any, batch_stats: Any, images: ArrayLike, labels: ArrayLike
) -> Gradients:
    """Returns the norm of the mean cross entropy's gradient for each convolution.

    The network is in training mode: batch normalization uses the statistics of the batch. Weight decay and momentum
    belong to the optimizer and are not part of the gradient.

    Args:
        config: The network's configuration.
        params: The network's parameters, nested dicts as in ``training.step.TrainState``.
        batch_stats: The network's running statistics, nested dicts. They do not affect the result in training mode.
        images: Normalized images, ``[N, H, W, in_channels]``.
        labels: Class of each image, int32 ``[N]``.

    Raises:
        InputError: If the network does not take such images, or the labels are not one integer for each image.
    """
    loss, gradients, parameters = jax.device_get(
        _loss_and_norms(config, params, batch_stats, jnp.asarray(images), jnp.asarray(labels))
    )
    names = [name for name, _ in _kernels(config, params)]
    layers = zip(names, gradients.tolist(), parameters.tolist(), strict=True)
    return Gradients(float(loss), tuple(LayerGradient(*layer) for layer in layers))
