"""What tests of folders of images share: images made from a seed, and folders of them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def image(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """Returns an RGB image of random pixels, `size` wide and high."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))


def write_images(folder: Path, names: Iterable[str], *, first_seed: int = 0) -> Path:
    """Writes an image of its own to each name, with the folders above it, and returns the folder."""
    for seed, name in enumerate(names, first_seed):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image(seed).save(path)
    return folder


def two_classes(folder: Path, count: int = 30, splits: Iterable[str] = ("",)) -> Path:
    """Writes `count` images of each of the classes "cat" and "dog" into each split."""
    return write_images(
        folder, (f"{s}/{c}/{i}.png".lstrip("/") for s in splits for c in ("cat", "dog") for i in range(count))
    )
