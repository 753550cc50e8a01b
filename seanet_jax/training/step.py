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

from seanet_jax.data.augment import augment
from seanet_jax.data.dataset import Dataset
from seanet_jax.models import Network, NetworkConfig, build
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import Scores
from seanet_jax.training import sharding


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

    def add(self, kind: Scores, scores: jax.Array, labels: jax.Array) -> "Metrics":
        """Returns these metrics with a batch added. Images with the label -1 are padding and do not count.

        Args:
            kind: The kind of scores, which defines their loss.
            scores: The network's scores, ``[N, classes]``.
            labels: The images' labels, ``[N]``.
        """
        real = labels >= 0
        losses = kind.loss(scores, jnp.maximum(labels, 0))
        return Metrics(
            self.loss_sum + jnp.where(real, losses, 0).sum(),
            self.num_correct + (real & (scores.argmax(-1) == labels)).sum(dtype=jnp.int32),
            self.num_images + real.sum(dtype=jnp.int32),
        )


class TrainState(NamedTuple):
    """The training state: everything that a step changes, and everything that a checkpoint has to hold.

    Attributes:
        step: Number of optimizer steps done, an int32 scalar.
        params: Nested dict of float32 parameters.
        batch_stats: Nested dict of running means and variances.
        opt_state: State of the optax optimizer.
        metrics: Metrics of the current epoch's training batches so far.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    metrics: Metrics


class Images(NamedTuple):
    """Images on the devices.

    Attributes:
        images: Pixels, uint8 ``[N, H, W, C]``.
        labels: Labels, int32 ``[N]``; -1 marks padding.
    """

    images: jax.Array
    labels: jax.Array


def create_state(model: Network, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the training state before the first step.

    Args:
        model: The network with its initial parameters.
        optimizer: The optimizer of the parameters.
    """
    _, params, batch_stats = split_model(model)
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), Metrics.zero())


def abstract_state(config: NetworkConfig, optimizer: optax.GradientTransformation) -> tuple[Network, TrainState]:
    """Returns a network and its training state with shapes and dtypes in place of arrays. Computes nothing.

    Args:
        config: The network's configuration.
        optimizer: The optimizer of the parameters.
    """

    def new_network() -> Network:
        return build(config, rngs=nnx.Rngs(0))

    return nnx.eval_shape(new_network), jax.eval_shape(lambda: create_state(new_network(), optimizer))


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
    *,
    batch_size: int,
    use_augmentation: bool,
) -> TrainStep:
    """Returns ``train_step(state, images, order, key) -> (state, metrics of the epoch so far)``.

    Args:
        model: The network's structure. Its parameters are not used. It is put into training mode.
        optimizer: The optimizer of the parameters.
        dataset: The data set, for its normalization, its number of images and whether mirroring keeps a class.
        mesh: The device mesh. The batch is sharded along its ``data`` axis.
        batch_size: Images per step.
        use_augmentation: Whether to crop and mirror the images at random.

    Returns:
        A pure function, to be jitted with the state donated.
    """
    model.train()
    graphdef, _, _ = split_model(model)
    kind = model.config.scores
    steps_per_epoch = len(dataset.train_images) // batch_size

    def loss_fn(params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
        network = nnx.merge(graphdef, params, batch_stats)
        scores, agreement = network.training_scores(images)
        chex.assert_shape(scores, (batch_size, dataset.image_spec.num_classes))
        new_stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return kind.loss(scores, labels).mean() + agreement, (scores, new_stats)

    def train_step(state: TrainState, train: Images, order: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
        # Which batch of the epoch this is follows from the step alone, so no position has to be saved.
        position = state.step % steps_per_epoch
        chosen = jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))
        batch = sharding.batch_sharding(mesh)
        images = jax.lax.with_sharding_constraint(train.images[chosen], batch)
        labels = jax.lax.with_sharding_constraint(train.labels[chosen], batch)
        if use_augmentation:
            images = augment(jax.random.fold_in(key, state.step), images, flip=dataset.flip)
        images = dataset.image_spec.normalize(images)

        gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, (scores, batch_stats)), gradients = gradient_fn(state.params, state.batch_stats, images, labels)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        # The metrics start anew at the first step of each epoch.
        fresh = jax.tree.map(lambda total: jnp.where(position == 0, 0, total), state.metrics)
        metrics = fresh.add(kind, scores, labels)
        return TrainState(state.step + 1, params, batch_stats, opt_state, metrics), metrics

    return train_step


EvalStep = Callable[[Metrics, Any, Any, Images], Metrics]


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

    def eval_step(metrics: Metrics, params: Any, batch_stats: Any, batch: Images) -> Metrics:
        images, labels = jax.lax.with_sharding_constraint(batch, sharding.batch_sharding(mesh))
        network = nnx.merge(graphdef, params, batch_stats)
        return metrics.add(model.config.scores, network(dataset.image_spec.normalize(images)), labels)

    return eval_step
