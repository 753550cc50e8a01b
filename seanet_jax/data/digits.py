"""The 1,797 handwritten digits bundled with scikit-learn: a real data set that needs no download."""

from pathlib import Path

import numpy as np

from seanet_jax.data.dataset import Dataset
from seanet_jax.data.source import DatasetSource
from seanet_jax.image_spec import ImageSpec

_SIZE = 32  # pixels; the presets are made for images of CIFAR's size
_TEST_EVERY = 5

_IMAGES = ImageSpec(
    height=_SIZE,
    width=_SIZE,
    # images.mean() / 255 and images.std() / 255 of the training split below; the three channels are equal.
    mean=(0.3055,) * 3,
    std=(0.3232,) * 3,
    class_names=tuple("0123456789"),
)


def load_digits() -> Dataset:
    """Loads the digits, enlarged bilinearly from 8x8 to 32x32 pixels and repeated to three channels.

    Every fifth example of each class, in the order of scikit-learn's file, is a test example. This gives a fixed and
    stratified split of 1,438 training and 359 test images.

    Returns:
        The data set. Its `flip` is False, because a mirrored digit is not a digit.
    """
    from PIL import Image
    from sklearn import datasets

    bundle = datasets.load_digits()
    labels = bundle.target.astype(np.int32)
    small = np.round(bundle.images * (255 / 16)).astype(np.uint8)  # gray levels 0..16 -> 0..255
    large = np.stack(
        [np.asarray(Image.fromarray(image).resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)) for image in small]
    )
    images = np.repeat(large[..., None], 3, axis=-1)

    # The third of every five examples of a class is a test example. A random split would need a seed to name.
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[2::_TEST_EVERY]] = True
    return Dataset(
        name="digits",
        train_images=images[~test],
        train_labels=labels[~test],
        test_images=images[test],
        test_labels=labels[test],
        image_spec=_IMAGES,
        flip=False,
    )


def _load(*, data_dir: Path, progress: bool, mapped: bool) -> Dataset:
    # They come with scikit-learn and are read within a second, so no argument matters.
    return load_digits()


DIGITS_SOURCE = DatasetSource(
    "digits", "the handwritten digits", _IMAGES, train_count=1438, load=_load, is_on_disk=False
)
