"""EncapNet, a convolutional network whose channels are capsules, with its aide branch and its agreement term.

It follows Li et al., "Neural Network Encapsulation", ECCV 2018 (arXiv:1808.03749), with the layers of the published
default network. ``seanet_jax.layers.capsules`` describes how the channels of a map are capsules, and
``seanet_jax.layers.transport`` how agreement is measured.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from seanet_jax.errors import InputError, check_array_size
from seanet_jax.layers.capsules import class_capsules, euclidean_norm, flatten_capsules, route, squash
from seanet_jax.layers.functional import at_least_float32
from seanet_jax.layers.modules import BatchNorm, Conv, ConvTranspose
from seanet_jax.layers.transport import transport_divergence
from seanet_jax.models.network import Network, NetworkConfig, no_term
from seanet_jax.models.scores import LENGTHS, Scores

_STRIDES = (1, 2, 2, 2)
# The modules (from 0) that have aide branches and the agreement term.
_LAST_TWO = (2, 3)
# An aide's kernel is this much wider than the master's, so that the aide sees the surroundings.
_AIDE_MARGIN = 4

# Xavier-normal (Glorot and Bengio, 2010). PyTorch, which the published network was trained in, counts the fan-in of one
# group and the fan-out of all; JAX counts alike, because a kernel of groups has the shape [k, k, C / groups, F].
_kernel_init = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
_bias_init = jax.nn.initializers.normal(1.0)

# Compiled even outside of jit, as in seanet_jax.layers.modules.
_squash = jax.jit(squash, static_argnames="groups")
_route = jax.jit(route)
_transport_divergence = jax.jit(transport_divergence)


@jax.jit
def _class_lengths(capsules: jax.Array, kernel: jax.Array) -> jax.Array:
    # In float32 whatever the compute dtype, whose few digits would let scores tie.
    return euclidean_norm(class_capsules(capsules.astype(at_least_float32(capsules)), kernel))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncapNetConfig(NetworkConfig):
    """The architecture of an EncapNet, and how it is computed. The defaults are the published EncapNet for CIFAR-10.

    Attributes:
        widths: Number of channels of each of the four modules. Modules after the first halve height and width.
        stem_width: Number of channels of the first convolution.
        groups: Number of capsules at each position of a map.
        aide: Whether the convolutions of modules 3 and 4 have an aide branch beside the master branch.
        agreement: Whether the training loss has a term for how far capsules of modules 3 and 4 disagree with the
          capsules that they are computed from.
        image_size: Height and width of the images, in pixels. It is fixed because the classifier has a weight for each
          position.
        num_classes: Number of classes; 0 leaves the classifier out, and the network returns its last capsules.
        in_channels: Number of image channels.
        dtype: Compute dtype of convolutions and matrix products, see ``NetworkConfig``. Parameters, batch statistics,
          lengths of capsules and the classifier stay float32.
        conv_method: How convolutions are computed, see ``SEANetConfig``.
        batch_groups: Number of parts of a training batch that are each normalized by their own statistics. The
          agreement term is computed over the whole batch nevertheless.

    Raises:
        InputError: If a field, or a combination of fields, cannot be built.
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
    """EncapNet's convolution without an aide: a convolution in groups, each capsule from the one of its own group.

    Args:
        in_channels: Number of channels of the input ``[N, H, W, in_channels]``.
        out_channels: Number of channels of the output ``[N, ceil(H / stride), ceil(W / stride), out_channels]``.
        kernel_size: Side length of the kernel, an odd number.
        stride: Step in both spatial directions.
        config: The config of the whole network.
        rngs: Source of the initial parameters.
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
        """Maps ``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``."""
        return self.conv(x)


class MasterAideConv(nnx.Module):
    """EncapNet's convolution with a master branch and an aide branch, which are combined by ``route``.

    The aide sees all capsules and a wider field. Arguments and shapes are those of ``MasterConv``.
    """

    # The names of convolutions, each with its normalization, that seanet_jax.models.fold can fold.
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
        """Maps ``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``."""
        master = _squash(jax.nn.relu(self.master_bn(self.master(x))), groups=self.groups)
        aide = _squash(jax.nn.relu(self.aide_bn(self.aide(x))), groups=self.groups)
        return _route(master, aide, self.master_coefficients(master), self.aide_coefficients(aide))


class CapsuleBlock(nnx.Module):
    """A residual block of one or more core convolutions, each followed by normalization, ReLU and squash.

    Each core is computed as ``core - BN - ReLU - squash``, except the last, to which the block's input is added:
    ``core - add shortcut - BN - ReLU - squash``. If the shape changes, the shortcut is a 3x3 convolution of all
    channels with the block's stride.

    Args:
        in_channels: Number of channels of the input ``[N, H, W, in_channels]``.
        out_channels: Number of channels of the output ``[N, ceil(H / stride), ceil(W / stride), out_channels]``.
        kernel_size: Side length of the kernels of the core convolutions.
        stride: Stride of the first core convolution and of the shortcut.
        cores: Number of core convolutions.
        aide: Whether each core convolution has an aide branch.
        config: The config of the whole network.
        rngs: Source of the initial parameters.
    """

    shortcut: Conv | None = nnx.data()

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
        """Maps ``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), out_channels]``."""
        return self.maps(x)[-1]

    def maps(self, x: jax.Array) -> list[jax.Array]:
        """Returns the map after each core convolution and its squash. All have the output's shape; the last is it."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        found = []
        for position, (core, norm) in enumerate(zip(self.cores, self.norms, strict=True), start=1):
            x = core(x)
            if position == len(self.cores):
                x = x + shortcut
            x = _squash(jax.nn.relu(norm(x)), groups=self.groups)
            found.append(x)
        return found


class CapsuleModule(nnx.Module):
    """A main block of one 3x3 core convolution, which changes the shape, and a sub block of two 1x1 ones.

    Args:
        in_channels: Number of channels of the input ``[N, H, W, in_channels]``.
        index: Position of the module in the config, from 0.
        config: The config of the whole network.
        rngs: Source of the initial parameters.
    """

    def __init__(self, in_channels: int, index: int, config: EncapNetConfig, *, rngs: nnx.Rngs):
        width, stride = config.widths[index], _STRIDES[index]
        aide = config.aide and index in _LAST_TWO
        self.main = CapsuleBlock(in_channels, width, 3, stride=stride, cores=1, aide=aide, config=config, rngs=rngs)
        self.sub = CapsuleBlock(width, width, 1, stride=1, cores=2, aide=aide, config=config, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[N, H, W, in_channels]`` to ``[N, ceil(H / stride), ceil(W / stride), width]``."""
        return self.maps(x)[-1]

    def maps(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the output of the main block, of the first half of the sub block, and of the module.

        All three have the output's shape.
        """
        main = self.main(x)
        half, whole = self.sub.maps(main)
        return main, half, whole


class Agreement(nnx.Module):
    """Measures how far capsules disagree with those they are computed from, by optimal transport over a batch.

    A transposed convolution brings the later map to the shape of the earlier one. One critic embeds both maps, and
    ``transport_divergence`` (ten rounds, regularization 1) compares the embeddings.

    The critic normalizes each map by its own batch statistics. Its running averages are updated by the later map first,
    then by the earlier one; nothing uses them.

    Args:
        late_channels: Number of channels of the later map.
        early_channels: Number of channels of the earlier map. The critic has a quarter of them.
        stride: Ratio of the earlier map's height and width to the later one's.
        config: The config of the whole network.
        rngs: Source of the initial parameters.
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
        """Returns the disagreement of two maps, a float32 scalar.

        Args:
            late: The later map, ``[N, h, w, late_channels]``.
            early: The earlier map, ``[N, stride * h, stride * w, early_channels]``.
        """
        late = jax.nn.relu(self.back_bn(self.back(late)))
        return _transport_divergence(self._embed(late), self._embed(early))

    def _embed(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.critic1_bn(self.critic1(x)))
        x = jax.nn.relu(self.critic2_bn(self.critic2(x)))
        return x.reshape(x.shape[0], -1)


class CapsuleClassifier(nnx.Module):
    """Computes one capsule for each class, whose length is the class's score; see ``class_capsules``.

    Args:
        capsules: Number of capsules in the input ``[N, capsules, size]``.
        size: Number of components of a capsule.
        num_classes: Number of classes.
        rngs: Source of the initial parameters, which are uniform(+-1/sqrt(capsules)).

    Raises:
        InputError: If the sizes are too large for memory.
    """

    def __init__(self, capsules: int, size: int, num_classes: int, *, rngs: nnx.Rngs):
        shape = (size, capsules, num_classes)
        check_array_size("CapsuleClassifier", shape)
        bound = capsules**-0.5
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))

    def __call__(self, capsules: jax.Array) -> jax.Array:
        """Maps ``[N, capsules, size]`` to scores ``[N, num_classes]`` from 0 to 1, in float32."""
        return _class_lengths(capsules, self.kernel[...])


class EncapNet(Network):
    """EncapNet: a stem, four modules of capsules, and a classifier with one capsule for each class.

    Args:
        config: The architecture; the published EncapNet for CIFAR-10 by default.
        rngs: Source of the initial parameters, e.g. ``nnx.Rngs(0)``.

    Attributes:
        config: The architecture.
        classifier: The capsule classifier; None if the config has no classes.
        num_features: Number of components of all the last capsules together, which the classifier sees.
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
    agreement3: Agreement | None = nnx.data()
    agreement4: Agreement | None = nnx.data()

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
        """Classifies normalized images.

        Args:
            x: Images ``[N, image_size, image_size, in_channels]``, floating point, already normalized.

        Returns:
            Scores ``[N, num_classes]`` in float32, which are the lengths of the classes' capsules, from 0 to 1. Without
            a classifier, the last capsules ``[N, num_features]``.

        Raises:
            InputError: If x is not a batch of floating-point images with the config's size and channels.
        """
        return self.classify_maps(self._maps(x)[-1][-1])

    def classify_maps(self, maps: jax.Array) -> jax.Array:
        """Returns the scores that follow from the output of the last module; see ``Network.classify_maps``."""
        capsules = flatten_capsules(maps, self.config.groups)
        if self.classifier is None:
            return capsules.reshape(maps.shape[0], -1).astype(jnp.float32)
        return self.classifier(capsules)

    def training_scores(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the scores, and the agreement term that a training step adds to their mean loss.

        If the config asks for agreement, the term is the sum of two disagreements: in module 3, between the output of
        its main block and its own output; in module 4, between its input and the map after the first convolution of its
        sub block. Otherwise it is zero.

        Args:
            x: Images, as for a call.

        Raises:
            InputError: If x is not a batch of floating-point images with the config's size and channels.
        """
        maps = self._maps(x)
        scores, agreement = self.classify_maps(maps[-1][-1]), no_term()
        if self.agreement3 is not None and self.agreement4 is not None:
            (main, _, third), (_, half, _) = maps[-2:]
            agreement = self.agreement3(third, main) + self.agreement4(half, third)
        return scores, agreement

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the feature maps on the way to the scores, in order.

        Args:
            x: Images, as for a call.

        Returns:
            A dict of ``stem`` and ``module1`` to ``module4``, maps ``[N, h, w, channels]`` in the compute dtype, and
            ``capsules``, the last map's capsules ``[N, groups * h * w, size]``, which the classifier sees.

        Raises:
            InputError: If x is not a batch of floating-point images with the config's size and channels.
        """
        stem, *modules = (maps[-1] for maps in self._maps(x))
        found = {"stem": stem} | {f"module{number}": x for number, x in enumerate(modules, start=1)}
        return found | {"capsules": flatten_capsules(modules[-1], self.config.groups)}

    def _maps(self, x: jax.Array) -> list[tuple[jax.Array, ...]]:
        """Returns the maps of the stem and of each module; the last map of each is the next one's input."""
        self._check_images(x)
        size = self.config.image_size
        if x.shape[1:3] != (size, size):
            raise InputError(f"the images are {x.shape[1]}x{x.shape[2]} pixels; the network is for {size}x{size}")
        x = jax.nn.relu(self.stem_bn(self.stem(x.astype(self.config.dtype))))
        found: list[tuple[jax.Array, ...]] = [(x,)]
        for module in self.modules:
            found.append(module.maps(found[-1][-1]))
        return found


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
    """Returns a convolution with a bias, initialized as all convolutions of the published network are."""
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
