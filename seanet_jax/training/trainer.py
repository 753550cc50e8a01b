"""The fixed parts of a run: network, data on the devices, compiled functions."""

import functools
from collections.abc import Mapping
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from seanet_jax.data import Dataset
from seanet_jax.jax_settings import key_from_seed
from seanet_jax.models import build
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.interrupt import StopRequest
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.schedule import learning_rate_schedule
from seanet_jax.training.step import (
    EvalMetrics,
    EvalStep,
    Images,
    Metrics,
    TrainState,
    abstract_state,
    create_state,
    epoch_order,
    make_eval_step,
    make_train_step,
)


def loss_and_accuracy(metrics: Metrics) -> tuple[float, float]:
    """Returns the mean loss and the accuracy, a fraction. Waits until the device has computed them.

    Args:
        metrics: Sums over one image or more.
    """
    loss_sum, correct, images = jax.device_get(metrics)
    return float(loss_sum) / int(images), int(correct) / int(images)


class Evaluated(TypedDict):
    """What a network gets right on some images.

    ``loss`` is the mean loss, ``accuracy`` the fraction of images whose prediction is right, and
    ``mean_class_accuracy`` the mean of the accuracies on each class, of those that have images.
    """

    loss: float
    accuracy: float
    mean_class_accuracy: float


class Evaluation:
    """Evaluates networks on a fixed set of images, which stays on the devices. Each image counts once.

    Args:
        step: The jitted evaluation step.
        images: Pixels, uint8 ``[N, H, W, C]``.
        labels: Labels, int32 ``[N]``.
        size: Images per step, a multiple of the number of devices. The last batch is padded to this size.
        mesh: The device mesh.
        num_classes: Number of classes.
    """

    def __init__(self, step: EvalStep, images: np.ndarray, labels: np.ndarray, size: int, mesh: Mesh, num_classes: int):
        self._step = step
        self._batches = [
            Images(
                sharding.pad_and_shard(images[start : start + size], mesh, rows=size, fill=0),
                sharding.pad_and_shard(labels[start : start + size], mesh, rows=size, fill=-1),
            )
            for start in range(0, len(images), size)
        ]
        self._zero = jax.jit(lambda: EvalMetrics.zero(num_classes), out_shardings=sharding.replicated(mesh))

    def __call__(self, params: Any, batch_stats: Any, stop: StopRequest) -> Evaluated | None:
        """Returns the loss and the accuracies of a network, or None if the run was asked to stop meanwhile.

        Args:
            params: The network's parameters.
            batch_stats: The network's running means and variances.
            stop: The request to stop, checked before each step.
        """
        metrics = self._zero()
        for batch in self._batches:
            if stop.requested():
                return None
            # Without waiting, all steps would be queued at once, and a request to stop would come too late.
            metrics = jax.block_until_ready(self._step(metrics, params, batch_stats, batch))
        loss, accuracy = loss_and_accuracy(metrics.total)
        correct, images = jax.device_get((metrics.correct, metrics.images))
        of_classes = correct[images > 0] / images[images > 0]
        return {"loss": loss, "accuracy": accuracy, "mean_class_accuracy": float(of_classes.mean())}


def _all_finite(state: TrainState) -> jax.Array:
    """Whether the network, the optimizer's state and the moving average are free of NaN and infinity."""
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.opt_state, state.ema))
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


class Trainer:
    """The fixed parts of one run: network, data on the devices, jitted functions, number of steps.

    Args:
        config: The run's configuration.
        dataset: The data set. The parts that this process's devices hold are sent to them.
        mesh: The device mesh. Its size divides the batch size.
        compiler_options: Options of XLA for the training step and the evaluation step.

    Attributes:
        config: The run's configuration.
        compiler_options: Options of XLA for the training step and the evaluation step.
        model_config: The network's configuration.
        steps_per_epoch: Optimizer steps in one epoch.
        total_steps: Optimizer steps in all epochs.
        last_step: Optimizer step at which the run ends.
        learning_rate: The jitted learning-rate schedule.
        parameters: Number of parameters of the network.
        images: The training images, sharded across the devices.
        augment_key: The run's random key for augmentation.
        all_finite: Jitted function: whether a training state is free of NaN and infinity.
        evaluations: Evaluations by the name of their split: "val", if there are validation images, and "test".
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, mesh: Mesh, compiler_options: Mapping[str, str]):
        self.config = config
        self.compiler_options = dict(compiler_options)
        self.steps_per_epoch = len(dataset.train_images) // config.batch_size
        self.total_steps = config.epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, config.max_steps or self.total_steps)
        # Jitted: outside of jit, JAX compiles the power anew for every exponent.
        self.learning_rate = jax.jit(learning_rate_schedule(config, self.steps_per_epoch))
        self._placement = placement = sharding.replicated(mesh)
        split = jax.jit(lambda: tuple(jax.random.split(key_from_seed(config.seed), 3)), out_shardings=placement)
        self._init_key, self._order_key, self.augment_key = split()

        images = dataset.image_spec
        self.model_config = config.model_config(
            images.num_classes, in_channels=images.channels, devices=mesh.size, image_size=images.height
        )
        descent, average = optimizer(config, self.steps_per_epoch), config.ema_decay is not None
        # Jitted: outside of jit, JAX compiles the initialization of every parameter shape on its own.
        self._create_state = jax.jit(
            lambda key: create_state(build(self.model_config, rngs=nnx.Rngs(key)), descent, average=average),
            out_shardings=placement,
        )
        model, self._abstract_state = abstract_state(self.model_config, descent, average=average)
        self.all_finite = jax.jit(_all_finite)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        self._num_images = len(dataset.train_images)
        rows = sharding.round_up(self._num_images, mesh)
        self.images = Images(
            sharding.pad_and_shard(dataset.train_images, mesh, rows=rows, fill=0),
            sharding.pad_and_shard(dataset.train_labels, mesh, rows=rows, fill=-1),
        )
        self._order = jax.jit(epoch_order, static_argnames="num_images", out_shardings=placement)

        options = self.compiler_options
        jit = functools.partial(jax.jit, donate_argnums=0, out_shardings=placement, compiler_options=options)
        self._train_step = jit(make_train_step(model, descent, dataset, mesh, config))
        size = sharding.round_up(config.eval_batch_size, mesh)
        eval_step = jit(make_eval_step(model, dataset, mesh))
        splits = {"val": (dataset.val_images, dataset.val_labels), "test": (dataset.test_images, dataset.test_labels)}
        self.evaluations = {
            name: Evaluation(eval_step, images, labels, size, mesh, dataset.image_spec.num_classes)
            for name, (images, labels) in splits.items()
            if images is not None and labels is not None
        }

    def initial_state(self) -> TrainState:
        """Returns the training state before the first step, drawn from the seed."""
        return self._create_state(self._init_key)

    def order(self, epoch: int) -> jax.Array:
        """Returns the order in which an epoch visits the training images; see ``epoch_order``.

        Args:
            epoch: Index of the epoch, from 0.
        """
        return self._order(self._order_key, np.int32(epoch), num_images=self._num_images)

    def abstract_state(self) -> TrainState:
        """Returns the shapes, dtypes and shardings of the training state."""
        return self._placed(self._abstract_state)

    def lower_train_step(self) -> jax.stages.Lowered:
        """Traces the training step. ``.compile()`` of the result makes it callable."""
        order = self._placed(self._order.eval_shape(self._order_key, 0, num_images=self._num_images))
        return self._train_step.lower(self.abstract_state(), self.images, order, self.augment_key)

    def _placed(self, abstract: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._placement), abstract
        )
