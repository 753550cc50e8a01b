"""What of a run does not change while it trains: network, data on the devices, jitted functions, lengths."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from seanet_jax.data import Dataset
from seanet_jax.models import build
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.interrupt import StopRequest
from seanet_jax.training.optimizer import learning_rate_schedule, optimizer
from seanet_jax.training.step import (
    EvalStep,
    Images,
    Metrics,
    TrainState,
    create_state,
    epoch_order,
    make_eval_step,
    make_train_step,
)


def loss_and_accuracy(metrics: Metrics) -> tuple[float, float]:
    """Mean loss and accuracy as a fraction; waits for the device."""
    loss_sum, correct, images = jax.device_get(metrics)
    return float(loss_sum) / int(images), int(correct) / int(images)


class Evaluation:
    """Loss and accuracy on one fixed set of images, each counted once.

    Args:
        step: jitted.
        images: uint8 ``[N, H, W, C]``.
        labels: int32 ``[N]``.
        size: images per step.
        mesh: the devices.
    """

    def __init__(self, step: EvalStep, images: np.ndarray, labels: np.ndarray, size: int, mesh: Mesh):
        self._step = step
        self._batches = [
            Images(
                sharding.put_split(images[start : start + size], mesh, rows=size, fill=0),
                sharding.put_split(labels[start : start + size], mesh, rows=size, fill=-1),
            )
            for start in range(0, len(images), size)
        ]
        self._zero = jax.jit(Metrics.zero, out_shardings=sharding.replicated(mesh))

    def __call__(self, state: TrainState, stop: StopRequest) -> tuple[float, float] | None:
        """Mean loss and accuracy as a fraction; None if a request to stop came before the end."""
        metrics = self._zero()
        for batch in self._batches:
            if stop.came():
                return None
            metrics = jax.block_until_ready(self._step(metrics, state.params, state.batch_stats, batch))
        return loss_and_accuracy(metrics)


def _all_finite(state: TrainState) -> jax.Array:
    """Whether nothing that a later step builds on is NaN or infinite."""
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.opt_state))
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


class Trainer:
    """Network, data, jitted functions and lengths of one run.

    Args:
        config: of the run.
        dataset: whose share for this process's devices is sent to them.
        mesh: the devices; they divide the batch size.
        compiler_options: of XLA, for the training and the evaluation step.

    Attributes:
        chosen_on: "val" or "test": the images that choose the best epoch.
        evaluations: by the same names.
        images: the training images and labels, divided among the devices.
        last_step: where this run ends.
        parameters: how many the network has.
        total_steps: of all epochs.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, mesh: Mesh, compiler_options: Mapping[str, str]):
        self.config = config
        self.compiler_options = dict(compiler_options)
        self.steps_per_epoch = len(dataset.train_images) // config.batch_size
        self.total_steps = config.epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, config.max_steps or self.total_steps)
        # Jitted, because outside of jit the power is compiled anew for every exponent.
        self.learning_rate = jax.jit(learning_rate_schedule(config, self.steps_per_epoch))
        self._placement = placement = sharding.replicated(mesh)
        split = jax.jit(lambda: tuple(jax.random.split(jax.random.key(config.seed), 3)), out_shardings=placement)
        self._init_key, self._order_key, self.augment_key = split()

        self.model_config = config.model_config(
            dataset.image_spec.num_classes, in_channels=dataset.image_spec.channels, devices=mesh.size
        )
        descent = optimizer(config, self.steps_per_epoch)
        # Jitted, because outside of jit every shape of parameters is compiled on its own.
        self._create_state = jax.jit(
            lambda key: create_state(build(self.model_config, rngs=nnx.Rngs(key)), descent), out_shardings=placement
        )
        model = nnx.eval_shape(lambda: build(self.model_config, rngs=nnx.Rngs(0)))
        self.all_finite = jax.jit(_all_finite)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        self._num_images = len(dataset.train_images)
        rows = sharding.round_up(self._num_images, mesh)
        self.images = Images(
            sharding.put_split(dataset.train_images, mesh, rows=rows, fill=0),
            sharding.put_split(dataset.train_labels, mesh, rows=rows, fill=-1),
        )
        self._order = jax.jit(epoch_order, static_argnames="num_images", out_shardings=placement)

        options = self.compiler_options
        jit = functools.partial(jax.jit, donate_argnums=0, out_shardings=placement, compiler_options=options)
        self._train_step = jit(
            make_train_step(
                model, descent, dataset, mesh, batch_size=config.batch_size, use_augmentation=config.augment
            )
        )
        size = sharding.round_up(config.eval_batch_size, mesh)
        eval_step = jit(make_eval_step(model, dataset, mesh))
        self.evaluations = {}
        if dataset.val_images is not None and dataset.val_labels is not None:
            self.evaluations["val"] = Evaluation(eval_step, dataset.val_images, dataset.val_labels, size, mesh)
        self.evaluations["test"] = Evaluation(eval_step, dataset.test_images, dataset.test_labels, size, mesh)
        # The best epoch is chosen on validation images where there are any.
        self.chosen_on = next(iter(self.evaluations))

    def initial_state(self) -> TrainState:
        """Drawn anew from the seed."""
        return self._create_state(self._init_key)

    def order(self, epoch: int) -> jax.Array:
        """See ``epoch_order``."""
        return self._order(self._order_key, np.int32(epoch), num_images=self._num_images)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        return self._placed(self._create_state.eval_shape(self._init_key))

    def lower_train_step(self) -> jax.stages.Lowered:
        """Traces the training step, to be compiled."""
        order = self._placed(self._order.eval_shape(self._order_key, 0, num_images=self._num_images))
        return self._train_step.lower(self.abstract_state(), self.images, order, self.augment_key)

    def _placed(self, abstract: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._placement), abstract
        )
