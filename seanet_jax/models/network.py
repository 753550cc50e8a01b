"""What all networks share: fields of their configs, weights in a folder, scores and losses."""

import abc
import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from seanet_jax.errors import InputError, is_integer
from seanet_jax.image_spec import ImageSpec
from seanet_jax.models import weights
from seanet_jax.models.scores import LOGITS, Scores

ComputeDtype = Literal["float32", "bfloat16"]
# The methods of ``conv2d`` that suit every convolution of a network.
NetworkConvMethod = Literal["auto", "lax", "patches"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The fields that every network's config has; what they mean is said there.

    Raises:
        InputError: a field cannot be built.
    """

    scores: ClassVar[Scores] = LOGITS

    num_classes: int = 10
    in_channels: int = 3
    dtype: ComputeDtype = "float32"
    conv_method: NetworkConvMethod = "auto"
    batch_groups: int = 1

    def __post_init__(self) -> None:
        self._demand_positive("in_channels", "batch_groups")
        if not is_integer(self.num_classes, minimum=0):
            raise InputError(
                f"num_classes is {self.num_classes!r}; it must be a positive integer, or 0 for no classifier"
            )
        self._demand_known("dtype", get_args(ComputeDtype))
        self._demand_known("conv_method", get_args(NetworkConvMethod))

    def _demand_positive(self, *names: str) -> None:
        for name in names:
            if not is_integer(getattr(self, name), minimum=1):
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be a positive integer")

    def _demand_positive_tuple(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, tuple) or not value or not all(is_integer(v, minimum=1) for v in value):
            raise InputError(f"{name} is {value!r}; it must be a non-empty tuple of positive integers")

    def _demand_flag(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise InputError(f"{name} is {getattr(self, name)!r}; it must be True or False")

    def _demand_known(self, name: str, known: tuple[str, ...]) -> None:
        if getattr(self, name) not in known:
            raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")


class Network(nnx.Module, abc.ABC):
    """A network built from a config.

    Attributes:
        config: the architecture.
        classifier: from features to scores; None if the config has no classes.
    """

    # Of config.json in a folder of weights.
    model_type: ClassVar[str]
    config_class: ClassVar[type[NetworkConfig]]

    config: Any
    classifier: Any

    @abc.abstractmethod
    def __init__(self, config: Any = None, *, rngs: nnx.Rngs): ...

    @abc.abstractmethod
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores of normalised images."""

    @abc.abstractmethod
    def _new_classifier(self, rngs: nnx.Rngs) -> nnx.Module | None: ...

    def training_scores(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What a training step learns from.

        Args:
            x: as for a call.

        Returns:
            The scores, as a call gives them, and a scalar to be added to their mean loss; zero but where a network says
            otherwise.

        Raises:
            InputError: as for a call.
        """
        return self(x), jnp.zeros(())

    def _demand_images(self, x: jax.Array) -> None:
        channels = self.config.in_channels
        if x.ndim != 4 or x.shape[-1] != channels or 0 in x.shape:
            raise InputError(f"the images have shape {x.shape}; they must be [N, H, W, {channels}] and not empty")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise InputError(f"the images are {x.dtype}; they must be floating point, normalised from [0, 1] pixels")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        num_classes: int | None = None,
        rngs: nnx.Rngs | None = None,
        dtype: ComputeDtype = "float32",
        conv_method: NetworkConvMethod = "auto",
    ) -> Self:
        """A network with the weights of a folder of ``model.safetensors`` and ``config.json``.

        Args:
            folder: written by ``save_pretrained`` or ``seanet convert``.
            num_classes: None keeps the classifier; 0 leaves it out, for use as a backbone; another number puts a new
              one of that size in its place.
            rngs: source of a new classifier's parameters.
            dtype: see the config.
            conv_method: likewise.

        Returns:
            The network, in evaluation mode.

        Raises:
            InputError: the folder holds no such files or another kind of network, they are damaged or do not fit
              together, or a new classifier is asked for without ``rngs``.
        """
        folder = Path(folder)
        saved = weights.read_about(folder)
        if saved.model_type != cls.model_type:
            raise InputError(
                f"{folder} holds a network of the type {saved.model_type}, not {cls.model_type}; "
                "seanet_jax.models.from_pretrained reads either"
            )
        unknown = saved.fields.keys() - {field.name for field in dataclasses.fields(cls.config_class)}
        if unknown:
            raise InputError(f"{folder / weights.CONFIG} has fields that no network has: {', '.join(sorted(unknown))}")
        config = cls.config_class(**saved.fields, dtype=dtype, conv_method=conv_method)
        model = nnx.eval_shape(lambda: cls(config, rngs=nnx.Rngs(0)))
        weights.set_arrays(model, weights.read_arrays(folder), str(folder / weights.WEIGHTS))
        if num_classes is not None:
            if num_classes and rngs is None:
                raise InputError("from_pretrained: a new classifier is drawn at random; give rngs, e.g. nnx.Rngs(0)")
            model.config = dataclasses.replace(config, num_classes=num_classes)
            model.classifier = model._new_classifier(rngs or nnx.Rngs(0))
        model.eval()
        return model

    def save_pretrained(self, folder: str | os.PathLike[str], images: ImageSpec | None = None) -> None:
        """Writes the weights as ``model.safetensors`` and the config as ``config.json``, for ``from_pretrained``.

        Args:
            folder: created if it is not there; files of these names in it are replaced.
            images: how images are normalised and what the classes are called, for ``seanet_jax.commands.predict`` and
              ``seanet_jax.commands.export``; without it the folder is a backbone's.

        Raises:
            InputError: the folder holds a run, or ``images`` is of other channels or classes than the network.
            OSError: the files cannot be written.
        """
        if images is not None:
            ours, theirs = (
                (self.config.in_channels, self.config.num_classes),
                (images.channels, len(images.class_names)),
            )
            if ours != theirs:
                raise InputError(
                    f"save_pretrained: images has {theirs[0]} channels and {theirs[1]} classes; "
                    f"the network has {ours[0]} and {ours[1]}"
                )
        weights.write_folder(Path(folder), self, self.config, images)


def split_model(model: Network) -> tuple[nnx.GraphDef, Any, Any]:
    """Structure, parameters and batch statistics of a model, the last two as nested dicts."""
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
