"""The description of a data set that is not loaded yet."""

import dataclasses
from pathlib import Path
from typing import Protocol

from seanet_jax.data.dataset import Dataset
from seanet_jax.errors import InputError, is_integer, store_plain
from seanet_jax.image_spec import ImageSpec


class LoadFunction(Protocol):
    """Loads a data set; `seanet_jax.data.load` describes the arguments."""

    def __call__(self, *, data_dir: Path, progress: bool, mapped: bool) -> Dataset:
        """Returns the data set. Its content and order must be the same wherever it is stored."""


@dataclasses.dataclass(frozen=True)
class DatasetSource:
    """What is known of a data set before it is loaded, and the function that loads it.

    Attributes:
        name: Name on the command line and in `seanet_jax.data.load`.
        title: Name in messages, figures and reports, for example "CIFAR-10".
        image_spec: Size, normalization and class names of the images.
        train_count: Number of training images.
        load: Function that loads the data set.
        is_on_disk: Whether `load` uses its `data_dir`.

    Raises:
        InputError: If the name or title is empty, or the number of training images is not a positive integer.
    """

    name: str
    title: str
    image_spec: ImageSpec
    train_count: int
    load: LoadFunction
    is_on_disk: bool = True

    def __post_init__(self) -> None:
        store_plain(self)
        for field, value in (("name", self.name), ("title", self.title)):
            if not isinstance(value, str) or not value:
                raise InputError(f"DatasetSource: {field} is {value!r}; it must be a text of at least one character")
        if not is_integer(self.train_count, minimum=1):
            raise InputError(f"DatasetSource: train_count is {self.train_count!r}; it must be a positive integer")
