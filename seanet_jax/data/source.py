"""The description of a data set in the table of data sets."""

import dataclasses
from collections.abc import Callable

from seanet_jax.data.dataset import Dataset
from seanet_jax.errors import InputError, is_integer, store_plain
from seanet_jax.image_spec import ImageSpec

OPTIONS = ("image_size", "test_fraction", "skip_broken")
"""Arguments of `seanet_jax.data.load`, and fields of `TrainConfig`, that only some data sets take."""


@dataclasses.dataclass(frozen=True)
class DatasetSource:
    """What is known of a data set before it is loaded, and the function that loads it.

    Attributes:
        name: Name on the command line and in `seanet_jax.data.load`.
        title: Name in messages, figures and reports, for example "CIFAR-10".
        image_spec: Size, normalization and class names of the images, or None if they are known only once the data set
            is loaded.
        train_count: Number of training images, or None if it is known only once the data set is loaded.
        load: Function that loads the data set. It has the keyword arguments `data_dir` (a `Path`), `progress` and
            `mapped` (bools), which `seanet_jax.data.load` describes, and those in `options`. It returns a `Dataset`
            whose content and order are the same wherever it is stored.
        is_on_disk: Whether `load` uses its `data_dir`.
        needs_data_dir: Whether the user must give a `data_dir`, because the data set has no usual folder.
        options: The names in `OPTIONS` that `load` takes. Only those that the user gives are passed.

    Raises:
        InputError: If the name or title is empty, the number of training images is not a positive integer, or an
            option is unknown.
    """

    name: str
    title: str
    image_spec: ImageSpec | None
    train_count: int | None
    load: Callable[..., Dataset]
    is_on_disk: bool = True
    needs_data_dir: bool = False
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        store_plain(self)
        for field, value in (("name", self.name), ("title", self.title)):
            if not isinstance(value, str) or not value:
                raise InputError(f"DatasetSource: {field} is {value!r}; it must be a text of at least one character")
        if self.train_count is not None and not is_integer(self.train_count, minimum=1):
            raise InputError(f"DatasetSource: train_count is {self.train_count!r}; it must be a positive integer")
        if not set(self.options) <= set(OPTIONS):
            raise InputError(f"DatasetSource: options is {self.options!r}; each must be one of {', '.join(OPTIONS)}")
