"""The table of data sets."""

from pathlib import Path
from typing import Any

from seanet_jax.data.arrays import ARRAYS_SOURCE
from seanet_jax.data.cifar import CIFAR10_SOURCE, CIFAR100_SOURCE
from seanet_jax.data.dataset import Dataset
from seanet_jax.data.digits import DIGITS_SOURCE
from seanet_jax.data.folder import FOLDER_SOURCE
from seanet_jax.data.prepared import PREPARED_SOURCE, prepared_source
from seanet_jax.data.prepared_info import is_prepared_name
from seanet_jax.data.source import DatasetSource
from seanet_jax.data.tfds import default_data_dir
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.paths import UserPath, user_path
from seanet_jax.plugins import load_plugins
from seanet_jax.printable import short_repr

DATASETS: dict[str, DatasetSource] = {
    source.name: source
    for source in (CIFAR10_SOURCE, CIFAR100_SOURCE, DIGITS_SOURCE, FOLDER_SOURCE, PREPARED_SOURCE, ARRAYS_SOURCE)
}
"""The known data sets by name. `register_dataset` adds to it."""


def register_dataset(source: DatasetSource) -> None:
    """Adds a data set, which can then be named wherever a built-in one can.

    Args:
        source: The data set.

    Raises:
        InputError: If a data set of this name exists already.
    """
    if source.name in DATASETS:
        raise InputError(f"There is a data set {source.name!r} already; register yours under another name")
    DATASETS[source.name] = source


def is_known(name: object) -> bool:
    """Returns whether a data set of this name exists. Plugins are loaded if it is not in the table yet."""
    if not isinstance(name, str):
        return False
    if is_prepared_name(name):
        return True
    # Only for a missing name, because most runs need no plugin and a broken one must not stop them.
    if name not in DATASETS:
        load_plugins()
    return name in DATASETS


def find_source(name: str) -> DatasetSource:
    """Returns the description of a data set.

    Args:
        name: Name of the data set. Plugins are loaded if it is not in the table yet.

    Raises:
        InputError: If the name is unknown.
    """
    if not is_known(name):
        raise InputError(
            f"There is no data set {short_repr(name)}; the data sets are {', '.join(DATASETS)}; "
            "one of another package is known where that package, the plugin, is installed"
        )
    return DATASETS[name] if name in DATASETS else prepared_source(name)


def load(
    name: str,
    *,
    data_dir: UserPath | None = None,
    image_size: int | None = None,
    test_fraction: float | None = None,
    skip_broken: bool = False,
    progress: bool = True,
    mapped: bool = False,
) -> Dataset:
    """Loads a data set into memory.

    Args:
        name: Name of the data set, for example "cifar100"; `DATASETS` holds the known ones.
        data_dir: Folder that holds the data, or in which they are stored after a download. CIFAR may be there as
            prepared by TFDS, or as the original folder or archive. The digits need no folder. None is
            `$TFDS_DATA_DIR` if that is set, and otherwise `~/tensorflow_datasets`; a "folder" has no default.
        image_size: Height and width in pixels to which images are resized, or None for the data set's default. Only
            the data sets with this name in `DatasetSource.options` take it, and so for the next two arguments.
        test_fraction: Fraction of the images to hold out as test images, if the data have none. None is the default.
        skip_broken: Whether to leave out files that cannot be read as images. Otherwise they are an error.
        progress: Whether to show progress bars if stderr is a terminal.
        mapped: Whether decoded images may stay on disk until they are used, in which case their checksums are not
            compared. This is for a process that needs only a part of them.

    Returns:
        The data set. Its content and order depend on the name, the data and the options, not on where the data are.

    Raises:
        InputError: If the name is unknown, an option does not apply to the data set, or the data are damaged, or are
            missing and cannot be downloaded or stored.
    """
    source = find_source(name)
    options = {"image_size": image_size, "test_fraction": test_fraction, "skip_broken": skip_broken or None}
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in source.options:
            takers = [other.name for other in DATASETS.values() if option in other.options]
            raise InputError(
                f"{option} is {value!r}, but {name} takes none; leave it out (it is for {', '.join(takers)})"
            )
    folder = Path()
    if data_dir is not None:
        folder = user_path(data_dir)
    elif source.needs_data_dir:
        raise InputError(f"the data set {name} has no usual folder; name the folder that holds it with --data-dir")
    elif source.is_on_disk:
        folder = default_data_dir()
    return source.load(data_dir=folder, progress=progress, mapped=mapped, **given)


def image_spec(name: str) -> ImageSpec:
    """Returns the size, normalization and class names of a data set's images, without loading them.

    Args:
        name: Name of the data set.

    Raises:
        InputError: If the name is unknown, or these are known only once the data set is loaded.
    """
    return _known_before_loading(name, "image_spec", "the size and classes of its images are")


def train_count(name: str) -> int:
    """Returns the number of a data set's training images, without loading them.

    Args:
        name: Name of the data set.

    Raises:
        InputError: If the name is unknown, or the number is known only once the data set is loaded.
    """
    return _known_before_loading(name, "train_count", "the number of its training images is")


def _known_before_loading(name: str, field: str, what: str) -> Any:
    value = getattr(find_source(name), field)
    if value is None:
        known = [other.name for other in DATASETS.values() if getattr(other, field) is not None]
        raise InputError(
            f"{name} has to be read before {what} known; name a data set of which they are known before: "
            f"{', '.join(known)}"
        )
    return value
