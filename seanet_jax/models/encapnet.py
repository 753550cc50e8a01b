"""EncapNet, its branch of aides and its agreement: capsules kept as channels of a convolutional network.

Li et al., "Neural Network Encapsulation", ECCV 2018 (arXiv:1808.03749), with the layers of the published default
network. ``seanet_jax.layers.capsules`` says how a map's channels are capsules, ``seanet_jax.layers.transport`` what
agreement is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from seanet_jax.errors import InputError
from seanet_jax.layers.capsules import class_capsules, euclidean_norm, flatten_capsules, route, squash
from seanet_jax.layers.modules import BatchNorm, Conv, ConvTranspose
from seanet_jax.layers.transport import transport_divergence
from seanet_jax.models.network import Network, NetworkConfig
from seanet_jax.models.scores import LENGTHS, Scores

_STRIDES = (1, 2, 2, 2)
# Where the aides and the agreement are.
_LAST_TWO = (2, 3)
# How much wider than the master's kernel the aide's is: it sees what lies around.
_AIDE_MARGIN = 4

# Xavier-normal (Glorot and Bengio, 2010), for groups over the fan-in of one and the fan-out of all, as PyTorch counts.
_kernel_init = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
_bias_init = jax.nn.initializers.normal(1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncapNetConfig(NetworkConfig):
    """The architecture, and how it is computed. The defaults are the published EncapNet for CIFAR-10.

    Attributes:
        widths: channels of the four modules; modules after the first halve height and width.
        stem_width: channels of the first convolution.
        groups: capsules at each position of a map.
        aide: whether the convolutions of modules 3 and 4 have an aide beside the master.
        agreement: whether training adds how far modules 3 and 4 are from agreeing with what they are computed from.
        image_size: height and width of the images, in pixels: the classifier has a weight for each position.
        num_classes: size of the scores; 0 leaves the classifier out, and the network gives its last capsules.
        in_channels: channels of the image.
        dtype: compute dtype of convolutions and matrix products; parameters, batch statistics, lengths of capsules and
          scores stay float32.
        conv_method: see ``SEANetConfig``.
        batch_groups: likewise; agreement is always that of the whole batch.

    Raises:
        InputError: a field, or a combination of fields, cannot be built.
    """

    scores: ClassVar[Scores] = LENGTHS

    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem_width: int = 32
    groups: int = 32
    aide: bool = False
    agreement: bool = False
    image_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive_tuple("widths")
        if len(self.widths) != len(_STRIDES):
            raise InputError(f"widths has {len(self.widths)} entries; it must have one for each of 4 modules")
        self._check_positive("stem_width", "groups", "image_size")
        self._check_flag("aide")
        self._check_flag("agreement")
        for name, channels in (("stem_width", (self.stem_width,)), ("widths", self.widths)):
            if any(width % self.groups for width in channels):
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; the {self.groups} groups must divide all channels"
                )
        if self.image_size % 8:
            raise InputError(
                f"image_size is {self.image_size}; it must be divisible by 8, since it is halved three times"
            )


class MasterConv(nnx.Module):
    """EncapNet's convolution without an aide: of groups, each capsule from the capsule at its place.

    Args:
        in_channels: channels of the input ``[N, H, W, in_channels]``.
        out_channels: channels of the output ``[N, ceil(H / stride), ceil(W / stride), out_channels]``.
        kernel_size: odd side length of the kernel.
        stride: step in both directions.
        config: of the whole network.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        config: EncapNetConfig,
        rngs: nnx.Rngs,
    ):
        self.conv = _conv(in_channels, out_channels, kernel_size, config, stride, config.groups, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``."""
        return self.conv(x)


class MasterAideConv(nnx.Module):
    """EncapNet's convolution with a master and an aide, which sees all capsules and a wider field; see ``route``.

    Args and shapes are those of ``MasterConv``.
    """

    # Convolutions, each with the normalisation of its result; see seanet_jax.models.fold.
    folds: ClassVar[Sequence[tuple[str, str]]] = (("master", "master_bn"), ("aide", "aide_bn"))

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        config: EncapNetConfig,
        rngs: nnx.Rngs,
    ):
        groups = config.groups
        self.groups = groups
        self.master = _conv(in_channels, out_channels, kernel_size, config, stride, groups, rngs=rngs)
        self.master_bn = BatchNorm(out_channels, groups=config.batch_groups)
        self.aide = _conv(in_channels, out_channels, kernel_size + _AIDE_MARGIN, config, stride, rngs=rngs)
        self.aide_bn = BatchNorm(out_channels, groups=config.batch_groups)
        self.master_coefficients = _conv(out_channels, groups, 3, config, groups=groups, rngs=rngs)
        self.aide_coefficients = _conv(out_channels, groups, 3, config, groups=groups, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``."""
        master = squash(jax.nn.relu(self.master_bn(self.master(x))), self.groups)
        aide = squash(jax.nn.relu(self.aide_bn(self.aide(x))), self.groups)
        return route(master, aide, self.master_coefficients(master), self.aide_coefficients(aide))


class CapsuleBlock(nnx.Module):
    """Convolutions, each followed by normalisation, ReLU and squash; the block's input joins before the last of these.

    ``core - BN - ReLU - squash``, again and again; the last one ``core - add shortcut - BN - ReLU - squash``. Where the
    shape changes, the shortcut is a 3x3 convolution with the block's stride, of all channels.

    Args:
        in_channels: channels of the input ``[N, H, W, in_channels]``.
        out_channels: channels of the output ``[N, ceil(H / stride), ceil(W / stride), out_channels]``.
        kernel_size: of the core convolutions.
        stride: of the first core convolution and of the shortcut.
        cores: how many there are.
        aide: whether each has an aide.
        config: of the whole network.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        cores: int,
        aide: bool,
        config: EncapNetConfig,
        rngs: nnx.Rngs,
    ):
        core_class = MasterAideConv if aide else MasterConv
        self.groups = config.groups
        self.cores = nnx.List(
            core_class(
                in_channels if position == 0 else out_channels,
                out_channels,
                kernel_size,
                stride=stride if position == 0 else 1,
                config=config,
                rngs=rngs,
            )
            for position in range(cores)
        )
        self.norms = nnx.List(BatchNorm(out_channels, groups=config.batch_groups) for _ in range(cores))
        changes = in_channels != out_channels or stride != 1
        self.shortcut = _conv(in_channels, out_channels, 3, config, stride, rngs=rngs) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``."""
        return self.maps(x)[-1]

    def maps(self, x: jax.Array) -> list[jax.Array]:
        """What follows each core convolution, of the shape of the output; the last is the output."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        found = []
        for position, (core, norm) in enumerate(zip(self.cores, self.norms, strict=True), start=1):
            x = core(x)
            if position == len(self.cores):
                x = x + shortcut
            x = squash(jax.nn.relu(norm(x)), self.groups)
            found.append(x)
        return found


class CapsuleModule(nnx.Module):
    """A block of one 3x3 core convolution that changes the channels, then one of two 1x1 core convolutions.

    Args:
        in_channels: channels of the input ``[N, H, W, in_channels]``.
        index: which module of the config this is, from 0.
        config: of the whole network.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, index: int, config: EncapNetConfig, *, rngs: nnx.Rngs):
        width, stride = config.widths[index], _STRIDES[index]
        aide = config.aide and index in _LAST_TWO
        self.main = CapsuleBlock(in_channels, width, 3, stride=stride, cores=1, aide=aide, config=config, rngs=rngs)
        self.sub = CapsuleBlock(width, width, 1, stride=1, cores=2, aide=aide, config=config, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), width]``."""
        return self.maps(x)[-1]

    def maps(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the main block gives, the first half of the sub block, and the module; all of the output's shape."""
        main = self.main(x)
        half, whole = self.sub.maps(main)
        return main, half, whole


class Agreement(nnx.Module):
    """How far capsules are from agreeing with those they are computed from, by optimal transport over a batch.

    The later map is brought to the earlier one's shape by a transposed convolution, both are seen by one critic, and
    the divergence of what it sees is that of ``transport_divergence``: ten rounds, regularization 1.

    The critic normalises each of the two by its own batch statistics; its running averages, which nothing uses, follow
    the later map first.

    Args:
        late_channels: channels of the later map.
        early_channels: channels of the earlier map; the critic has a quarter of them.
        stride: how much larger the earlier map is.
        config: of the whole network.
        rngs: source of the initial parameters.
    """

    def __init__(self, late_channels: int, early_channels: int, *, stride: int, config: EncapNetConfig, rngs: nnx.Rngs):
        hidden, groups = max(1, early_channels // 4), config.batch_groups
        self.back = ConvTranspose(
            late_channels,
            early_channels,
            3,
            stride=stride,
            bias_init=_bias_init,
            kernel_init=_kernel_init,
            method=config.conv_method,
            rngs=rngs,
        )
        self.back_bn = BatchNorm(early_channels, groups=groups)
        self.critic1 = _conv(early_channels, hidden, 3, config, stride=2, rngs=rngs)
        self.critic1_bn = BatchNorm(hidden, groups=groups)
        self.critic2 = _conv(hidden, 1, 3, config, stride=2, rngs=rngs)
        self.critic2_bn = BatchNorm(1, groups=groups)

    def __call__(self, late: jax.Array, early: jax.Array) -> jax.Array:
        """``[N, h, w, late_channels]`` and ``[N, stride * h, stride * w, early_channels]`` to a float32 scalar."""
        late = jax.nn.relu(self.back_bn(self.back(late)))
        return transport_divergence(self._criticise(late), self._criticise(early))

    def _criticise(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.critic1_bn(self.critic1(x)))
        x = jax.nn.relu(self.critic2_bn(self.critic2(x)))
        return x.reshape(x.shape[0], -1)


class CapsuleClassifier(nnx.Module):
    """A capsule for each class, of which the length is the score; see ``class_capsules``.

    Args:
        capsules: how many there are in the input ``[N, capsules, size]``.
        size: components of each.
        num_classes: size of the scores.
        rngs: source of the initial parameters, uniform(+-1/sqrt(capsules)).
    """

    def __init__(self, capsules: int, size: int, num_classes: int, *, rngs: nnx.Rngs):
        bound = capsules**-0.5
        shape = (size, capsules, num_classes)
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))

    def __call__(self, capsules: jax.Array) -> jax.Array:
        """``[N, capsules, size]`` to ``[N, num_classes]``, from 0 to 1, float32."""
        return euclidean_norm(class_capsules(capsules, self.kernel[...]))


class EncapNet(Network):
    """Stem, four modules of capsules, a capsule for each class.

    Args:
        config: the architecture; the published EncapNet for CIFAR-10 by default.
        rngs: source of the initial parameters, e.g. ``nnx.Rngs(0)``.

    Attributes:
        config: the architecture.
        num_features: numbers in the last capsules, the classifier's input.
    """

    model_type: ClassVar[str] = "encapnet"
    config_class: ClassVar[type[NetworkConfig]] = EncapNetConfig
    folds: ClassVar[Sequence[tuple[str, str]]] = (("stem", "stem_bn"),)
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 5e-4,
        "batch_size": 256,
        "epochs": 600,
        "decay_every": None,
        "decay_at": (200, 300, 400),
    }

    config: EncapNetConfig
    classifier: CapsuleClassifier | None

    def __init__(self, config: EncapNetConfig | None = None, *, rngs: nnx.Rngs):
        self.config = config = config or EncapNetConfig()
        self.stem = _conv(config.in_channels, config.stem_width, 3, config, rngs=rngs)
        self.stem_bn = BatchNorm(config.stem_width, groups=config.batch_groups)
        channels = (config.stem_width, *config.widths)
        self.modules = nnx.List(
            CapsuleModule(channels[index], index, config, rngs=rngs) for index in range(len(config.widths))
        )
        self._positions = (config.image_size // 8) ** 2
        self.num_features = config.widths[-1] * self._positions
        self.classifier = self.new_classifier(rngs)
        third, fourth = config.widths[2:]
        self.agreement3 = Agreement(third, third, stride=1, config=config, rngs=rngs) if config.agreement else None
        self.agreement4 = Agreement(fourth, third, stride=2, config=config, rngs=rngs) if config.agreement else None

    def new_classifier(self, rngs: nnx.Rngs) -> CapsuleClassifier | None:
        """Returns a newly initialized classifier; None if the config has no classes."""
        config = self.config
        if not config.num_classes:
            return None
        size = config.widths[-1] // config.groups
        return CapsuleClassifier(config.groups * self._positions, size, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Classifies normalised images.

        Args:
            x: ``[N, image_size, image_size, in_channels]``, floating point, already normalised.

        Returns:
            Scores ``[N, num_classes]`` in float32: the lengths of the classes' capsules, from 0 to 1. Without a
            classifier, the last capsules ``[N, num_features]``.

        Raises:
            InputError: x is not a batch of floating-point images with the config's size and channels.
        """
        return self._classify(self._maps(x)[-1][-1])

    def training_scores(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See ``Network``: where the config asks for it, what is added to the loss is the sum of both agreements.

        In module 3 the output of its main block and its output have to agree, in module 4 its input and what comes
        after the first convolution of its sub block.

        Raises:
            InputError: as for a call.
        """
        maps = self._maps(x)
        scores, agreement = self._classify(maps[-1][-1]), jnp.zeros(())
        if self.agreement3 is not None and self.agreement4 is not None:
            (main, _, third), (_, half, _) = maps[-2:]
            agreement = self.agreement3(third, main) + self.agreement4(half, third)
        return scores, agreement

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """The maps on the way to the scores, in order.

        Args:
            x: as for a call.

        Returns:
            ``stem``, ``module1`` to ``module4``: maps ``[N, h, w, channels]`` of the compute dtype; ``capsules``: the
            last one's, ``[N, groups * h * w, size]``, what the classifier sees.

        Raises:
            InputError: as for a call.
        """
        stem, *modules = (maps[-1] for maps in self._maps(x))
        found = {"stem": stem} | {f"module{number}": x for number, x in enumerate(modules, start=1)}
        return found | {"capsules": flatten_capsules(modules[-1], self.config.groups)}

    def _maps(self, x: jax.Array) -> list[tuple[jax.Array, ...]]:
        """Of the stem and of each module; the last of each is what the next one sees."""
        self._check_images(x)
        size = self.config.image_size
        if x.shape[1:3] != (size, size):
            raise InputError(f"the images are {x.shape[1]}x{x.shape[2]} pixels; the network is for {size}x{size}")
        x = jax.nn.relu(self.stem_bn(self.stem(x.astype(self.config.dtype))))
        found: list[tuple[jax.Array, ...]] = [(x,)]
        for module in self.modules:
            found.append(module.maps(found[-1][-1]))
        return found

    def _classify(self, x: jax.Array) -> jax.Array:
        capsules = flatten_capsules(x, self.config.groups)
        if self.classifier is None:
            return capsules.reshape(x.shape[0], -1).astype(jnp.float32)
        return self.classifier(capsules)


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    config: EncapNetConfig,
    stride: int = 1,
    groups: int = 1,
    *,
    rngs: nnx.Rngs,
) -> Conv:
    """A convolution as all of EncapNet's are: with a bias, and initialised as published."""
    return Conv(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        groups=groups,
        bias_init=_bias_init,
        kernel_init=_kernel_init,
        method=config.conv_method,
        rngs=rngs,
    )
