"""Draws feature maps, maps of classes on an image, and the weights of squeeze-excitation."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from seanet_jax import style
from seanet_jax.inference.contact_sheet import fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Perceptually uniform, and rising in lightness, so that it reads in gray too.
_COLORS = "viridis"
# The longer side of the picture of a map, in pixels. Larger maps are averaged down to it.
_SIDE = 128
# The share of the colors in a picture that is below them.
_OPACITY = 0.6
# The legend of a panel names more lines than these by the first and the last.
_MOST_NAMED = 6


def gradient() -> str:
    """Returns the colors of maps from low to high, as CSS writes a gradient."""
    colors = _colored(np.linspace(0, 1, 9)[None])[0]
    return f"linear-gradient(to right, {', '.join('#' + bytes(color).hex() for color in colors)})"


def map_picture(values: np.ndarray, low: float, high: float) -> bytes:
    """Draws a map, a pixel for each value.

    Args:
        values: The map, ``[H, W]``.
        low: The value of the darkest color.
        high: The value of the lightest color.

    Returns:
        The bytes of a PNG file.
    """
    image = Image.fromarray(np.asarray(values, np.float32))
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    return _png(Image.fromarray(_colored(_scaled(np.asarray(image), low, high))))


def seen_picture(picture: Image.Image, values: np.ndarray) -> bytes:
    """Draws a map of a class on the image in gray. The lightest color is the largest value.

    Args:
        picture: The image.
        values: The map from 0, ``[h, w]``. It is enlarged smoothly to the image.

    Returns:
        The bytes of a PNG file.
    """
    shown = fitted(picture)
    large = Image.fromarray(np.asarray(values, np.float32)).resize(shown.size, Image.Resampling.BILINEAR)
    colors = Image.fromarray(_colored(_scaled(np.asarray(large), 0, float(values.max()))))
    return _png(Image.blend(shown.convert("L").convert("RGB"), colors, _OPACITY))


def plain_picture(picture: Image.Image) -> bytes:
    """Returns an image, enlarged if it is small, as the bytes of a PNG file."""
    return _png(fitted(picture))


def excitation_figure(weights: Mapping[str, np.ndarray]) -> "Figure":
    """Draws the weights of the channels in the squeeze-excitations of a stage, a falling line for each.

    Args:
        weights: The weights ``[C]`` by the name of the block.
    """
    import matplotlib as mpl

    made, (axes,) = style.figure(width=style.COLUMN, height=2.4)
    # Without the lightest colors, which do not show on white.
    colors = mpl.colormaps[_COLORS](np.linspace(0, 0.85, len(weights)))
    for number, ((name, values), color) in enumerate(zip(weights.items(), colors, strict=True)):
        named = len(weights) <= _MOST_NAMED or number in (0, len(weights) - 1)
        axes.plot(np.sort(values)[::-1], color=color, label=style.name(name) if named else None)
    axes.set(ylim=(0, 1), xlim=(0, None))
    style.label(axes, x="channels, largest weight first", y="weight")
    made.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return made


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def _colored(shares: np.ndarray) -> np.ndarray:
    """Returns the colors of numbers from 0 to 1, uint8 RGB."""
    import matplotlib as mpl

    return mpl.colormaps[_COLORS](np.clip(shares, 0, 1), bytes=True)[..., :3]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
