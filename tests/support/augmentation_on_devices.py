"""Augments a batch on 1, 2 and 8 devices of one process, and prints the differences as JSON.

``tests/data/test_augment.py`` starts it with eight CPU devices.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from seanet_jax.data.augment import Augmentation

CHAINS = {
    "cutmix": Augmentation(padding="reflect", trivial_augment=True, cutout=9, erasing=0.5, cutmix=1.0),
    "mixup": Augmentation(cutmix=1.0, mixup=0.2),
}


def normalize(images):
    return images.astype(jnp.float32) / 255


def augmented(augmentation, devices, axis_type):
    """Returns the pixels, the mixed images and the mixed labels of a batch that the devices share."""

    @jax.jit
    def chain(key, images, labels):
        pixels = augmentation.pixels(key, images, (1, 2, 3))
        return pixels, *augmentation.mixed(key, pixels, labels, normalize)

    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (32, 12, 12, 3), np.uint8), np.eye(32, dtype=np.float32)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(axis_type,), devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        batch = jax.device_put((images, labels), PartitionSpec("data"))
        found = chain(jax.random.key(0), *batch)
    assert all(len(array.sharding.device_set) == devices for array in found)
    return jax.device_get(found)


def main():
    """Prints the differences of several devices from one device, relative to the largest value, by what they are of."""
    found = {}
    for name, augmentation in CHAINS.items():
        expected = augmented(augmentation, 1, AxisType.Auto)
        for devices, axis_type in ((2, AxisType.Auto), (8, AxisType.Auto), (8, AxisType.Explicit)):
            arrays = augmented(augmentation, devices, axis_type)
            for what, a, b in zip(("pixels", "images", "labels"), arrays, expected, strict=True):
                assert a.dtype == b.dtype
                difference = float(np.abs(np.subtract(a, b, dtype=float)).max() / b.max())
                found[f"{what} of {name} on {devices} devices, {axis_type.name}"] = difference
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
