"""SEANet and, with other settings of the same config, the residual networks that are its baselines."""

import dataclasses
import reprlib
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, get_args

import jax
from flax import nnx

from seanet_jax.errors import InputError, is_integer
from seanet_jax.layers.aggregates import AGGREGATE_KINDS, AggregateKind, make_aggregate
from seanet_jax.layers.functional import at_least_float32
from seanet_jax.layers.modules import Aggregate, BatchNorm, Conv, Linear, ResidualBlock
from seanet_jax.models.network import Network, NetworkConfig

AggregatePlacement = Literal["stage", "block", "none"]
# Ten times the blocks of the deepest published residual network of this kind, ResNet-1202, and more.
_MOST_BLOCKS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SEANetConfig(NetworkConfig):
    """The architecture of a SEANet, and how it is computed. The defaults are the published SEANet-20 for CIFAR-10.

    Attributes:
        stage_sizes: Number of residual blocks in each stage. Stages after the first halve height and width.
        widths: Number of channels of the 3x3 convolutions in each stage.
        stem_width: Number of channels of the first convolution.
        squeeze_excite: Whether each block recalibrates its channels by squeeze-excitation.
        reduction: Channels per hidden unit of squeeze-excitation.
        aggregate_placement: Where channels are aggregated: "stage", after each stage, as published; "block", inside
          each block, after its squeeze-excitation and before the addition, as the talk describes it; or "none".
        aggregate_op: How channels are reduced: "sum", as published; "mean", "max", "normalized_sum" or "drop", see
          ``layers.functional.aggregate``; or "random", "learned" or "dense", see ``layers.aggregates``.
        aggregate_factor: Number of channels in a group.
        aggregate_stages: Numbers of the stages whose channels are aggregated, after the stage or inside its blocks, in
          rising order from 1; None is all of them.
        aggregate_norm: Whether batch normalization follows each aggregation.
        aggregate_seed: Seed of the groups of "random".
        preactivation: Whether layers come as BN - ReLU - conv instead of conv - BN - ReLU.
        num_classes: Number of classes; 0 leaves the classifier out, and the network returns pooled features.
        in_channels: Number of image channels.
        dtype: Compute dtype of convolutions and matrix products, see ``NetworkConfig``. Parameters, batch statistics
          and the classifier stay float32.
        conv_method: How convolutions are computed, see ``functional.conv2d``: "auto", the fastest on the device; "lax",
          which also supports forward-mode and higher derivatives; or "patches". All use the same parameters and agree
          but for rounding.
        batch_groups: Number of parts of a training batch that are each normalized by their own statistics; 1 normalizes
          by those of the whole batch.

    Raises:
        InputError: If a field, or a combination of fields, cannot be built.
    """

    stage_sizes: tuple[int, ...] = (3, 3, 3)
    widths: tuple[int, ...] = (128, 256, 512)
    stem_width: int = 16
    squeeze_excite: bool = True
    reduction: int = 8
    aggregate_placement: AggregatePlacement = "stage"
    aggregate_op: AggregateKind = "sum"
    aggregate_factor: int = 4
    aggregate_stages: tuple[int, ...] | None = None
    aggregate_norm: bool = False
    aggregate_seed: int = 0
    preactivation: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive_tuple("stage_sizes")
        self._check_positive_tuple("widths")
        if len(self.stage_sizes) != len(self.widths):
            raise InputError(
                f"widths has {len(self.widths)} entries and stage_sizes {len(self.stage_sizes)}; "
                "they must have one for each stage"
            )
        if sum(self.stage_sizes) > _MOST_BLOCKS:
            raise InputError(f"stage_sizes has {sum(self.stage_sizes):,} blocks; it must have at most {_MOST_BLOCKS:,}")
        self._check_positive("stem_width", "reduction", "aggregate_factor")
        self._check_flag("squeeze_excite")
        self._check_flag("preactivation")
        self._check_flag("aggregate_norm")
        self._check_choice("aggregate_placement", get_args(AggregatePlacement))
        self._check_choice("aggregate_op", AGGREGATE_KINDS)
        self._check_aggregate_stages()
        if not is_integer(self.aggregate_seed, minimum=0):
            raise InputError(f"aggregate_seed is {reprlib.repr(self.aggregate_seed)}; it must be an integer from 0")
        self._check_size("aggregate_seed", self.aggregate_seed)
        if self.squeeze_excite and self.reduction > min(self.widths):
            raise InputError(
                f"reduction is {self.reduction}; it must be at most {min(self.widths)}, "
                "the channels of the narrowest stage"
            )
        for number in self.aggregating_stages:
            if (width := self.widths[number - 1]) % self.aggregate_factor:
                raise InputError(
                    f"aggregate_factor is {self.aggregate_factor}; it must divide every aggregated stage's channels, "
                    f"and {width} is not divisible by it"
                )

    @property
    def aggregating_stages(self) -> tuple[int, ...]:
        """The numbers of the stages whose channels are aggregated, from 1; none if the placement is "none"."""
        if self.aggregate_placement == "none":
            return ()
        return self.aggregate_stages or tuple(range(1, len(self.stage_sizes) + 1))

    def _check_aggregate_stages(self) -> None:
        stages, count = self.aggregate_stages, len(self.stage_sizes)
        if stages is None:
            return
        # Not sorted(stages): values of several types have no order.
        are_numbers = isinstance(stages, tuple) and all(is_integer(number, minimum=1) for number in stages)
        if not are_numbers or not stages or stages[-1] > count or sorted(set(stages)) != list(stages):
            raise InputError(
                f"aggregate_stages is {reprlib.repr(stages)}; it must be numbers of stages from 1 to {count} in "
                "rising order, or None for all"
            )


class Stage(nnx.Module):
    """A sequence of residual blocks of one width, followed by aggregation if the config places it after this stage.

    The first block of every stage but the first has stride 2.

    Args:
        in_channels: Number of channels of the input ``[N, H, W, in_channels]``.
        index: Position of the stage in the config, from 0.
        config: The config of the whole network.
        rngs: Source of the initial parameters.
    """

    aggregate: Aggregate | None = nnx.data()

    def __init__(self, in_channels: int, index: int, config: SEANetConfig, *, rngs: nnx.Rngs):
        def aggregate_at(placement: AggregatePlacement) -> Aggregate | None:
            if config.aggregate_placement != placement or index + 1 not in config.aggregating_stages:
                return None
            width, factor = config.widths[index], config.aggregate_factor
            return make_aggregate(
                config.aggregate_op,
                width,
                factor,
                seed=config.aggregate_seed,
                norm=BatchNorm(width // factor, groups=config.batch_groups) if config.aggregate_norm else None,
                method=config.conv_method,
                rngs=rngs,
            )

        blocks = []
        for position in range(config.stage_sizes[index]):
            block = ResidualBlock(
                in_channels,
                config.widths[index],
                stride=2 if index > 0 and position == 0 else 1,
                reduction=config.reduction if config.squeeze_excite else None,
                aggregate=aggregate_at("block"),
                preactivation=config.preactivation,
                conv_method=config.conv_method,
                batch_groups=config.batch_groups,
                rngs=rngs,
            )
            in_channels = block.out_channels
            blocks.append(block)
        self.blocks = nnx.List(blocks)
        self.aggregate = aggregate_at("stage")
        self.out_channels = in_channels if self.aggregate is None else in_channels // self.aggregate.factor

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``."""
        return self.maps(x)[1]

    def maps(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the output of the blocks for ``[N, H, W, in_channels]``, before and after the aggregation."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.aggregate is None else self.aggregate(x)


class SEANet(Network):
    """SEANet: a stem, stages of residual blocks, global average pooling and a linear classifier.

    Args:
        config: The architecture; the published SEANet-20 by default.
        rngs: Source of the initial parameters, e.g. ``nnx.Rngs(0)``.

    Attributes:
        config: The architecture.
        classifier: The linear classifier; None if the config has no classes.
        num_features: Number of channels of the pooled features, which the classifier sees.
    """

    model_type: ClassVar[str] = "seanet"
    config_class: ClassVar[type[NetworkConfig]] = SEANetConfig
    folds: ClassVar[Sequence[tuple[str, str]]] = (("stem", "stem_bn"),)

    config: SEANetConfig
    classifier: nnx.Linear | None
    stem_bn: BatchNorm | None = nnx.data()
    head_bn: BatchNorm | None = nnx.data()

    def __init__(self, config: SEANetConfig | None = None, *, rngs: nnx.Rngs):
        self.config = config = config or SEANetConfig()
        self.stem = Conv(config.in_channels, config.stem_width, 3, method=config.conv_method, rngs=rngs)
        # A pre-activated block normalizes its input, so the stem needs no normalization, but the last sum does.
        groups = config.batch_groups
        self.stem_bn = None if config.preactivation else BatchNorm(config.stem_width, groups=groups)
        channels = config.stem_width
        stages = []
        for index in range(len(config.stage_sizes)):
            stage = Stage(channels, index, config, rngs=rngs)
            channels = stage.out_channels
            stages.append(stage)
        self.stages = nnx.List(stages)
        self.head_bn = BatchNorm(channels, groups=groups) if config.preactivation else None
        self.num_features = channels
        self.classifier = self.new_classifier(rngs)

    def new_classifier(self, rngs: nnx.Rngs) -> Linear | None:
        """Returns a newly initialized classifier; None if the config has no classes."""
        config = self.config
        if not config.num_classes:
            return None
        # In float32 whatever the compute dtype: bfloat16 has so few digits that the largest logits of an image can tie.
        return Linear(self.num_features, config.num_classes, rngs=rngs)

    @classmethod
    def repeated_arrays(cls, config: SEANetConfig) -> Iterable[str]:
        """Returns the name of one array of each residual block."""
        for stage, blocks in enumerate(config.stage_sizes):
            yield from (f"stages.{stage}.blocks.{block}.conv1.kernel" for block in range(blocks))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Classifies normalized images.

        Args:
            x: Images ``[N, H, W, in_channels]``, floating point, already normalized. CIFAR's are 32x32; any size works.

        Returns:
            Logits ``[N, num_classes]`` in float32; without a classifier, pooled features ``[N, num_features]``.

        Raises:
            InputError: If x is not a batch of floating-point images with the config's channels.
        """
        return self._classify(self.features(x)["pooled"])

    def classify_maps(self, maps: jax.Array) -> jax.Array:
        """Returns the scores that follow from the output of the last stage; see ``Network.classify_maps``."""
        return self._classify(self._pool(maps))

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the feature maps on the way to the logits, in order.

        Args:
            x: Images, as for a call.

        Returns:
            A dict of ``stem``, ``stage1``, ``stage2`` and so on: maps ``[N, h, w, channels]`` in the compute dtype, as
            the next layer sees them. If a stage ends in an aggregation, ``stage1.blocks`` and so on are its input.
            ``pooled`` is ``[N, num_features]`` in float32, which the classifier sees.

        Raises:
            InputError: If x is not a batch of floating-point images with the config's channels.
        """
        self._check_images(x)
        x = self.stem(x.astype(self.config.dtype))
        if self.stem_bn is not None:
            x = jax.nn.relu(self.stem_bn(x))
        found = {"stem": x}
        for number, stage in enumerate(self.stages, start=1):
            blocks, x = stage.maps(x)
            if stage.aggregate is not None:
                found[f"stage{number}.blocks"] = blocks
            found[f"stage{number}"] = x
        return found | {"pooled": self._pool(x)}

    def _pool(self, x: jax.Array) -> jax.Array:
        if self.head_bn is not None:
            x = jax.nn.relu(self.head_bn(x))
        return x.mean((1, 2), dtype=at_least_float32(x))

    def _classify(self, pooled: jax.Array) -> jax.Array:
        return pooled if self.classifier is None else self.classifier(pooled).astype(pooled.dtype)
