"""Loads the images of a run, limits and splits them, and checks that every process has the same."""

import jax

from seanet_jax.data import Dataset, load
from seanet_jax.errors import InputError
from seanet_jax.training import processes
from seanet_jax.training.config import TrainConfig


def load_in_turn(config: TrainConfig) -> Dataset:
    """Loads the images of a run in every process. The first process prepares and caches them for the others.

    Args:
        config: The run's configuration.

    Raises:
        InputError: If the images cannot be read, or are fewer than a batch.
    """
    found: list[Dataset] = []
    for turn in (True, False):
        with processes.failing_together():
            if processes.is_first() == turn:
                found.append(load_dataset(config))
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
                    f"--data-dir: the images of {dataset.name} are not those of process 0; give all the same, and if "
                    "they are, delete their cache, seanet_jax in XDG_CACHE_HOME or ~/.cache"
                )
    return str(processes.from_first(dataset.sha256() if processes.is_first() else None))


def load_dataset(config: TrainConfig) -> Dataset:
    """Loads the images of a run: limited, and without those held out for validation.

    Args:
        config: The run's configuration.

    Raises:
        InputError: If the images cannot be read, or are fewer than a batch.
    """
    # The first process reads and checks all images. The others map the file into memory, so that they read only the
    # images for their devices and those that check_images compares.
    dataset = load(config.dataset, data_dir=config.data_dir, mapped=not processes.is_first())
    dataset = dataset.limit(config.limit_train, config.limit_test)
    if config.validation_fraction:
        dataset = dataset.split_validation(config.validation_fraction)
    images = len(dataset.train_images)
    if images < config.batch_size:
        raise InputError(
            f"batch_size is {config.batch_size}; it must be at most {images}, the training images there are"
        )
    return dataset
