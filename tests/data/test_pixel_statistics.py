import numpy as np
import pytest

from seanet_jax.data.pixel_statistics import mean_and_std


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_are_those_of_numpy(channels):
    images = np.random.default_rng(0).integers(
        0, 256, (1500, 3, 5, channels), np.uint8
    )  # more than are counted at once
    mean, std = mean_and_std(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2), dtype=np.float64) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, images.std((0, 1, 2), dtype=np.float64) / 255, rtol=1e-12)


def test_the_order_of_the_images_does_not_matter():
    images = np.random.default_rng(1).integers(0, 256, (999, 4, 4, 3), np.uint8)
    assert mean_and_std(images) == mean_and_std(images[::-1])


def test_images_of_one_color_can_be_divided_by_the_deviation():
    assert mean_and_std(np.full((2, 3, 3, 1), 51, np.uint8)) == ((0.2,), (1.0,))
