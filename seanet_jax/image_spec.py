"""What a trained network's images are, and what its logits stand for."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seanet_jax.errors import InputError, is_integer


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """How images are made ready for a network, and the names of its classes.

    Attributes:
        height: of the images it was trained on, in pixels.
        width: likewise.
        mean: per channel, of pixels in [0, 1]; subtracted.
        std: per channel, likewise; divided by.
        class_names: one for each logit, in order.

    Raises:
        InputError: a field contradicts this description.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            self._demand(name, "a positive integer", is_integer(getattr(self, name), minimum=1))
        for name in ("mean", "std"):
            values = getattr(self, name)
            self._demand(name, "a tuple of finite numbers", isinstance(values, tuple) and all(map(_is_finite, values)))
        self._demand("std", "positive", min(self.std, default=1) > 0)
        self._demand("mean", f"of as many channels as std, {len(self.std)}", len(self.mean) == len(self.std) > 0)
        names = self.class_names
        are_names = isinstance(names, tuple) and all(isinstance(name, str) and name for name in names)
        self._demand("class_names", "a tuple of names", are_names and len(names) > 0)

    def _demand(self, name: str, allowed: str, holds: bool) -> None:
        if not holds:
            raise InputError(f"ImageSpec: {name} is {getattr(self, name)!r}; it must be {allowed}")

    @property
    def channels(self) -> int:
        """Of the images."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ImageSpec":
        """From ``to_json()``, read back.

        Raises:
            TypeError: a field is missing, or there is one too many.
            InputError: a field has a value that cannot be.
        """
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**fields)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """``(pixel / 255 - mean) / std`` per channel.

    Args:
        images: uint8 ``[N, H, W, C]``.
        mean: of each channel, of pixels in [0, 1].
        std: likewise.

    Returns:
        float32 ``[N, H, W, C]``.

    Raises:
        InputError: the images are not uint8, or mean and std are not one number for each channel.
    """
    if images.ndim != 4 or images.dtype != jnp.uint8:
        raise InputError(f"normalize: the images are {images.dtype} {images.shape}; they must be uint8 [N, H, W, C]")
    if not len(mean) == len(std) == images.shape[-1]:
        raise InputError(
            f"normalize: mean and std have {len(mean)} and {len(std)} numbers; they must have {images.shape[-1]} each"
        )
    return (images.astype(jnp.float32) / 255 - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
