"""Rectangles in images, one per image, drawn on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Boxes(NamedTuple):
    """One rectangle per image. It has the rows ``top <= y < bottom`` and the columns ``left <= x < right``.

    Attributes:
        top: First row, int32 ``[N]``.
        bottom: Row after the last one, int32 ``[N]``.
        left: First column, int32 ``[N]``.
        right: Column after the last one, int32 ``[N]``.
    """

    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array

    def area(self) -> jax.Array:
        """Returns the number of pixels in each box, int32 ``[N]``."""
        return (self.bottom - self.top) * (self.right - self.left)

    def mask(self, height: int, width: int) -> jax.Array:
        """Returns whether each pixel is in the box, bool ``[N, H, W, 1]``.

        Args:
            height: Height of the images, in pixels.
            width: Width of the images, in pixels.
        """
        rows, columns = jnp.arange(height, dtype=jnp.int32)[None], jnp.arange(width, dtype=jnp.int32)[None]
        inside_rows = (rows >= self.top[:, None]) & (rows < self.bottom[:, None])
        inside_columns = (columns >= self.left[:, None]) & (columns < self.right[:, None])
        return inside_rows[:, :, None, None] & inside_columns[:, None, :, None]


def draw_centered_boxes(
    key: jax.Array, heights: jax.Array, widths: jax.Array, *, image_height: int, image_width: int
) -> Boxes:
    """Draws boxes whose centers are uniform over the pixels of an image, and clips them at the image's border.

    Args:
        key: Random key. It determines the centers.
        heights: Heights of the boxes before they are clipped, int32 ``[N]``.
        widths: Widths of the boxes before they are clipped, int32 ``[N]``.
        image_height: Height of the images, in pixels.
        image_width: Width of the images, in pixels.
    """

    def interval(key: jax.Array, sides: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
        center = jax.random.randint(key, sides.shape, 0, length, jnp.int32)
        start = center - sides // 2
        return jnp.clip(start, 0, length), jnp.clip(start + sides, 0, length)

    row_key, column_key = jax.random.split(key)
    return Boxes(*interval(row_key, heights, image_height), *interval(column_key, widths, image_width))
