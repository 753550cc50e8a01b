"""The images of a run: loaded, limited, split, and the same in every process."""

import jax

from seanet_jax.data import Dataset, load
from seanet_jax.errors import InputError
from seanet_jax.training import processes
from seanet_jax.training.config import TrainConfig


def load_in_turn(config: TrainConfig) -> Dataset:
    """Loads the images of a run in every process: the first prepares them before the others read them."""
    found: list[Dataset] = []
    for turn in (True, False):
        with processes.agreed():
            if processes.is_first() == turn:
                found.append(load_dataset(config))
    return found[0]


def check_images(dataset: Dataset) -> str:
    """The SHA-256 of all images, after each process has compared a part of its own with the first process's."""
    count = jax.process_count()
    if count > 1:
        of_parts = [dataset.sha256(part, count) for part in range(count)] if processes.is_first() else None
        this = jax.process_index()
        with processes.agreed():
            if dataset.sha256(this, count) != processes.of_first(of_parts)[this]:
                raise InputError(
                    f"--data-dir: the images of {dataset.name} are others than in process 0; give all the same, and "
                    "if they are, delete what is cached of them in seanet_jax's folder of XDG_CACHE_HOME or ~/.cache"
                )
    return str(processes.of_first(dataset.sha256() if processes.is_first() else None))


def load_dataset(config: TrainConfig) -> Dataset:
    """The images of a run: limited, and with those held out that it holds out.

    Raises:
        InputError: they cannot be read, or are fewer than a batch.
    """
    # The first process reads and checks all images. Each of the others reads those for its devices, and as many for
    # the comparison below.
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
