"""The base classes of all networks: their configs, their scores, and their weights in a folder."""

import abc
import dataclasses
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from seanet_jax.errors import MOST_VALUES, InputError, is_integer, plain, store_plain
from seanet_jax.image_spec import ImageSpec
from seanet_jax.json_files import check_fields, written_by
from seanet_jax.models import weights
from seanet_jax.models.scores import LOGITS, Scores
from seanet_jax.paths import UserPath, user_path
from seanet_jax.printable import printable_list

ComputeDtype = Literal["float32", "bfloat16"]
# The methods of ``conv2d`` that can compute every convolution of a network. Winograd's needs certain kernels and sizes.
NetworkConvMethod = Literal["auto", "lax", "patches"]


def dtype_name(dtype: Any) -> Any:
    """Returns the name of a compute dtype, for example "bfloat16" for ``jnp.bfloat16``.

    A value that is no compute dtype is returned unchanged, so that the check of a config's fields can name it.
    """
    if dtype is None or isinstance(dtype, str):  # NumPy takes None for float64, and many strings for a dtype
        return dtype
    try:
        name = jnp.dtype(dtype).name
    except (TypeError, ValueError):
        return dtype
    return name if name in get_args(ComputeDtype) else dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The fields that the configs of all networks have.

    Attributes:
        num_classes: Number of classes; 0 leaves the classifier out.
        in_channels: Number of image channels.
        dtype: Compute dtype of convolutions and matrix products, ``jnp.float32`` or ``jnp.bfloat16`` or their names. It
          is kept as a name, as in JSON.
        conv_method: How convolutions are computed, see ``seanet_jax.layers.functional.conv2d``.
        batch_groups: Number of parts of a training batch that are each normalized by their own statistics.

    Raises:
        InputError: If a field has a value that cannot be built.
    """

    # The meaning of the scores, which decides the loss and the probabilities.
    scores: ClassVar[Scores] = LOGITS

    num_classes: int = 10
    in_channels: int = 3
    dtype: DTypeLike = "float32"
    conv_method: NetworkConvMethod = "auto"
    batch_groups: int = 1

    def __post_init__(self) -> None:
        store_plain(self)
        object.__setattr__(self, "dtype", dtype_name(self.dtype))  # the dataclass is frozen
        self._check_positive("in_channels", "batch_groups")
        if not is_integer(self.num_classes, minimum=0):
            shown = reprlib.repr(self.num_classes)
            raise InputError(f"num_classes is {shown}; it must be a positive integer, or 0 for no classifier")
        self._check_size("num_classes", self.num_classes)
        self._check_choice("dtype", get_args(ComputeDtype))
        self._check_choice("conv_method", get_args(NetworkConvMethod))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], where: str, version: str | None = None) -> Self:
        """Returns the config whose fields a JSON file holds.

        Args:
            fields: The fields by name; lists stand for tuples.
            where: Name of the file, for the error message.
            version: The version of seanet_jax that wrote the file; None if the file does not say.

        Raises:
            InputError: If there is no such field, or the config cannot be built.
        """
        check_fields(fields, [field.name for field in dataclasses.fields(cls)], where=where, version=version)
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in fields.items()}
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}{written_by(version)}") from None

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if not is_integer(getattr(self, name), minimum=1):
                raise InputError(f"{name} is {reprlib.repr(getattr(self, name))}; it must be a positive integer")
            self._check_size(name, getattr(self, name))

    def _check_positive_tuple(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, tuple) or not value or not all(is_integer(v, minimum=1) for v in value):
            raise InputError(f"{name} is {reprlib.repr(value)}; it must be a non-empty tuple of positive integers")
        self._check_size(name, max(value))

    def _check_size(self, name: str, value: int) -> None:
        if value > MOST_VALUES:
            raise InputError(f"{name} is more than {MOST_VALUES:,}; give a smaller size")

    def _check_flag(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise InputError(f"{name} is {reprlib.repr(getattr(self, name))}; it must be True or False")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if (value := getattr(self, name)) not in choices:
            raise InputError(f"{name} is {reprlib.repr(value)}; it must be one of {', '.join(choices)}")


class Network(nnx.Module, abc.ABC):
    """A network that is built from a config.

    A new family of networks is a subclass that is registered with ``seanet_jax.models.register_family``.

    Attributes:
        config: The architecture, and how it is computed.
        classifier: The module that maps features to scores; None if the config has no classes. Another module can be
          assigned, which gives a backbone a classifier.
        num_features: Number of features of an image, the size of the classifier's input.
    """

    # The family's name, which config.json holds in a folder of weights.
    model_type: ClassVar[str]
    config_class: ClassVar[type[NetworkConfig]]
    # The fields of TrainConfig in which the family was published with another recipe than the defaults.
    recipe: ClassVar[Mapping[str, Any]] = {}

    config: NetworkConfig
    classifier: nnx.Module | None = nnx.data()
    num_features: int

    @abc.abstractmethod
    def __init__(self, config: Any = None, *, rngs: nnx.Rngs): ...

    @abc.abstractmethod
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the scores of normalized images, or their features if there is no classifier.

        Args:
            x: Images ``[N, H, W, in_channels]``, floating point, already normalized.

        Returns:
            Scores ``[N, num_classes]`` in float32.

        Raises:
            InputError: If x is not a batch of such images.
        """

    @abc.abstractmethod
    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the intermediate feature maps by name, from the first to the classifier's input.

        Args:
            x: Images, as for a call.

        Raises:
            InputError: If x is not a batch of such images.
        """

    def classify_maps(self, maps: jax.Array) -> jax.Array:
        """Returns the scores that follow from the last maps, of which Grad-CAM takes the gradient.

        A family need not override this. Its networks then have no Grad-CAM.

        Args:
            maps: The last entry of ``features`` that is maps, ``[N, h, w, channels]``.

        Returns:
            What a call returns.

        Raises:
            NotImplementedError: If the family does not override this.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def new_classifier(self, rngs: nnx.Rngs) -> nnx.Module | None:
        """Returns a newly initialized classifier for ``config.num_classes``; None if that is 0.

        Args:
            rngs: Source of the initial parameters.
        """

    @classmethod
    def repeated_arrays(cls, config: Any) -> Iterable[str]:
        """Returns the names of some arrays of a network, at least one of each part of which a config sets the number.

        A file is checked for them before the network is built. A family whose configs do not set how many parts a
        network has need not override this.

        Args:
            config: A config of this family.
        """
        return ()

    def training_scores(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the scores, and a term that a training step adds to their mean loss.

        Args:
            x: Images, as for a call.

        Returns:
            The scores, as a call returns them, and a scalar, which is zero unless a network overrides this.

        Raises:
            InputError: If x is not a batch of such images.
        """
        return self(x), no_term()

    def _check_images(self, x: jax.Array) -> None:
        channels = self.config.in_channels
        if x.ndim != 4 or x.shape[-1] != channels or 0 in x.shape:
            raise InputError(f"the images have shape {x.shape}; they must be [N, H, W, {channels}] and not empty")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise InputError(f"the images are {x.dtype}; they must be floating point, normalized from [0, 1] pixels")

    @classmethod
    def from_pretrained(
        cls,
        folder: UserPath,
        *,
        num_classes: int | None = None,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike = "float32",
        conv_method: NetworkConvMethod = "auto",
    ) -> Self:
        """Builds a network from a folder of ``model.safetensors`` and ``config.json``.

        Args:
            folder: Folder written by ``save_pretrained`` or ``seanet convert``, or the name of a network that comes
              with the package.
            num_classes: None, or the saved network's number of classes, keeps the classifier; 0 leaves it out, which
              makes the network a backbone; another number replaces it by a new one of that size.
            rngs: Source of a new classifier's parameters. If it is given together with a number of classes, the
              classifier is drawn anew, even one of the same size.
            dtype: Compute dtype, see the config.
            conv_method: How convolutions are computed, see the config.

        Returns:
            The network, in evaluation mode.

        Raises:
            InputError: If the folder holds no such files or another family's network, if the files are damaged or do
              not fit together, or if a new classifier is requested without ``rngs``.
        """
        return cls.from_saved(
            weights.read(folder), num_classes=num_classes, rngs=rngs, dtype=dtype, conv_method=conv_method
        )

    @classmethod
    def from_saved(
        cls,
        saved: weights.Saved,
        *,
        num_classes: int | None = None,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike = "float32",
        conv_method: NetworkConvMethod = "auto",
    ) -> Self:
        """Builds a network from what ``weights.read`` returned; see ``from_pretrained``."""
        folder = saved.folder
        if saved.model_type != cls.model_type:
            raise InputError(
                f"{folder} holds a network of the type {printable_list([saved.model_type])}, not {cls.model_type}; "
                "seanet_jax.models.from_pretrained reads either"
            )
        config = cls.config_class.from_fields(saved.fields, str(folder / weights.CONFIG), saved.version)
        config = dataclasses.replace(config, dtype=dtype, conv_method=conv_method)
        arrays, where = saved.arrays, str(folder / weights.WEIGHTS)
        # Building a network takes time for each of its parts, and a damaged config may ask for millions.
        for name in cls.repeated_arrays(config):
            if name not in arrays:
                raise InputError(f"{where} does not fit the network: {name} is missing")
        # Only shapes: initial values would be computed in vain, since the file's replace them.
        model = nnx.eval_shape(lambda: cls(config, rngs=nnx.Rngs(0)))
        weights.set_arrays(model, arrays, where)
        num_classes = plain(num_classes)
        if num_classes is not None and (num_classes != config.num_classes or rngs is not None):
            if num_classes and rngs is None:
                raise InputError("from_pretrained: a new classifier is drawn at random; give rngs, e.g. nnx.Rngs(0)")
            model.config = dataclasses.replace(config, num_classes=num_classes)
            model.classifier = model.new_classifier(rngs or nnx.Rngs(0))
        model.eval()
        return model

    def save_pretrained(
        self, folder: UserPath, images: ImageSpec | None = None, *, dtype: weights.StoredDtype = "float32"
    ) -> None:
        """Writes the weights as ``model.safetensors`` and the config as ``config.json``, for ``from_pretrained``.

        Args:
            folder: Folder to write, created if it does not exist. Files of these names in it are replaced.
            images: How images are normalized and what the classes are called. ``seanet predict`` and ``seanet export``
              need it; a backbone does without.
            dtype: Dtype of the file, "float32" or "float16". The latter halves the file and rounds the weights.

        Raises:
            InputError: If the folder holds a run, if the channels or classes of ``images`` are not the network's, if
              modules were replaced by others than ``from_pretrained`` builds, or if there is no such dtype or a weight
              is too large for it.
            OSError: If the files cannot be written.
        """
        # A classifier that was assigned, or removed, after the network was built.
        config = dataclasses.replace(self.config, num_classes=self._num_classes())
        expected = nnx.eval_shape(lambda: type(self)(config, rngs=nnx.Rngs(0)))
        weights.check_arrays(
            weights.to_arrays(self),
            weights.shapes(expected),
            "save_pretrained: the model has other modules than its config builds, so it",
        )
        sizes = config.in_channels, config.num_classes
        if images is not None and (images.channels, images.num_classes) != sizes:
            raise InputError(
                f"save_pretrained: images has {images.channels} channels and {images.num_classes} classes; "
                f"the network has {sizes[0]} and {sizes[1]}"
            )
        weights.write_folder(user_path(folder), self, config, images, dtype)

    def _num_classes(self) -> int:
        """Returns the number of classes of the classifier, the last axis of its kernel."""
        if self.classifier is None:
            return 0
        kernel = getattr(self.classifier, "kernel", None)
        return self.config.num_classes if kernel is None else kernel.shape[-1]


@jax.jit
def no_term() -> jax.Array:
    """Returns zero, the term of a network whose loss has no other than that of its scores."""
    return jnp.zeros((), jnp.float32)


def split_model(model: Network) -> tuple[nnx.GraphDef, Any, Any]:
    """Splits a model into its structure, its parameters and its batch statistics.

    Parameters and batch statistics are nested dicts of arrays, which JAX's transformations take.
    """
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
