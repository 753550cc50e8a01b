"""Pictures of maps have the colors of their values."""

import io

import matplotlib as mpl
import numpy as np
from PIL import Image

from seanet_jax import style
from seanet_jax.inference.inspection_pictures import (
    excitation_figure,
    gradient,
    map_picture,
    plain_picture,
    seen_picture,
)

DARK, MIDDLE, LIGHT = (mpl.colormaps["viridis"]([share], bytes=True)[0, :3].tolist() for share in (0.0, 0.5, 1.0))


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_map_has_a_pixel_for_each_value_on_its_scale():
    found = pixels(map_picture(np.array([[-1.0, 1.0, 3.0], [9.0, -9.0, 1.0]]), -1, 3))
    np.testing.assert_array_equal(found, [[DARK, MIDDLE, LIGHT], [LIGHT, DARK, MIDDLE]])
    np.testing.assert_array_equal(pixels(map_picture(np.zeros((1, 2)), 0, 0)), [[DARK, DARK]])


def test_a_large_map_is_averaged():
    values = np.indices((256, 512)).sum(0) % 2 * 2.0  # every average of two pixels is 1
    found = pixels(map_picture(values, 0, 2))
    assert found.shape == (64, 128, 3) and (found == MIDDLE).all()


def test_a_class_is_drawn_on_the_image_in_gray():
    picture = Image.new("RGB", (2, 1), (255, 0, 0))
    found = pixels(seen_picture(picture, np.array([[0.0, 4.0]]))).astype(float)
    assert found.shape == (80, 160, 3)
    # 76 is the luma of red.
    np.testing.assert_allclose(found[0, 0], 0.4 * 76 + 0.6 * np.array(DARK), atol=1)
    np.testing.assert_allclose(found[0, -1], 0.4 * 76 + 0.6 * np.array(LIGHT), atol=1)
    nothing = pixels(seen_picture(picture, np.zeros((2, 2))))
    np.testing.assert_allclose(nothing[40, 80], 0.4 * 76 + 0.6 * np.array(DARK), atol=1)


def test_a_small_image_is_enlarged_and_keeps_its_pixels():
    image = np.random.RandomState(0).randint(0, 256, (2, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pixels(plain_picture(Image.fromarray(image))), image.repeat(40, 0).repeat(40, 1))


def test_the_gradient_goes_from_the_lowest_to_the_highest_color():
    assert gradient().startswith(f"linear-gradient(to right, #{bytes(DARK).hex()}, ")
    assert gradient().endswith(f", #{bytes(LIGHT).hex()})")


def test_weights_are_drawn_as_falling_lines_of_which_a_few_are_named():
    random = np.random.default_rng(0)
    weights = {f"block {number}": random.uniform(size=5) for number in range(1, 9)}
    made = excitation_figure(weights)
    (axes,) = made.axes
    for line, values in zip(axes.lines, weights.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), sorted(values, reverse=True))
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == ["block 1", "block 8"]
    assert style.svg(made).startswith(b"<?xml")
