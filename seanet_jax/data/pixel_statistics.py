"""The mean and the standard deviation of pixels, from exact sums."""

import math

import numpy as np

# Number of images that are counted at once, because counting takes eight bytes for each pixel.
_BATCH = 1024


def mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes the mean and the standard deviation of each channel, scaled to [0, 1].

    Pixels are counted by value, so that no rounding depends on the order of the images.

    Args:
        images: uint8 ``[N, H, W, C]``, with at least one pixel.

    Returns:
        The means and the standard deviations, one per channel. The deviation of a channel whose pixels are all equal is
        given as 1, because images are divided by it.
    """
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), _BATCH):
            counts += np.bincount(images[start : start + _BATCH, ..., channel].ravel(), minlength=256)
        # Python's integers do not overflow.
        by_value = list(enumerate(counts.tolist()))
        total = sum(count for _, count in by_value)
        first = sum(value * count for value, count in by_value)
        second = sum(value**2 * count for value, count in by_value)
        means.append(first / (255 * total))
        deviations.append(math.sqrt(total * second - first**2) / (255 * total) or 1.0)
    return tuple(means), tuple(deviations)
