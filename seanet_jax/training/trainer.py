"""The fixed parts of a run: network, data on the devices, compiled functions."""

import collections
import functools
from collections.abc import Callable, Mapping
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
    several_steps,
)

# Evaluation steps that the host may be ahead of the device: enough that the device never waits for Python.
_BATCHES_AHEAD = 2

# Steps in a call that a device other than a CPU takes by default: as many as divide an epoch, so that one program is
# enough, within these limits.
_FEWEST_STEPS, _MOST_STEPS = 8, 16


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

    Attributes:
        num_images: Number of images.
    """

    def __init__(self, step: EvalStep, images: np.ndarray, labels: np.ndarray, size: int, mesh: Mesh, num_classes: int):
        self._step = step
        self.num_images, self._size = len(images), size
        self._batches = [
            Images(
                sharding.pad_and_shard(images[start : start + size], mesh, rows=size, fill=0),
                sharding.pad_and_shard(labels[start : start + size], mesh, rows=size, fill=-1),
            )
            for start in range(0, len(images), size)
        ]
        self._zero = jax.jit(lambda: EvalMetrics.zero(num_classes), out_shardings=sharding.replicated(mesh))

    def __call__(
        self, params: Any, batch_stats: Any, stop: StopRequest, advance: Callable[[int], object] = lambda images: None
    ) -> Evaluated | None:
        """Returns the loss and the accuracies of a network, or None if the run was asked to stop meanwhile.

        Args:
            params: The network's parameters.
            batch_stats: The network's running means and variances.
            stop: The request to stop, checked before each step.
            advance: Function that is called with the number of images of each batch once the device is done with it.
        """
        metrics = self._zero()
        running: collections.deque[EvalMetrics] = collections.deque()
        for batch in self._batches:
            if stop.requested():
                return None
            metrics = self._step(metrics, params, batch_stats, batch)
            running.append(metrics)
            # Without waiting, all steps would be queued at once, and a request to stop would come too late.
            if len(running) > _BATCHES_AHEAD:
                jax.block_until_ready(running.popleft())
                advance(self._size)
        loss, accuracy = loss_and_accuracy(metrics.total)
        correct, images = jax.device_get((metrics.correct, metrics.images))
        of_classes = correct[images > 0] / images[images > 0]
        return {"loss": loss, "accuracy": accuracy, "mean_class_accuracy": float(of_classes.mean())}


def _all_finite(state: TrainState) -> jax.Array:
    """Whether the network, the optimizer's state and the moving average are free of NaN and infinity."""
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.opt_state, state.ema))
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


def _default_steps_per_call(steps_per_epoch: int) -> int:
    """Returns how many steps a call takes if the user does not say."""
    if jax.default_backend() == "cpu":
        return 1  # A step takes far longer than Python.
    divisors = (steps for steps in range(_MOST_STEPS, _FEWEST_STEPS - 1, -1) if steps_per_epoch % steps == 0)
    return next(divisors, _MOST_STEPS)


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
        steps_per_call: Optimizer steps in one call of the compiled program, where so many are left.
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
        wanted = config.steps_per_call or _default_steps_per_call(self.steps_per_epoch)
        self.steps_per_call = min(wanted, self.steps_per_epoch, config.checkpoint_steps or wanted)
        train_step = make_train_step(model, descent, dataset, mesh, config)
        self._train_step = jit(train_step)
        self._train_steps = jit(several_steps(train_step, self.steps_per_call))
        size = sharding.round_up(config.eval_batch_size, mesh)
        # Its metrics are not donated, as the host waits for earlier ones.
        eval_step = jax.jit(make_eval_step(model, dataset, mesh), out_shardings=placement, compiler_options=options)
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

    def calls(self, step: int) -> set[int]:
        """Returns the numbers of steps in a call that the run needs programs for: 1, ``steps_per_call``, or both.

        Args:
            step: Optimizer step from which the run goes on.
        """
        # The steps at which calls end, those in between being multiples of one of them.
        ends = (step, self.steps_per_epoch, self.last_step, self.config.checkpoint_steps or 0)
        return {self.steps_per_call} | ({1} if any(end % self.steps_per_call for end in ends) else set())

    def lower_train_step(self, steps: int = 1) -> jax.stages.Lowered:
        """Traces the training step. ``.compile()`` of the result makes it callable.

        Args:
            steps: Steps in a call: 1 or ``steps_per_call``. The metrics of several have a leading axis.
        """
        order = self._placed(self._order.eval_shape(self._order_key, 0, num_images=self._num_images))
        program = self._train_step if steps == 1 else self._train_steps
        return program.lower(self.abstract_state(), self.images, order, self.augment_key)

    def _placed(self, abstract: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._placement), abstract
        )
