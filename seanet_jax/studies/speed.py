"""Measures how fast networks train on this machine.

The networks take turns in one process, so that other load on the machine slows all of them alike.
"""

import time
from collections.abc import Mapping

import jax

from seanet_jax.data import Dataset
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.trainer import Trainer

_ROUNDS = 5
_SECONDS_A_TURN = 1.0


def training_speeds(
    configs: Mapping[str, TrainConfig], dataset: Dataset, compiler_options: Mapping[str, str]
) -> dict[str, list[float]]:
    """Measures the images per second of the training step, with augmentation.

    Args:
        configs: The configurations of the runs, by name.
        dataset: The data set whose first images are trained on.
        compiler_options: The options of XLA, as for training.

    Returns:
        One rate for each round, by name.
    """
    mesh = sharding.make_mesh()
    steppers = {}
    for name, config in configs.items():
        few = dataset.limit(min(2 * config.batch_size, len(dataset.train_images)), 1)
        steppers[name] = _Stepper(Trainer(config, few, mesh, compiler_options))
    rates: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(_ROUNDS):
        for name, stepper in steppers.items():
            rates[name].append(stepper.turn())
    return rates


class _Stepper:
    """Takes training steps of one network and times them."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._step = trainer.lower_train_step().compile()
        self._state, self._order = trainer.initial_state(), trainer.order(0)

    def turn(self) -> float:
        """Returns the images per second of one turn, which lasts about ``_SECONDS_A_TURN``."""
        # One step that is not timed brings the network's data back into the caches.
        self._seconds(1)
        steps = 1
        while (seconds := self._seconds(steps)) < _SECONDS_A_TURN:
            steps *= 2
        return steps * self._trainer.config.batch_size / seconds

    def _seconds(self, steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._trainer.images, self._order, self._trainer.augment_key)
        jax.block_until_ready(metrics)
        return time.perf_counter() - started
