"""What can be measured of a network's feature maps and gradients: pure functions of arrays.

Correlations and effective ranks are functions of the covariance of the channels, positions and images being samples.
A sum of channels is linear, so the covariance of any choice or grouping of channels follows from it exactly.
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

from seanet_jax.errors import InputError, demand_positive_integers
from seanet_jax.layers.functional import AggregateOp, aggregate
from seanet_jax.models import SEANet, SEANetConfig
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import cross_entropy


class Moments(NamedTuple):
    """First and second moments of channels, in float64; those of parts of the samples can be merged.

    Attributes:
        samples: how many.
        mean: ``[C]``.
        scatter: ``[C, C]``, sums of products of deviations from the mean.
        low: ``[C]``, smallest values.
        high: ``[C]``, largest values.
    """

    samples: int
    mean: np.ndarray
    scatter: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, maps: ArrayLike) -> "Moments":
        """Of feature maps.

        Args:
            maps: ``[N, H, W, C]`` or ``[samples, C]``, finite.

        Raises:
            InputError: they have another rank, are empty, or hold NaN or infinity.
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
        """Of the samples of both: Chan, Golub and LeVeque, 1983, eq. 2.1."""
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
        """``[C, C]``; the rows and columns of constant channels are exactly 0, whatever was rounded."""
        varies = self.high > self.low
        return np.where(np.outer(varies, varies), self.scatter / self.samples, 0.0)


class Correlations(NamedTuple):
    """How alike the channels of a map are.

    Attributes:
        absolute: float64 ``[V (V - 1) / 2]``, the absolute correlation of each pair of the V channels that vary.
        constant: channels that do not vary, and were left out: a correlation with them is undefined.
    """

    absolute: np.ndarray
    constant: int


def absolute_correlations(maps: ArrayLike) -> Correlations:
    """Absolute Pearson correlations between the channels of feature maps.

    Args:
        maps: ``[N, H, W, C]`` or ``[samples, C]``; every position of every image is a sample.

    Raises:
        InputError: as ``Moments.of``.
    """
    return correlations_of(Moments.of(maps).covariance())


def correlations_of(covariance: np.ndarray) -> Correlations:
    """As ``absolute_correlations``, of a covariance ``[C, C]``."""
    variance = np.diagonal(covariance)
    varies = np.flatnonzero(variance > 0)
    deviation = np.sqrt(variance[varies])
    correlation = covariance[np.ix_(varies, varies)] / np.outer(deviation, deviation)
    pairs = np.abs(correlation[np.triu_indices(len(varies), 1)])
    return Correlations(np.minimum(pairs, 1.0), len(variance) - len(varies))


def effective_rank(maps: ArrayLike) -> float:
    """How many directions the channels of feature maps use: from 1, all are copies, to C.

    The exponential of the entropy of the covariance's singular values divided by their sum (Roy and Vetterli, EUSIPCO
    2007, definition 1). It depends on the channels' scales: one that varies far more than the others counts alone.

    Args:
        maps: ``[N, H, W, C]`` or ``[samples, C]``; every position of every image is a sample.

    Raises:
        InputError: no channel varies, or as ``Moments.of``.
    """
    return effective_rank_of(Moments.of(maps).covariance())


def effective_rank_of(covariance: np.ndarray) -> float:
    """As ``effective_rank``, of a covariance ``[C, C]``.

    Raises:
        InputError: it is zero.
    """
    # Symmetric and positive semidefinite: eigenvalues are singular values, but for rounding below zero.
    values = np.linalg.eigvalsh(covariance).clip(min=0)
    if not values.sum():
        raise InputError("no channel of the maps varies; the effective rank needs one that does")
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def chosen_channels(covariance: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """The covariance of some channels, by their indices, of that of all ``[C, C]``."""
    return covariance[np.ix_(channels, channels)]


def summed_groups(covariance: np.ndarray, order: np.ndarray, factor: int) -> np.ndarray:
    """The covariance of sums of channels.

    Args:
        covariance: of the channels, ``[C, C]``.
        order: a permutation of the channels: the first ``factor`` of it are the first group.
        factor: channels in a group.

    Returns:
        ``[C / factor, C / factor]``.

    Raises:
        InputError: the factor is not a positive integer that divides the channels.
    """
    demand_positive_integers("summed_groups", factor=factor)
    if len(covariance) % factor:
        raise InputError(f"summed_groups: factor is {factor}; it must divide the {len(covariance)} channels")
    groups = len(covariance) // factor
    ordered = covariance[np.ix_(order, order)]
    return ordered.reshape(groups, factor, groups, factor).sum((1, 3))


class StageMaps(NamedTuple):
    """The maps at the end of a stage.

    Attributes:
        before: ``[N, H, W, C]``, of the last block.
        after: ``[N, H, W, C / k]``, aggregated; those before where the stage does not aggregate.
    """

    before: jax.Array
    after: jax.Array


@functools.partial(jax.jit, static_argnums=0)
def _stage_maps(graphdef: nnx.GraphDef, params: Any, batch_stats: Any, images: jax.Array) -> list[StageMaps]:
    found = nnx.merge(graphdef, params, batch_stats).features(images)
    stages = [name for name in found if re.fullmatch(r"stage\d+", name)]
    return [StageMaps(found.get(f"{name}.blocks", found[name]), found[name]) for name in stages]


def feature_maps(model: SEANet, images: ArrayLike) -> list[StageMaps]:
    """The maps of every stage, before and after the aggregation.

    Args:
        model: in evaluation mode; it is left as it is.
        images: ``[N, H, W, in_channels]``, normalised.

    Raises:
        InputError: the network is in training mode, aggregates inside its blocks, or cannot classify the images.
    """
    if model.config.aggregate_placement == "block":
        raise InputError("the network aggregates inside its blocks; maps are compared at the end of stages alone")
    if not model.stages[0].blocks[0].bn1.use_running_average:
        raise InputError("the network is in training mode; call its eval() first")
    return _stage_maps(*split_model(model), jnp.asarray(images))


@functools.partial(jax.jit, static_argnames=("factor", "op"))
def active_share(maps: jax.Array, order: jax.Array, *, factor: int = 1, op: AggregateOp = "sum") -> jax.Array:
    """The share of positions at which maps are above zero, channels being grouped in some order first.

    A group of rectified maps is above zero where any of its members is, whatever the operation.

    Args:
        maps: ``[N, H, W, C]``.
        order: ``[C]``, a permutation of the channels: the first ``factor`` of it are the first group.
        factor: channels in a group; 1 leaves them alone.
        op: how a group is reduced.

    Returns:
        float32 scalar, over all images, positions and groups.

    Raises:
        InputError: as ``functional.aggregate``.
    """
    return (aggregate(maps[..., order], factor, op) > 0).mean(dtype=jnp.float32)


class LayerGradient(NamedTuple):
    """The gradient of one convolution's kernel.

    Attributes:
        layer: such as "stem", "stage 1 block 2 conv 1" or "stage 2 block 1 shortcut".
        gradient: its L2 norm.
        parameter: the kernel's own.
    """

    layer: str
    gradient: float
    parameter: float

    @property
    def relative(self) -> float:
        """The gradient's norm divided by the kernel's."""
        return self.gradient / self.parameter


class Gradients(NamedTuple):
    """The gradients of a batch.

    Attributes:
        loss: mean cross entropy, in nats.
        layers: in the order of depth, a block's shortcut last.
    """

    loss: float
    layers: tuple[LayerGradient, ...]


def _kernels(config: SEANetConfig, params: Any) -> Iterator[tuple[str, jax.Array]]:
    """The convolutions' kernels and their names, in the order of depth."""
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
    """The gradient of the mean cross entropy, convolution by convolution, in training mode: by batch statistics.

    The gradient is the loss's alone: weight decay and momentum are the optimiser's.

    Args:
        config: of the network.
        params: of the network, nested dicts as in ``step.TrainState``.
        batch_stats: likewise; in training mode they decide nothing.
        images: ``[N, H, W, in_channels]``, normalised.
        labels: int32 ``[N]``.

    Raises:
        InputError: the images cannot be classified, or the labels are not one integer for each.
    """
    loss, gradients, parameters = jax.device_get(
        _loss_and_norms(config, params, batch_stats, jnp.asarray(images), jnp.asarray(labels))
    )
    names = [name for name, _ in _kernels(config, params)]
    layers = zip(names, gradients.tolist(), parameters.tolist(), strict=True)
    return Gradients(float(loss), tuple(LayerGradient(*layer) for layer in layers))
