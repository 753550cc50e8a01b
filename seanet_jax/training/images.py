"""Loads the images of a run, limits and splits them, and checks that every process has the same."""

import jax

from seanet_jax.data import Dataset, load
from seanet_jax.data.arrays import NAME as ARRAYS
from seanet_jax.data.source import OPTIONS
from seanet_jax.errors import InputError
from seanet_jax.training import processes
from seanet_jax.training.config import TrainConfig


def load_in_turn(config: TrainConfig, given: Dataset | None = None) -> Dataset:
    """Loads the images of a run in every process. The first process prepares and caches them for the others.

    Args:
        config: The run's configuration.
        given: The data set of a run on arrays; see ``load_dataset``.

    Raises:
        InputError: If ``load_dataset`` fails.
    """
    found: list[Dataset] = []
    for turn in (True, False):
        with processes.failing_together():
            if processes.is_first() == turn:
                found.append(load_dataset(config, given))
    return found[0]


def check_images(dataset: Dataset) -> str:
    """Checks that all processes have the same images. Each compares a part of its own with the first process's.

    Args:
        dataset: This process's images.

    Returns:
        The SHA-256 of all images and labels.

    Raises:
        InputError: If a process has other images than the first. It is raised in all of them.
    """
    count = jax.process_count()
    if count > 1:
        of_parts = [dataset.sha256(part, count) for part in range(count)] if processes.is_first() else None
        this = jax.process_index()
        with processes.failing_together():
            if dataset.sha256(this, count) != processes.from_first(of_parts)[this]:
                raise InputError(
                    f"the images of {dataset.name} are not those of process 0; give all processes the same, by "
                    "--data-dir or as arrays, and if they are, delete their cache, seanet_jax in XDG_CACHE_HOME or "
                    "~/.cache"
                )
    return str(processes.from_first(dataset.sha256() if processes.is_first() else None))


def read_dataset(config: TrainConfig, *, mapped: bool = False) -> Dataset:
    """Reads the whole data set that a configuration names.

    Args:
        config: The configuration.
        mapped: Whether decoded images may stay on disk until they are used; see ``seanet_jax.data.load``.

    Raises:
        InputError: If the data set cannot be read.
    """
    options = {name: getattr(config, name) for name in OPTIONS}
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return load(config.dataset, data_dir=config.data_dir, mapped=mapped, **given)


def load_dataset(config: TrainConfig, given: Dataset | None = None) -> Dataset:
    """Loads the images of a run: limited, and without those held out for validation.

    Args:
        config: The run's configuration.
        given: The whole data set, if the configuration's ``dataset`` is "arrays". Otherwise it is read.

    Raises:
        InputError: If the images cannot be read, or are fewer than a batch, or if a data set is given to a run on
            another one.
    """
    if given is None:
        # The first process reads and checks all images. The others map the file into memory, so that they read only the
        # images for their devices and those that check_images compares.
        dataset = read_dataset(config, mapped=not processes.is_first())
    elif not isinstance(given, Dataset):
        raise InputError(
            f"dataset is of type {type(given).__name__}; it must be a Dataset, which seanet_jax.data.from_arrays makes"
        )
    elif config.dataset != ARRAYS:
        raise InputError(
            f"a Dataset is given to a run on {config.dataset}; name it in the configuration by dataset={ARRAYS!r}, or "
            "give none"
        )
    else:
        dataset = given
    dataset = dataset.limit(config.limit_train, config.limit_test)
    if config.validation_fraction:
        dataset = dataset.split_validation(config.validation_fraction)
    images = len(dataset.train_images)
    if images < config.batch_size:
        raise InputError(
            f"batch_size is {config.batch_size}; it must be at most {images}, the training images there are"
        )
    return dataset
