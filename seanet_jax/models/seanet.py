"""SEANet, and with other settings of the same config the residual networks it is compared with."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.layers.functional import AGGREGATE_OPS, AggregateOp, at_least_float32
from seanet_jax.layers.modules import Aggregate, BatchNorm, Conv, Linear, ResidualBlock
from seanet_jax.models.network import Network, NetworkConfig

AggregatePlacement = Literal["stage", "block", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SEANetConfig(NetworkConfig):
    """The architecture, and how it is computed. The defaults are the published SEANet-20 for CIFAR-10.

    Attributes:
        stage_sizes: residual blocks in each stage; stages after the first halve height and width.
        widths: channels of each stage's 3x3 convolutions.
        stem_width: channels of the first convolution.
        squeeze_excite: whether each block recalibrates its channels.
        reduction: channels per hidden unit of squeeze-excitation.
        aggregate_placement: "stage", after each stage, as published; "block", inside each block, after its
          squeeze-excitation and before the addition, as the talk words it; or "none".
        aggregate_op: how a group of channels is reduced.
        aggregate_factor: channels in a group.
        preactivation: BN - ReLU - conv instead of conv - BN - ReLU.
        num_classes: size of the logits; 0 leaves the classifier out, and the network gives pooled features.
        in_channels: channels of the image.
        dtype: compute dtype of convolutions and matrix products; parameters, batch statistics and logits stay float32.
        conv_method: how convolutions are computed, see ``functional.conv2d``: "auto", the fastest on the device; "lax",
          which also has forward-mode and higher derivatives; or "patches". The parameters are the same; the numbers
          differ by rounding.
        batch_groups: parts of a training batch that are normalised each by its own statistics; 1 is the whole batch.

    Raises:
        InputError: a field, or a combination of fields, cannot be built.
    """

    stage_sizes: tuple[int, ...] = (3, 3, 3)
    widths: tuple[int, ...] = (128, 256, 512)
    stem_width: int = 16
    squeeze_excite: bool = True
    reduction: int = 8
    aggregate_placement: AggregatePlacement = "stage"
    aggregate_op: AggregateOp = "sum"
    aggregate_factor: int = 4
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
        self._check_positive("stem_width", "reduction", "aggregate_factor")
        self._check_flag("squeeze_excite")
        self._check_flag("preactivation")
        self._check_choice("aggregate_placement", get_args(AggregatePlacement))
        self._check_choice("aggregate_op", AGGREGATE_OPS)
        if self.squeeze_excite and self.reduction > min(self.widths):
            raise InputError(
                f"reduction is {self.reduction}; it must be at most {min(self.widths)}, "
                "the channels of the narrowest stage"
            )
        if self.aggregate_placement != "none":
            for width in self.widths:
                if width % self.aggregate_factor:
                    raise InputError(
                        f"aggregate_factor is {self.aggregate_factor}; it must divide every stage's channels, "
                        f"and {width} is not divisible by it"
                    )


class Stage(nnx.Module):
    """Residual blocks of one width, the first with the stage's stride; then aggregation, if it is placed here.

    Args:
        in_channels: channels of the input ``[N, H, W, in_channels]``.
        index: which stage of the config this is, from 0.
        config: of the whole network.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, index: int, config: SEANetConfig, *, rngs: nnx.Rngs):
        def aggregate_at(placement: AggregatePlacement) -> Aggregate | None:
            if config.aggregate_placement != placement:
                return None
            return Aggregate(config.aggregate_factor, config.aggregate_op)

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
        """``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``."""
        return self.maps(x)[1]

    def maps(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the blocks make of ``[N, H, W, in_channels]``, before and after the aggregation."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.aggregate is None else self.aggregate(x)


class SEANet(Network):
    """Stem, stages of residual blocks, global average pool, linear classifier.

    Args:
        config: the architecture; the published SEANet-20 by default.
        rngs: source of the initial parameters, e.g. ``nnx.Rngs(0)``.

    Attributes:
        config: the architecture.
        num_features: channels of the pooled features, the classifier's input.
    """

    model_type: ClassVar[str] = "seanet"
    config_class: ClassVar[type[NetworkConfig]] = SEANetConfig
    folds: ClassVar[Sequence[tuple[str, str]]] = (("stem", "stem_bn"),)

    config: SEANetConfig
    classifier: Linear | None

    def __init__(self, config: SEANetConfig | None = None, *, rngs: nnx.Rngs):
        self.config = config = config or SEANetConfig()
        self.stem = Conv(config.in_channels, config.stem_width, 3, method=config.conv_method, rngs=rngs)
        # Pre-activated blocks begin with a normalisation of their own and leave the last sum without one.
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
        return Linear(self.num_features, config.num_classes, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Classifies normalised images.

        Args:
            x: ``[N, H, W, in_channels]``, floating point, already normalised. CIFAR's are 32x32; any size works.

        Returns:
            Logits ``[N, num_classes]`` in float32; without a classifier, pooled features ``[N, num_features]``.

        Raises:
            InputError: x is not a batch of floating-point images with the config's channels.
        """
        pooled = self.features(x)["pooled"]
        return pooled if self.classifier is None else self.classifier(pooled).astype(pooled.dtype)

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """The maps on the way to the logits, in order.

        Args:
            x: as for a call.

        Returns:
            ``stem``, ``stage1``, ``stage2``, ...: maps ``[N, h, w, channels]`` of the compute dtype, as the next layer
            sees them. Where a stage ends in an aggregation, ``stage1.blocks`` and so on are what is aggregated.
            ``pooled``: ``[N, num_features]``, float32, what the classifier sees.

        Raises:
            InputError: as for a call.
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
        if self.head_bn is not None:
            x = jax.nn.relu(self.head_bn(x))
        return found | {"pooled": x.mean((1, 2), dtype=at_least_float32(x))}
