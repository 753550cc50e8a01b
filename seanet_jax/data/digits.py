"""The 1,797 handwritten digits bundled with scikit-learn: a real data set that needs no download."""

import numpy as np

from seanet_jax.data.dataset import Dataset
from seanet_jax.image_spec import ImageSpec

_SIZE = 32  # pixels; the models are made for images of CIFAR's size
_TEST_EVERY = 5

TRAIN_COUNT = 1438

# Of the training split below: images.mean() / 255 and images.std() / 255; the three channels are equal.
_MEAN = (0.3055,) * 3
_STD = (0.3232,) * 3

IMAGE_SPEC = ImageSpec(_SIZE, _SIZE, _MEAN, _STD, tuple("0123456789"))


def load_digits() -> Dataset:
    """Loads the digits, enlarged bilinearly from 8x8 to 32x32 pixels and repeated to three channels.

    Every fifth example of each class, in the order of scikit-learn's file, is a test example: a fixed and stratified
    split of 1,438 training and 359 test images.

    Returns:
        The data set; a mirrored digit is not a digit, so `flip` is False.
    """
    from PIL import Image
    from sklearn import datasets

    bundle = datasets.load_digits()
    labels = bundle.target.astype(np.int32)
    small = np.round(bundle.images * (255 / 16)).astype(np.uint8)  # grey levels 0..16 -> 0..255
    large = np.stack(
        [np.asarray(Image.fromarray(image).resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)) for image in small]
    )
    images = np.repeat(large[..., None], 3, axis=-1)

    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[2::_TEST_EVERY]] = True
    return Dataset(
        name="digits",
        train_images=images[~test],
        train_labels=labels[~test],
        test_images=images[test],
        test_labels=labels[test],
        class_names=IMAGE_SPEC.class_names,
        mean=_MEAN,
        std=_STD,
        flip=False,
    )
