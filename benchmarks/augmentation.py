"""How long does augmentation take, beside the training step that it is a part of?

    python benchmarks/augmentation.py

Prints Markdown. Images have the size of those of CIFAR-100. Each augmentation is compiled and timed by itself, as most
take less time than a training step varies by. The two training steps are those of ``fit``. All take turns in one
process. On a CPU, its processor time is measured, the sum of its threads, which other programs hardly change.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from train_step import spread

from seanet_jax.commands import cpu_tuning
from seanet_jax.data import Dataset, image_spec
from seanet_jax.data.augment import Augmentation
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.recipe_presets import RECIPES
from seanet_jax.training.trainer import Trainer

MODEL = "seanet20_narrow"
BATCH_SIZES = (64, 128)
ROUNDS = 9
AUGMENTATIONS = {
    "nothing but normalization": Augmentation(crop_and_mirror=False),
    "crop and mirror": Augmentation(),
    "crop and mirror, reflected padding": Augmentation(padding="reflect"),
    "TrivialAugment": Augmentation(crop_and_mirror=False, trivial_augment=True),
    "cutout": Augmentation(crop_and_mirror=False, cutout=16),
    "random erasing": Augmentation(crop_and_mirror=False, erasing=0.5),
    "CutMix": Augmentation(crop_and_mirror=False, cutmix=1.0),
    "mixup": Augmentation(crop_and_mirror=False, mixup=0.2),
    "CutMix or mixup": Augmentation(crop_and_mirror=False, cutmix=1.0, mixup=0.2),
    "all of `modern`": Augmentation(padding="reflect", trivial_augment=True, cutmix=0.2),
}
WITHOUT = "training step of `published` without augmentation"
STEPS: Mapping[str, Mapping[str, Any]] = {
    WITHOUT: {"augment": False},
    "training step of `modern`": RECIPES["modern"],
}


def random_dataset(count: int) -> Dataset:
    """Returns a data set of random images that is like CIFAR-100 otherwise."""
    spec = image_spec("cifar100")
    images = np.random.default_rng(0).integers(0, 256, (count, spec.height, spec.width, spec.channels), np.uint8)
    labels = np.arange(count, dtype=np.int32) % spec.num_classes
    return Dataset("cifar100", images, labels, images[:1], labels[:1], spec, flip=True)


def augmentation_call(augmentation: Augmentation, batch_size: int) -> Callable[[], object]:
    """Returns a function that augments one batch.

    Args:
        augmentation: What to do to the images.
        batch_size: Images in the batch.
    """
    dataset = random_dataset(batch_size)
    spec, key = dataset.image_spec, jax.random.key(0)
    images = jnp.asarray(dataset.train_images)
    labels = jax.nn.one_hot(dataset.train_labels, spec.num_classes, dtype=jnp.float32)

    def function(key: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        pixels = augmentation.pixels(key, images, spec.mean_pixel)
        return augmentation.mixed(key, pixels, labels, spec.normalize)

    compiled = jax.jit(function).lower(key, images, labels).compile()
    return lambda: compiled(key, images, labels)


def step_call(fields: Mapping[str, Any], batch_size: int) -> Callable[[], object]:
    """Returns a function that takes one training step.

    Args:
        fields: Fields of the recipe.
        batch_size: Images per step.
    """
    config = TrainConfig(**{**fields, "model": MODEL, "batch_size": batch_size})
    trainer = Trainer(
        config, random_dataset(4 * batch_size), sharding.make_mesh(), cpu_tuning.compiler_options(os.environ)
    )
    compiled, order, state = trainer.lower_train_step().compile(), trainer.order(0), trainer.initial_state()

    def step() -> object:
        nonlocal state
        state, metrics = compiled(state, trainer.images, order, trainer.augment_key)
        return metrics

    return step


def seconds(batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each augmentation and each training step in each round, by name.

    Args:
        batch_size: Images in a batch.
        rounds: Number of turns of each, after one that is not measured.
    """
    calls = {name: augmentation_call(augmentation, batch_size) for name, augmentation in AUGMENTATIONS.items()}
    calls |= {name: step_call(fields, batch_size) for name, fields in STEPS.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    for turn in range(rounds + 1):
        # The order alternates, so that none always follows the same one.
        for name in calls if turn % 2 else reversed(calls):
            started = clock()
            jax.block_until_ready(calls[name]())
            found[name].append(clock() - started)
    return {name: values[1:] for name, values in found.items()}


def markdown(rounds: int = ROUNDS) -> str:
    """Returns the table of all batch sizes.

    Args:
        rounds: Number of turns of each augmentation and each training step. A ratio is that of two of the same turn.
    """
    columns = [f"batch {size}, ms | of the step without, %" for size in BATCH_SIZES]
    lines = [f"| {MODEL} | {' | '.join(columns)} |", "|---" * (1 + 2 * len(BATCH_SIZES)) + "|"]
    measured = [seconds(size, rounds) for size in BATCH_SIZES]
    for name in (*AUGMENTATIONS, *STEPS):
        cells = [name]
        for found in measured:
            percentages = [100 * mine / base for mine, base in zip(found[name], found[WITHOUT], strict=True)]
            cells += [f"{1000 * statistics.median(found[name]):.1f}", spread(percentages)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
