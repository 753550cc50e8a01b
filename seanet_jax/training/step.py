"""One optimiser step and one evaluation step: pure functions of explicit state, to be jitted over a mesh.

Images stay on the devices as uint8 for the whole run; each device has a share and gives what it has of every batch.
Order and augmentation are functions of (seed, epoch, step), so a resumed run sees what the run that never stopped would
have seen, on whatever number of devices.
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
from seanet_jax.models import Network
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import Scores
from seanet_jax.training import sharding


class Metrics(NamedTuple):
    """Sums over the images seen.

    Attributes:
        loss_sum: float32 scalar, sum of the losses of the images' scores, see ``seanet_jax.models.scores``.
        num_correct: int32 scalar, images whose largest score is their label's.
        num_images: int32 scalar.
    """

    loss_sum: jax.Array
    num_correct: jax.Array
    num_images: jax.Array

    @classmethod
    def zero(cls) -> "Metrics":
        """No images seen."""
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def add(self, kind: Scores, scores: jax.Array, labels: jax.Array) -> "Metrics":
        """Adds a batch; a label of -1 marks padding and does not count.

        Args:
            kind: of the scores.
            scores: ``[N, classes]``.
            labels: ``[N]``.
        """
        real = labels >= 0
        losses = kind.loss(scores, jnp.maximum(labels, 0))
        return Metrics(
            self.loss_sum + jnp.where(real, losses, 0).sum(),
            self.num_correct + (real & (scores.argmax(-1) == labels)).sum(dtype=jnp.int32),
            self.num_images + real.sum(dtype=jnp.int32),
        )


class TrainState(NamedTuple):
    """All that changes while training, and all that a checkpoint needs.

    Attributes:
        step: int32 scalar, optimiser steps done.
        params: nested dict of float32 parameters.
        batch_stats: nested dict of running means and variances.
        opt_state: of the optax transformation.
        metrics: of the current epoch's training batches so far.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    metrics: Metrics


class Images(NamedTuple):
    """Images on the device.

    Attributes:
        images: uint8 ``[N, H, W, C]``.
        labels: int32 ``[N]``; -1 marks padding.
    """

    images: jax.Array
    labels: jax.Array


def create_state(model: Network, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    _, params, batch_stats = split_model(model)
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), Metrics.zero())


def epoch_order(key: jax.Array, epoch: jax.Array, *, num_images: int) -> jax.Array:
    """The order in which an epoch visits the training images.

    Args:
        key: of the run.
        epoch: int32 scalar, from 0.
        num_images: of the training set.

    Returns:
        int32 ``[num_images]``, a permutation.
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_images)


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
    """Builds ``train_step(state, images, order, key) -> (state, metrics of the epoch so far)``.

    Args:
        model: gives the structure, and is left in training mode; its parameters are not used.
        optimizer: updates the parameters.
        dataset: gives normalisation and whether mirroring is allowed.
        mesh: the batch is split over its ``data`` axis.
        batch_size: images per step.
        use_augmentation: whether to crop and mirror.

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
        position = state.step % steps_per_epoch
        chosen = jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))
        batch = sharding.split_batch(mesh)
        images = jax.lax.with_sharding_constraint(train.images[chosen], batch)
        labels = jax.lax.with_sharding_constraint(train.labels[chosen], batch)
        if use_augmentation:
            images = augment(jax.random.fold_in(key, state.step), images, flip=dataset.flip)
        images = dataset.image_spec.normalize(images)

        gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, (scores, batch_stats)), gradients = gradient_fn(state.params, state.batch_stats, images, labels)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        fresh = jax.tree.map(lambda total: jnp.where(position == 0, 0, total), state.metrics)
        metrics = fresh.add(kind, scores, labels)
        return TrainState(state.step + 1, params, batch_stats, opt_state, metrics), metrics

    return train_step


EvalStep = Callable[[Metrics, Any, Any, Images], Metrics]


def make_eval_step(model: Network, dataset: Dataset, mesh: Mesh) -> EvalStep:
    """Builds ``eval_step(metrics, params, batch_stats, batch) -> metrics``: adds a batch of images.

    Args:
        model: gives the structure, and is left in evaluation mode; its parameters are not used.
        dataset: gives the normalisation.
        mesh: the batch is split over its ``data`` axis.

    Returns:
        A pure function, to be jitted with the metrics donated.
    """
    model.eval()
    graphdef, _, _ = split_model(model)

    def eval_step(metrics: Metrics, params: Any, batch_stats: Any, batch: Images) -> Metrics:
        images, labels = jax.lax.with_sharding_constraint(batch, sharding.split_batch(mesh))
        network = nnx.merge(graphdef, params, batch_stats)
        return metrics.add(model.config.scores, network(dataset.image_spec.normalize(images)), labels)

    return eval_step
