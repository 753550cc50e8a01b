"""The images a network takes and the classes it predicts."""

import dataclasses
import reprlib
from typing import Any

import jax
import jax.numpy as jnp

from seanet_jax.errors import InputError, check_array_size, is_integer, is_number, store_plain
from seanet_jax.json_files import check_fields


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """The size, channels and normalization of images, and the names of their classes.

    A data set, a run, a folder of pretrained weights and an exported artifact all carry one, so that images are
    prepared for prediction exactly as they were for training.

    Attributes:
        height: Height of the training images, in pixels.
        width: Width of the training images, in pixels.
        mean: Per-channel mean of the training pixels, scaled to [0, 1].
        std: Per-channel standard deviation of the training pixels, scaled to [0, 1].
        class_names: One name per class, in the order of the labels and logits.

    Raises:
        InputError: If a field contradicts this description.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        store_plain(self)
        for name in ("height", "width"):
            self._check(name, "a positive integer", is_integer(getattr(self, name), minimum=1))
        for name in ("mean", "std"):
            values = getattr(self, name)
            self._check(name, "a tuple of finite numbers", isinstance(values, tuple) and all(map(is_number, values)))
        self._check("std", "a tuple of positive numbers", min(self.std, default=1) > 0)
        self._check("mean", "a tuple of at least one number", len(self.mean) > 0)
        self._check("std", f"a tuple of {len(self.mean)} numbers, like mean", len(self.std) == len(self.mean))
        check_array_size("ImageSpec", (self.height, self.width, self.channels))
        names = self.class_names
        are_names = isinstance(names, tuple) and all(is_name(name) for name in names)
        self._check("class_names", "a tuple of non-empty names of Unicode text", are_names and len(names) > 0)

    def _check(self, name: str, allowed: str, holds: bool) -> None:
        if not holds:
            raise InputError(f"ImageSpec: {name} is {reprlib.repr(getattr(self, name))}; it must be {allowed}")

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.mean)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def mean_pixel(self) -> tuple[int, ...]:
        """The mean color of the training images, one value in 0..255 per channel, rounded."""
        return tuple(min(max(round(value * 255), 0), 255) for value in self.mean)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Computes ``(pixel / 255 - mean) / std`` per channel.

        Args:
            images: uint8 ``[N, H, W, C]``. The height and width may differ from those of the training images.

        Returns:
            float32 ``[N, H, W, C]``.

        Raises:
            InputError: If the images are not uint8 ``[N, H, W, C]`` with as many channels as ``mean``.
        """
        if images.ndim != 4 or images.dtype != jnp.uint8:
            raise InputError(
                f"normalize: the images are {images.dtype} {images.shape}; they must be uint8 [N, H, W, C]"
            )
        if images.shape[-1] != self.channels:
            raise InputError(f"normalize: the images have {images.shape[-1]} channels; they must have {self.channels}")
        # Of the images' rank, as jax_numpy_rank_promotion="raise" demands.
        mean, std = (jnp.asarray([[[values]]], jnp.float32) for values in (self.mean, self.std))
        return (images.astype(jnp.float32) / 255 - mean) / std

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ImageSpec":
        """Reads back the values that ``to_json`` returned.

        Args:
            values: The fields by name; lists stand for tuples.

        Raises:
            TypeError: If a field is missing or unknown.
            InputError: If a field has an invalid value.
        """
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**fields)

    @classmethod
    def read(cls, values: dict[str, Any], *, where: str, remedy: str, version: str | None) -> "ImageSpec":
        """Reads back the values that ``to_json`` returned from a file that others may have changed.

        Args:
            values: The fields by name, as ``from_json`` takes them.
            where: Name of the file, for the error message.
            remedy: What the user can do about a damaged file, the end of the error's sentence.
            version: The version of seanet_jax that wrote the file; None if the file does not say.

        Raises:
            InputError: If a field is missing, unknown or invalid. The message names the file.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        check_fields(values, names, where=where, version=version)
        if missing := [name for name in names if name not in values]:
            raise InputError(f"{where} is damaged (images has no {', '.join(missing)}); {remedy}")
        try:
            return cls.from_json(values)
        except InputError as error:
            raise InputError(f"{where} is damaged ({error}); {remedy}") from None


def is_name(value: Any) -> bool:
    """Returns whether a value is a non-empty text that UTF-8 can encode.

    Strings of Python can have halves of characters.

    Args:
        value: What is given as the name of a class, or of a group of classes.
    """
    return isinstance(value, str) and bool(value) and not any("\ud800" <= c <= "\udfff" for c in value)
