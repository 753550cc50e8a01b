"""One training step and one evaluation step, as pure functions of explicit state, to be jitted over a mesh.

The images stay on the devices as uint8 for the whole run. Each device holds a part of them and contributes its
images to each batch. The order of the images and their augmentation are functions of (seed, epoch, step). A resumed run
therefore sees the same batches as a run that never stopped, on any number of devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from seanet_jax.data.augment import Augmentation
from seanet_jax.data.class_counts import balanced_class_weights
from seanet_jax.data.dataset import Dataset
from seanet_jax.models import Network, NetworkConfig, build
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import Scores
from seanet_jax.training import sharding
from seanet_jax.training.averaging import averaged
from seanet_jax.training.recipe import Recipe
from seanet_jax.training.sharpness import sharpness_aware_gradient


class Metrics(NamedTuple):
    """Sums over the images seen so far.

    Attributes:
        loss_sum: Sum of the images' losses, a float32 scalar. See ``seanet_jax.models.scores``.
        num_correct: Number of images whose largest score is that of their label, an int32 scalar.
        num_images: Number of images, an int32 scalar.
    """

    loss_sum: jax.Array
    num_correct: jax.Array
    num_images: jax.Array

    @classmethod
    def zero(cls) -> "Metrics":
        """Returns the metrics of no images."""
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def add(self, losses: jax.Array, scores: jax.Array, labels: jax.Array) -> "Metrics":
        """Returns these metrics with a batch added. Images with the label -1 are padding and do not count.

        Args:
            losses: The images' losses, ``[N]``.
            scores: The network's scores, ``[N, classes]``.
            labels: The images' labels, ``[N]``.
        """
        real = labels >= 0
        return Metrics(
            self.loss_sum + jnp.where(real, losses, 0).sum(),
            self.num_correct + (real & (scores.argmax(-1).astype(labels.dtype) == labels)).sum(dtype=jnp.int32),
            self.num_images + real.sum(dtype=jnp.int32),
        )


class EvalMetrics(NamedTuple):
    """Sums over the images that a network is evaluated on.

    Attributes:
        total: Sums over all images.
        correct: Number of images of each class whose largest score is that of their label, int32 ``[classes]``.
        images: Number of images of each class, int32 ``[classes]``.
    """

    total: Metrics
    correct: jax.Array
    images: jax.Array

    @classmethod
    def zero(cls, num_classes: int) -> "EvalMetrics":
        """Returns the metrics of no images.

        Args:
            num_classes: Number of classes.
        """
        return cls(Metrics.zero(), *(jnp.zeros(num_classes, jnp.int32) for _ in range(2)))

    def add(self, kind: Scores, scores: jax.Array, labels: jax.Array) -> "EvalMetrics":
        """Returns these metrics with a batch added. Images with the label -1 are padding and do not count.

        Args:
            kind: The kind of scores, which defines their loss.
            scores: The network's scores, ``[N, classes]``.
            labels: The images' labels, ``[N]``.
        """
        is_label = labels[:, None] == jnp.arange(scores.shape[1], dtype=labels.dtype)[None]
        is_correct = is_label & (scores.argmax(-1).astype(labels.dtype) == labels)[:, None]
        losses = kind.loss(scores, jnp.maximum(labels, 0))
        return EvalMetrics(
            self.total.add(losses, scores, labels),
            self.correct + is_correct.sum(0, dtype=jnp.int32),
            self.images + is_label.sum(0, dtype=jnp.int32),
        )


class Average(NamedTuple):
    """An exponential moving average of a network over the training steps.

    Attributes:
        params: Averages of the parameters.
        batch_stats: Averages of the running means and variances.
    """

    params: Any
    batch_stats: Any


class TrainState(NamedTuple):
    """The training state: everything that a step changes, and everything that a checkpoint has to hold.

    Attributes:
        step: Number of optimizer steps done, an int32 scalar.
        params: Nested dict of float32 parameters.
        batch_stats: Nested dict of running means and variances.
        opt_state: State of the optax optimizer.
        metrics: Metrics of the current epoch's training batches so far.
        ema: Moving average of the network; None if the recipe keeps none. It is not part of a checkpoint then.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    metrics: Metrics
    ema: Average | None = None


class Images(NamedTuple):
    """Images on the devices.

    Attributes:
        images: Pixels, uint8 ``[N, H, W, C]``.
        labels: Labels, int32 ``[N]``; -1 marks padding.
    """

    images: jax.Array
    labels: jax.Array


def create_state(model: Network, optimizer: optax.GradientTransformation, *, average: bool = False) -> TrainState:
    """Returns the training state before the first step.

    Args:
        model: The network with its initial parameters.
        optimizer: The optimizer of the parameters.
        average: Whether the recipe keeps a moving average of the network, which starts as the network itself.
    """
    _, params, batch_stats = split_model(model)
    # Copied, because a donated state must not hold an array twice.
    ema = jax.tree.map(jnp.copy, Average(params, batch_stats)) if average else None
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), Metrics.zero(), ema)


def abstract_state(
    config: NetworkConfig, optimizer: optax.GradientTransformation, *, average: bool = False
) -> tuple[Network, TrainState]:
    """Returns a network and its training state with shapes and dtypes in place of arrays. Computes nothing.

    Args:
        config: The network's configuration.
        optimizer: The optimizer of the parameters.
        average: Whether the recipe keeps a moving average of the network.
    """

    def new_network() -> Network:
        return build(config, rngs=nnx.Rngs(0))

    return nnx.eval_shape(new_network), jax.eval_shape(lambda: create_state(new_network(), optimizer, average=average))


def epoch_order(key: jax.Array, epoch: jax.Array, *, num_images: int) -> jax.Array:
    """Returns the order in which an epoch visits the training images.

    Args:
        key: The run's random key for orders.
        epoch: Index of the epoch, from 0, an int32 scalar.
        num_images: Number of training images.

    Returns:
        A permutation of the images' indices, int32 ``[num_images]``.
    """
    # An array, as the dtype of the permutation of a number depends on jax_enable_x64.
    return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(num_images, dtype=jnp.int32))


TrainStep = Callable[[TrainState, Images, jax.Array, jax.Array], tuple[TrainState, Metrics]]


def make_train_step(
    model: Network,
    optimizer: optax.GradientTransformation,
    dataset: Dataset,
    mesh: Mesh,
    recipe: Recipe,
) -> TrainStep:
    """Returns ``train_step(state, images, order, key) -> (state, metrics of the epoch so far)``.

    The loss in the metrics is the one that is minimized: of smoothed, mixed and weighted labels if the recipe asks for
    these. An image that is mixed of several counts as correct if the prediction is the class of the largest share.

    Args:
        model: The network's structure. Its parameters are not used. It is put into training mode.
        optimizer: The optimizer of the parameters.
        dataset: The data set, for its normalization, its number of images, the counts of its classes, and whether
            mirroring keeps a class.
        mesh: The device mesh. The batch is sharded along its ``data`` axis.
        recipe: The recipe, for the size of the batch, the augmentation, the loss, and the moving average.

    Returns:
        A pure function, to be jitted with the state donated.
    """
    model.train()
    graphdef, _, _ = split_model(model)
    kind, spec, batch_size = model.config.scores, dataset.image_spec, recipe.batch_size
    steps_per_epoch = len(dataset.train_images) // batch_size
    augmentation = _augmentation(recipe, dataset)
    balanced = recipe.class_weights == "balanced"
    weights = balanced_class_weights(dataset.train_labels, spec.num_classes) if balanced else None

    def losses_of(scores: jax.Array, targets: jax.Array) -> jax.Array:
        if recipe.mixes_labels:
            assert kind.soft_loss is not None  # TrainConfig refuses such recipes
            return kind.soft_loss(scores, targets if weights is None else targets * jnp.asarray(weights)[None])
        losses = kind.loss(scores, targets)
        return losses if weights is None else losses * jnp.asarray(weights)[targets]

    def loss_fn(params: Any, batch_stats: Any, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, Any]:
        network = nnx.merge(graphdef, params, batch_stats)
        scores, agreement = network.training_scores(images)
        chex.assert_shape(scores, (batch_size, spec.num_classes))
        new_stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        losses = losses_of(scores, targets)
        return losses.mean() + agreement, (losses, scores, new_stats)

    def train_step(state: TrainState, train: Images, order: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
        # Which batch of the epoch this is follows from the step alone, so no position has to be saved.
        position = state.step % steps_per_epoch
        chosen = jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))
        batch = sharding.batch_sharding(mesh)
        images = jax.lax.with_sharding_constraint(train.images[chosen], batch)
        labels = jax.lax.with_sharding_constraint(train.labels[chosen], batch)
        key = jax.random.fold_in(key, state.step)
        images = augmentation.pixels(key, images, spec.mean_pixel)
        targets = labels
        if recipe.mixes_labels:
            targets = smoothed(labels, spec.num_classes, recipe.label_smoothing)
        if augmentation.mixes:
            images, targets = augmentation.mixed(key, images, targets, spec.normalize)
            labels = targets.argmax(-1).astype(labels.dtype)
        else:
            images = spec.normalize(images)

        def gradient_fn(params: Any) -> tuple[tuple[jax.Array, Any], Any]:
            return jax.value_and_grad(loss_fn, has_aux=True)(params, state.batch_stats, images, targets)

        if recipe.sam_rho is None:
            result, gradients = gradient_fn(state.params)
        else:
            result, gradients = sharpness_aware_gradient(gradient_fn, state.params, recipe.sam_rho)
        _, (losses, scores, batch_stats) = result
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None
        if recipe.ema_decay is not None:
            ema = averaged(state.ema, Average(params, batch_stats), recipe.ema_decay, state.step)

        # The metrics start anew at the first step of each epoch.
        fresh = jax.tree.map(lambda total: jnp.where(position == 0, 0, total), state.metrics)
        metrics = fresh.add(losses, scores, labels)
        return TrainState(state.step + 1, params, batch_stats, opt_state, metrics, ema), metrics

    return train_step


def several_steps(train_step: TrainStep, count: int) -> TrainStep:
    """Returns a function that takes several training steps in one call, and returns the metrics after each of them.

    A device that is fast at a step otherwise waits for Python between steps. XLA may fuse operations in a loop in
    another way than outside of it, so that the results may differ in their rounding from those of single steps.

    Args:
        train_step: One training step, from ``make_train_step``.
        count: Number of steps of a call. The call must not go beyond an epoch, which has one order of its images.

    Returns:
        A pure function of the same arguments, to be jitted with the state donated. The arrays of its metrics have a
        leading axis of ``count`` steps.
    """

    def train_steps(state: TrainState, train: Images, order: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda before, _: train_step(before, train, order, key), state, length=count)

    return train_steps


def smoothed(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Returns labels as distributions: ``1 - smoothing`` on the label, and ``smoothing`` spread over all classes.

    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", section 7, smooth labels in this way.

    Args:
        labels: Labels, integers ``[N]``.
        num_classes: Number of classes.
        smoothing: Share that is spread evenly over all classes, the label's included.

    Returns:
        Distributions, float32 ``[N, num_classes]``.
    """
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return one_hot * (1 - smoothing) + smoothing / num_classes


def _augmentation(recipe: Recipe, dataset: Dataset) -> Augmentation:
    if not recipe.augment:
        return Augmentation(crop_and_mirror=False)
    return Augmentation(
        flip=dataset.flip and recipe.mirror,
        padding=recipe.padding,
        cutout=recipe.cutout,
        erasing=recipe.erasing,
        trivial_augment=recipe.trivial_augment,
        cutmix=recipe.cutmix,
        mixup=recipe.mixup,
    )


EvalStep = Callable[[EvalMetrics, Any, Any, Images], EvalMetrics]


def make_eval_step(model: Network, dataset: Dataset, mesh: Mesh) -> EvalStep:
    """Returns ``eval_step(metrics, params, batch_stats, batch) -> metrics``, which adds a batch to the metrics.

    Args:
        model: The network's structure. Its parameters are not used. It is put into evaluation mode.
        dataset: The data set, for its normalization.
        mesh: The device mesh. The batch is sharded along its ``data`` axis.

    Returns:
        A pure function, to be jitted with the metrics donated.
    """
    model.eval()
    graphdef, _, _ = split_model(model)

    def eval_step(metrics: EvalMetrics, params: Any, batch_stats: Any, batch: Images) -> EvalMetrics:
        images, labels = jax.lax.with_sharding_constraint(batch, sharding.batch_sharding(mesh))
        network = nnx.merge(graphdef, params, batch_stats)
        return metrics.add(model.config.scores, network(dataset.image_spec.normalize(images)), labels)

    return eval_step
