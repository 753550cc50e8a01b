"""SEANet's building blocks as Flax NNX modules, channels-last, initialized as in the PyTorch release.

Parameters and batch statistics are float32, whatever the compute dtype. Modules start in training mode, as NNX's own
do. ``model.eval()`` switches to running statistics, and ``model.train()`` back to those of the batch;
``nnx.view(model, use_running_average=True)`` makes an evaluation view that shares the model's arrays.

An attribute that may be None is declared with ``nnx.data()``. Otherwise Flax would take None for a static value, and
refuse a module that is assigned in its place.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from seanet_jax.errors import InputError, check_array_size, finite_numbers, is_integer, plain, positive_integers
from seanet_jax.layers import functional
from seanet_jax.layers.convolution import CONV_METHODS, ConvMethod
from seanet_jax.layers.functional import AGGREGATE_OPS, AggregateOp

# Kaiming-normal with gain sqrt(2) over the fan-in (He et al., 2015), as in the release. JAX's he_normal is truncated,
# which is another distribution.
_conv_init = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# uniform(+-1/sqrt(fan_in)), PyTorch's default for linear layers. JAX asks for its variance, which is 1/(3 fan_in).
_linear_init = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# Compiled even where a module is called outside of jit: Python's numbers beside single operations are transfers to the
# device, which jax_transfer_guard can forbid, but not in a compiled program.
_conv2d = jax.jit(functional.conv2d, static_argnames=("stride", "groups", "method"))
_conv_transpose2d = jax.jit(functional.conv_transpose2d, static_argnames=("stride", "method"))


class Linear(nnx.Linear):
    """``nnx.Linear`` with PyTorch's default initialization: kernel and bias uniform(+-1/sqrt(in_features)).

    Args:
        in_features: Number of input channels.
        out_features: Number of output channels.
        dtype: Compute dtype.
        rngs: Source of the initial parameters.

    Raises:
        InputError: If a size is not a positive integer, or the sizes are too large for memory.
    """

    def __init__(self, in_features: int, out_features: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        in_features, out_features = positive_integers("Linear", in_features=in_features, out_features=out_features)
        check_array_size("Linear", (in_features, out_features))

        def bias_init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
            bound = in_features**-0.5
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        super().__init__(
            in_features, out_features, kernel_init=_linear_init, bias_init=bias_init, dtype=dtype, rngs=rngs
        )

    def __call__(self, inputs: jax.Array, *arguments: Any, **keywords: Any) -> jax.Array:
        """Maps ``[..., in_features]`` to ``[..., out_features]``; further arguments are those of ``nnx.Linear``.

        Raises:
            InputError: If the inputs are not a floating-point array of this shape.
        """
        if inputs.shape[-1:] != (self.in_features,) or not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise InputError(
                f"Linear: the inputs are {inputs.dtype} {inputs.shape}; "
                f"they must be floating point [..., {self.in_features}]"
            )
        return super().__call__(inputs, *arguments, **keywords)


class Conv(nnx.Module):
    """A convolution with an odd square kernel, computed by ``functional.conv2d``.

    Args:
        in_channels: Number of channels of the input ``[N, H, W, in_channels]``.
        out_channels: Number of channels of the output ``[N, ceil(H / stride), ceil(W / stride), out_channels]``.
        kernel_size: Side length of the kernel, an odd number.
        stride: Step in both spatial directions.
        groups: Number of groups of channels, see ``functional.conv2d``.
        bias_init: Initializer of the bias; None leaves the bias out.
        kernel_init: Initializer of the kernel, by default Kaiming-normal over the fan-in (He et al., 2015).
        method: How the convolution is computed, see ``functional.conv2d``.
        rngs: Source of the initial parameters.

    Raises:
        InputError: If a size is not a positive integer, if the sizes are too large for memory, if the kernel size is
          even, if the groups do not divide the channels, or if the method is unknown.
    """

    bias: nnx.Param | None = nnx.data()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias_init: nnx.Initializer | None = None,
        kernel_init: nnx.Initializer = _conv_init,
        method: ConvMethod = "auto",
        rngs: nnx.Rngs,
    ):
        in_channels, out_channels, kernel_size, stride, groups = positive_integers(
            "Conv",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            groups=groups,
        )
        if kernel_size % 2 == 0:
            raise InputError(f"Conv: kernel_size is {kernel_size}; it must be odd")
        if in_channels % groups or out_channels % groups:
            raise InputError(
                f"Conv: groups is {groups}; it must divide the {in_channels} channels of the input and the "
                f"{out_channels} of the output"
            )
        if method not in CONV_METHODS:
            raise InputError(f"Conv: method is {method!r}; it must be one of {', '.join(CONV_METHODS)}")
        shape = (kernel_size, kernel_size, in_channels // groups, out_channels)
        check_array_size("Conv", shape)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = None if bias_init is None else nnx.Param(bias_init(rngs.params(), (out_channels,), jnp.float32))
        self.stride = stride
        self.groups = groups
        self.method: ConvMethod = method

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]`` in x's dtype."""
        y = _conv2d(x, self.kernel[...], stride=self.stride, groups=self.groups, method=self.method)
        return self._with_bias(y)

    def _with_bias(self, y: jax.Array) -> jax.Array:
        if self.bias is None:
            return y
        # The bias is float32 whatever the compute dtype, so the sum is computed in float32 and cast back.
        dtype = functional.at_least_float32(y)
        return (y.astype(dtype) + functional.per_channel(self.bias[...].astype(dtype), y)).astype(y.dtype)


class ConvTranspose(Conv):
    """A transposed convolution, which upsamples by ``stride``; computed by ``functional.conv_transpose2d``.

    It takes the arguments of ``Conv`` except ``groups``, and raises the same errors.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[N, H, W, in_channels]`` to ``[N, stride * H, stride * W, out_channels]``, of x's dtype."""
        y = _conv_transpose2d(x, self.kernel[...], stride=self.stride, method=self.method)
        return self._with_bias(y)


class BatchNorm(nnx.Module):
    """Batch normalization with an unbiased running variance, as in PyTorch; ``nnx.BatchNorm`` keeps the biased one.

    Statistics are those of the whole batch that the function sees: under jit over a mesh, of the global batch. Inside
    ``shard_map``, ``pmap`` or ``vmap``, where the function sees a part, ``axis_name`` makes them those of all parts. If
    there are several groups, each is normalized by its own statistics, and the running averages follow the mean over
    groups. With as many groups as devices, that is what ``pmap`` computes without a sum over devices, if running
    averages are synchronized before evaluation.

    All of Flax's ways to choose the statistics work as for ``nnx.BatchNorm``: ``train()`` and ``eval()``, ``nnx.view``,
    ``set_attributes``, and an argument here or at the call.

    Args:
        channels: Size of the last axis.
        momentum: Weight of the old value in the running averages. PyTorch's momentum is one minus this.
        epsilon: Value added to the variance.
        groups: Number of groups of adjacent images, all of the same size.
        axis_name: Name, or names, of the mapped axes over which statistics are averaged, as for ``nnx.BatchNorm``. For
          all normalizations of a network, use ``model.set_attributes(axis_name="data")``.
        use_running_average: Whether to normalize by the running averages, which is evaluation mode. None leaves the
          choice to each call.

    Raises:
        InputError: If the number of channels or of groups is not a positive integer, or if momentum or epsilon is not a
          number.
    """

    def __init__(
        self,
        channels: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        groups: int = 1,
        axis_name: str | tuple[str, ...] | None = None,
        use_running_average: bool | None = False,
    ):
        channels, groups = positive_integers("BatchNorm", channels=channels, groups=groups)
        check_array_size("BatchNorm", (channels,))
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))
        self.momentum, self.epsilon = finite_numbers("BatchNorm", momentum=momentum, epsilon=epsilon)
        self.groups = groups
        self.axis_name = axis_name
        self.use_running_average = use_running_average

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Chooses the statistics in a view, for ``nnx.view``.

        Args:
            use_running_average: Whether to normalize by the running averages. None changes nothing.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
        """Normalizes ``[..., C]``; in training mode also updates the running averages.

        Args:
            x: Feature map.
            use_running_average: Whether to normalize by the running averages. None follows the module's attribute.

        Raises:
            InputError: If x is not a floating-point map with this number of channels, or if neither the call nor the
              module says which statistics to use; or, in training mode, if the groups do not divide its first axis, or
              if a channel has a single value in a group, whose variance is undefined.
        """
        if use_running_average is None:
            use_running_average = self.use_running_average
        if use_running_average is None:
            raise InputError("BatchNorm: use_running_average is None in the module and the call; one must choose")
        channels = self.scale.shape[0]
        if x.ndim < 2 or x.shape[-1] != channels or not jnp.issubdtype(x.dtype, jnp.floating):
            raise InputError(f"BatchNorm: x is {x.dtype} {x.shape}; it must be floating point [..., {channels}]")
        if use_running_average:
            return self._normalize(x, self.mean[...], self.var[...])
        if x.shape[0] % self.groups:
            raise InputError(
                f"BatchNorm: x has shape {x.shape}; its first axis must be divisible by {self.groups} groups"
            )
        # Of all parts of the batch. psum of a Python number is the number of parts, without any communication.
        parts = 1 if self.axis_name is None else jax.lax.psum(1, self.axis_name)
        count = x.size // x.shape[-1] // self.groups * parts
        if count < 2:
            raise InputError(
                f"BatchNorm: one value per channel in an input of shape {x.shape}; training needs at least two"
            )
        statistics = functools.partial(functional.batch_statistics, axis_name=self.axis_name)
        if self.groups == 1:
            mean, var = statistics(x)
            self._move_averages(mean, var, count)
            return self._normalize(x, mean, var)
        grouped = x.reshape(self.groups, -1, *x.shape[1:])
        mean, var = jax.vmap(statistics)(grouped)
        self._move_averages(mean.mean(0), var.mean(0), count)
        return jax.vmap(self._normalize)(grouped, mean, var).reshape(x.shape)

    def _normalize(self, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        return functional.batch_norm(x, mean, var, self.scale[...], self.bias[...], epsilon=self.epsilon)

    def _move_averages(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        # The batch is normalized by its biased variance, but the running average estimates that of all images, for
        # which n - 1 is the unbiased divisor. The published network's evaluation depends on it.
        for average, new, factor in ((self.mean, mean, 1.0), (self.var, var, count / (count - 1))):
            moved = _moved_average(average.get_value(), new, factor, self.momentum)
            average.set_value(moved)  # "average[...] = moved" would compare shardings, which is slow to trace


@functools.partial(jax.jit, static_argnums=(2, 3))
def _moved_average(average: jax.Array, new: jax.Array, factor: float, momentum: float) -> jax.Array:
    if factor != 1:
        new = new * factor
    moved = momentum * average + (1 - momentum) * jax.lax.stop_gradient(new)
    # The statistics of a float64 batch are float64. A state whose dtype changes cannot be carried by lax.scan.
    return moved.astype(average.dtype)


class SqueezeExcite(nnx.Module):
    """Squeeze-and-excitation of maps ``[..., H, W, channels]``; see ``functional.squeeze_excite``.

    Args:
        channels: Number of channels of the input and of the output.
        reduction: Number of channels per unit of the hidden layer, which has ``channels // reduction`` units.
        rngs: Source of the initial parameters.

    Raises:
        InputError: If the number of channels is not a positive integer, or if the reduction leaves no hidden unit.
    """

    def __init__(self, channels: int, reduction: int = 8, *, rngs: nnx.Rngs):
        (channels,) = positive_integers("SqueezeExcite", channels=channels)
        reduction = plain(reduction)
        if not is_integer(reduction, minimum=1) or reduction > channels:
            raise InputError(
                f"SqueezeExcite: reduction is {reduction!r}; it must be an integer from 1 to the {channels} channels"
            )
        self.reduce = Linear(channels, channels // reduction, rngs=rngs)
        self.expand = Linear(channels // reduction, channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales the channels of ``[..., H, W, channels]``; the shape stays the same."""
        return functional.squeeze_excite(x, *self._arrays())

    def weights(self, x: jax.Array) -> jax.Array:
        """Returns the weights ``[..., channels]``, from 0 to 1, by which a call scales ``[..., H, W, channels]``."""
        return functional.squeeze_excite_weights(x, *self._arrays())

    def _arrays(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        assert self.reduce.bias is not None and self.expand.bias is not None
        return self.reduce.kernel[...], self.reduce.bias[...], self.expand.kernel[...], self.expand.bias[...]


class Aggregate(nnx.Module):
    """Reduces groups of adjacent channels to one channel each; see ``functional.aggregate``.

    Between batch normalizations, sum, mean and normalized sum are the same network: they differ by a constant factor,
    which the next normalization removes but for its epsilon. Only the classifier sees the factor of the last one, as if
    its kernel were initialized larger.

    ``aggregates.py`` has the kinds that learn how to reduce channels, or that group them at random.

    Args:
        factor: Number of channels in a group.
        op: How a group is reduced: "sum" as in the published network, or another operation of
          ``functional.aggregate``.
        norm: Batch normalization of the result; None leaves it out.

    Raises:
        InputError: If the factor is not a positive integer, or if the operation is unknown.
    """

    norm: BatchNorm | None = nnx.data()

    def __init__(self, factor: int = 4, op: AggregateOp = "sum", *, norm: BatchNorm | None = None):
        (self.factor,) = positive_integers("Aggregate", factor=factor)
        if op not in AGGREGATE_OPS:
            raise InputError(f"Aggregate: op is {op!r}; it must be one of {', '.join(AGGREGATE_OPS)}")
        self.op: AggregateOp = op
        self.norm = norm

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., C]`` to ``[..., C / factor]``."""
        y = self.reduce(x)
        return y if self.norm is None else self.norm(y)

    def reduce(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., C]`` to ``[..., C / factor]``, without the normalization."""
        return functional.aggregate(x, self.factor, self.op)

    def groups(self, channels: int) -> np.ndarray:
        """Returns the input channels that each output channel is made of, ``[channels / factor, factor]``.

        Args:
            channels: Number of channels of the input. The factor divides it.
        """
        return np.arange(channels).reshape(-1, self.factor)


class ResidualBlock(nnx.Module):
    """A basic block: two 3x3 convolutions, optional squeeze-excitation and aggregation, and a shortcut.

    The layers come in one of two orders:

    * Post-activation (He et al., CVPR 2016): conv - BN - ReLU - conv - BN - [SE] - [aggregate] - add shortcut - ReLU. A
      projected shortcut is a 1x1 convolution and batch normalization.
    * Pre-activation (He et al., ECCV 2016): BN - ReLU - conv - BN - ReLU - conv - [SE] - [aggregate] - add shortcut. A
      projected shortcut is a 1x1 convolution of the activated input, without normalization.

    The shortcut is the identity if the shapes allow it. A block that aggregates always projects the shortcut to its
    ``width / factor`` channels, as the talk describes.

    Args:
        in_channels: Number of channels of the input ``[N, H, W, in_channels]``.
        width: Number of channels of both 3x3 convolutions. The output has ``width`` channels, or ``width / factor`` if
          the block aggregates.
        stride: Stride of the first convolution and of the shortcut.
        reduction: Channels per hidden unit of squeeze-excitation; None leaves squeeze-excitation out.
        aggregate: Aggregation inside the residual branch, after squeeze-excitation; None leaves it out.
        preactivation: Whether the layers come in the pre-activation order.
        conv_method: How all convolutions are computed, see ``functional.conv2d``.
        batch_groups: Number of groups of all batch normalizations, see ``BatchNorm``.
        rngs: Source of the initial parameters.

    Raises:
        InputError: If a size is not a positive integer, if the factor does not divide the width, if the reduction
          leaves no hidden unit, or if the method is unknown.
    """

    squeeze_excite: SqueezeExcite | None = nnx.data()
    aggregate: Aggregate | None = nnx.data()
    shortcut: Conv | None = nnx.data()
    shortcut_bn: BatchNorm | None = nnx.data()

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        reduction: int | None = None,
        aggregate: Aggregate | None = None,
        preactivation: bool = False,
        conv_method: ConvMethod = "auto",
        batch_groups: int = 1,
        rngs: nnx.Rngs,
    ):
        in_channels, width, stride = positive_integers(
            "ResidualBlock", in_channels=in_channels, width=width, stride=stride
        )
        if aggregate is not None and width % aggregate.factor:
            raise InputError(f"ResidualBlock: width is {width}; it must be divisible by the factor {aggregate.factor}")
        self.out_channels = width if aggregate is None else width // aggregate.factor
        self.preactivation = preactivation
        self.conv1 = Conv(in_channels, width, 3, stride=stride, method=conv_method, rngs=rngs)
        self.bn1 = BatchNorm(in_channels if preactivation else width, groups=batch_groups)
        self.conv2 = Conv(width, width, 3, method=conv_method, rngs=rngs)
        self.bn2 = BatchNorm(width, groups=batch_groups)
        self.squeeze_excite = None if reduction is None else SqueezeExcite(width, reduction, rngs=rngs)
        self.aggregate = aggregate
        # Aggregation can leave as many channels as the input has, and the shortcut is projected nevertheless.
        projected = aggregate is not None or stride != 1 or in_channels != self.out_channels
        self.shortcut = (
            Conv(in_channels, self.out_channels, 1, stride=stride, method=conv_method, rngs=rngs) if projected else None
        )
        self.shortcut_bn = (
            BatchNorm(self.out_channels, groups=batch_groups) if projected and not preactivation else None
        )

    @property
    def folds(self) -> Sequence[tuple[str, str]]:
        """Names of convolutions, each with its normalization, that ``seanet_jax.models.fold`` can fold."""
        if self.preactivation:
            return (("conv1", "bn2"),)
        return ("conv1", "bn1"), ("conv2", "bn2"), ("shortcut", "shortcut_bn")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``."""
        if self.preactivation:
            activated = jax.nn.relu(self.bn1(x))
            y = self.conv2(jax.nn.relu(self.bn2(self.conv1(activated))))
            shortcut = x if self.shortcut is None else self.shortcut(activated)
            return self._excite_and_aggregate(y) + shortcut
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = self._excite_and_aggregate(self.bn2(self.conv2(y)))
        shortcut = x
        if self.shortcut is not None and self.shortcut_bn is not None:
            shortcut = self.shortcut_bn(self.shortcut(x))
        return jax.nn.relu(y + shortcut)

    def _excite_and_aggregate(self, y: jax.Array) -> jax.Array:
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y)
        return y if self.aggregate is None else self.aggregate(y)
