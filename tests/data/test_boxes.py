import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seanet_jax.data.boxes import Boxes, draw_centered_boxes

draw = jax.jit(draw_centered_boxes, static_argnames=("image_height", "image_width"))
image_sizes = st.sampled_from([(8, 8), (13, 40), (96, 9), (32, 32)])
sides = st.lists(st.integers(0, 200), min_size=5, max_size=5).map(lambda values: np.array(values, np.int32))


def test_the_mask_has_the_pixels_from_top_to_bottom_and_from_left_to_right():
    boxes = Boxes(*(np.array(values, np.int32) for values in ([0, 2, 1, 3], [5, 4, 1, 5], [0, 1, 0, 6], [7, 6, 7, 7])))
    expected = np.zeros((4, 5, 7, 1), bool)
    for image, (top, bottom, left, right) in enumerate(zip(*boxes, strict=True)):
        for y in range(top, bottom):
            for x in range(left, right):
                expected[image, y, x] = True
    np.testing.assert_array_equal(boxes.mask(5, 7), expected)
    np.testing.assert_array_equal(boxes.area(), [35, 10, 0, 2])


@given(st.integers(0, 2**32 - 1), image_sizes, sides, sides)
def test_a_box_never_leaves_the_image_and_is_as_large_as_asked_unless_it_is_clipped(seed, size, heights, widths):
    height, width = size
    top, bottom, left, right = draw(jax.random.key(seed), heights, widths, image_height=height, image_width=width)
    for start, stop, length, side in ((top, bottom, height, heights), (left, right, width, widths)):
        assert start.dtype == stop.dtype == jnp.int32
        assert ((start >= 0) & (start <= stop) & (stop <= length)).all()
        assert ((stop - start == side) | (start == 0) | (stop == length)).all()
        # The center is in the image, so that at most half of a box is outside.
        assert (stop - start >= np.minimum((side + 1) // 2, length)).all()


@pytest.mark.parametrize("side", [1, 4, 5])
def test_the_center_is_uniform_over_the_pixels(side):
    length = np.full(20_000, side, np.int32)
    top, bottom, left, right = map(np.asarray, draw(jax.random.key(0), length, length, image_height=9, image_width=6))
    rows = np.where(top > 0, top + side // 2, bottom - side + side // 2)
    columns = np.where(left > 0, left + side // 2, right - side + side // 2)
    counts = np.zeros((9, 6), int)
    np.add.at(counts, (rows, columns), 1)
    mean = 20_000 / counts.size
    assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)
