"""Aggregates that learn how to reduce channels, or that group them at random, to stand where a network sums.

Each is an ``Aggregate`` that knows the number of its channels. A weight is drawn without a change to the given
``rngs``, so that all other layers of a network start with the same values whatever its aggregates are.
"""

import functools
from typing import Literal, get_args

import jax
import numpy as np
from flax import nnx

from seanet_jax.errors import MOST_VALUES, InputError, is_integer, plain, positive_integers
from seanet_jax.layers.convolution import ConvMethod
from seanet_jax.layers.functional import AggregateOp
from seanet_jax.layers.modules import Aggregate, BatchNorm, Conv

AggregateKind = Literal[AggregateOp, "random", "learned", "dense"]
"""The operations of ``functional.aggregate``, and the classes of this module."""

AGGREGATE_KINDS: tuple[str, ...] = get_args(AggregateKind)


class RandomAggregate(Aggregate):
    """Sums groups of channels that are drawn at random once, in place of adjacent ones.

    Channel ``order[i]`` is in group ``i // factor``, with ``order = random_order(channels, seed)``. The channels of a
    convolution have no order of their own, so that a network with this aggregate is one with adjacent groups whose
    channels have other names. It differs as another seed of the initial weights does.

    Args:
        channels: Number of channels of the input.
        factor: Number of channels in a group. It divides the number of channels.
        seed: Seed of the grouping, an integer from 0.
        norm: Batch normalization of the result; None leaves it out.

    Raises:
        InputError: If the factor does not divide the channels, or if the seed is no integer from 0 to 2^31 - 1.
    """

    def __init__(self, channels: int, factor: int = 4, *, seed: int = 0, norm: BatchNorm | None = None):
        channels, factor = _divisible("RandomAggregate", channels, factor)
        super().__init__(factor, "sum", norm=norm)
        self.order = random_order(channels, seed)

    def reduce(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., channels]`` to ``[..., channels / factor]``, without the normalization."""
        if x.shape[-1:] != (len(self.order),):
            raise InputError(f"RandomAggregate: x has shape {x.shape}; it must be [..., {len(self.order)}]")
        return super().reduce(_ordered(x, self.order))

    def groups(self, channels: int) -> np.ndarray:
        """Returns the input channels that each output channel is made of, ``[channels / factor, factor]``."""
        return np.asarray(self.order).reshape(-1, self.factor)


# Jitted, so that a call outside jit sends no constant to the device, which jax_transfer_guard may forbid.
@functools.partial(jax.jit, static_argnums=1)
def _ordered(x: jax.Array, order: tuple[int, ...]) -> jax.Array:
    return x[..., np.asarray(order)]


def random_order(channels: int, seed: int) -> tuple[int, ...]:
    """Returns the channels in the order in which ``RandomAggregate`` groups them.

    Args:
        channels: Number of channels.
        seed: Seed of the order, an integer from 0.

    Raises:
        InputError: If the seed is no integer from 0 to 2^31 - 1.
    """
    seed = plain(seed)
    if not is_integer(seed, minimum=0) or seed > MOST_VALUES:
        raise InputError(f"random_order: seed is {seed!r}; it must be an integer from 0 to {MOST_VALUES:,}")
    # Not NumPy's newer generators: only this one promises the same numbers in every version, and a network that is
    # loaded must have the groups that it was trained with.
    return tuple(np.random.RandomState(seed).permutation(channels).tolist())


class ConvAggregate(Aggregate):
    """An aggregate that is a 1x1 convolution of ``[N, H, W, channels]``, which the attribute ``conv`` holds."""

    # ``seanet_jax.models.fold`` can fold the normalization into the convolution.
    folds = (("conv", "norm"),)

    def __init__(self, factor: int, conv: Conv, norm: BatchNorm | None):
        self.factor = factor
        self.conv = conv
        self.norm = norm

    def reduce(self, x: jax.Array) -> jax.Array:
        """Maps ``[N, H, W, channels]`` to ``[N, H, W, channels / factor]``, without the normalization."""
        return self.conv(x)

    def weights(self) -> jax.Array:
        """Returns the weight of each channel of ``groups``, in an array of the same shape."""
        return self.conv.kernel[0, 0].T


class LearnedAggregate(ConvAggregate):
    """Sums groups of adjacent channels by learned weights: a 1x1 convolution in groups, without a bias.

    Output channel ``g`` is the sum of ``kernel[0, 0, i, g] * x[..., g * factor + i]`` over ``i``. It has ``channels``
    weights. They are initialized to one, which is the sum.

    Args:
        channels: Number of channels of the input.
        factor: Number of channels in a group. It divides the number of channels.
        norm: Batch normalization of the result; None leaves it out.
        method: How the convolution is computed, see ``functional.conv2d``.

    Raises:
        InputError: If the factor does not divide the channels, or if the method is unknown.
    """

    def __init__(self, channels: int, factor: int = 4, *, norm: BatchNorm | None = None, method: ConvMethod = "auto"):
        channels, factor = _divisible("LearnedAggregate", channels, factor)
        groups, ones = channels // factor, jax.nn.initializers.ones
        # The weights are constant, so that any random numbers do.
        conv = Conv(channels, groups, 1, groups=groups, kernel_init=ones, method=method, rngs=nnx.Rngs(0))
        super().__init__(factor, conv, norm)


class DenseAggregate(ConvAggregate):
    """Reduces channels by a 1x1 convolution without groups or a bias, as DenseNet's transition does.

    Huang et al. (CVPR 2017, section 3) normalize and rectify before the convolution and pool after it; this is the
    convolution alone. It has ``channels^2 / factor`` weights, initialized as those of ``Conv``.

    Args:
        channels: Number of channels of the input.
        factor: Number of channels of the input for each one of the output. It divides the number of channels.
        norm: Batch normalization of the result; None leaves it out.
        method: How the convolution is computed, see ``functional.conv2d``.
        rngs: Source of the initial weights, from which none is taken away: another draw from it gives the same.

    Raises:
        InputError: If the factor does not divide the channels, or if the method is unknown.
    """

    def __init__(
        self,
        channels: int,
        factor: int = 4,
        *,
        norm: BatchNorm | None = None,
        method: ConvMethod = "auto",
        rngs: nnx.Rngs,
    ):
        channels, factor = _divisible("DenseAggregate", channels, factor)
        # Rngs makes a key of its own from the one that the next layer draws, so that both are independent.
        source = nnx.Rngs(nnx.clone(rngs).params())
        conv = Conv(channels, channels // factor, 1, method=method, rngs=source)
        super().__init__(factor, conv, norm)

    def groups(self, channels: int) -> np.ndarray:
        """Returns the input channels that each output channel is made of: all, ``[channels / factor, channels]``."""
        return np.tile(np.arange(channels), (channels // self.factor, 1))


def make_aggregate(
    kind: AggregateKind,
    channels: int,
    factor: int,
    *,
    seed: int = 0,
    norm: BatchNorm | None = None,
    method: ConvMethod = "auto",
    rngs: nnx.Rngs,
) -> Aggregate:
    """Returns the aggregate of a kind.

    Args:
        kind: One of ``AGGREGATE_KINDS``.
        channels: Number of channels of the input.
        factor: Number of channels in a group.
        seed: Seed of the grouping, for "random".
        norm: Batch normalization of the result; None leaves it out.
        method: How a convolution is computed, for "learned" and "dense".
        rngs: Source of the initial weights, for "dense". It stays as it is.

    Raises:
        InputError: If the kind is unknown, or if its class raises it.
    """
    if kind == "random":
        return RandomAggregate(channels, factor, seed=seed, norm=norm)
    if kind == "learned":
        return LearnedAggregate(channels, factor, norm=norm, method=method)
    if kind == "dense":
        return DenseAggregate(channels, factor, norm=norm, method=method, rngs=rngs)
    return Aggregate(factor, kind, norm=norm)


def kind_of(aggregate: Aggregate) -> AggregateKind:
    """Returns the kind of an aggregate, by which ``make_aggregate`` makes another like it.

    Args:
        aggregate: An aggregate that ``make_aggregate`` returned.
    """
    kinds: dict[type[Aggregate], AggregateKind]
    kinds = {RandomAggregate: "random", LearnedAggregate: "learned", DenseAggregate: "dense"}
    return kinds.get(type(aggregate)) or aggregate.op


def _divisible(where: str, channels: int, factor: int) -> tuple[int, int]:
    """Returns both sizes as ints, after a check that the factor divides the channels."""
    channels, factor = positive_integers(where, channels=channels, factor=factor)
    if channels % factor:
        raise InputError(f"{where}: factor is {factor}; it must divide the {channels} channels")
    return channels, factor
