import dataclasses
import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seanet_jax import SEANet, SEANetConfig
from seanet_jax.data.augment import Augmentation, augment
from seanet_jax.data.dataset import Dataset
from seanet_jax.image_spec import ImageSpec
from seanet_jax.layers.modules import BatchNorm
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import LOGITS, cross_entropy
from seanet_jax.training import sharding
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.recipe import Recipe
from seanet_jax.training.step import (
    EvalMetrics,
    Images,
    Metrics,
    TrainState,
    abstract_state,
    create_state,
    epoch_order,
    make_eval_step,
    make_train_step,
    smoothed,
)

CLASSES, TRAIN, TEST, BATCH = 5, 14, 13, 4  # three steps an epoch, two images left out
STEPS = TRAIN // BATCH


@functools.cache
def dataset(flip=True):
    rng = np.random.default_rng(0)
    return Dataset(
        name="made",
        train_images=rng.integers(0, 256, (TRAIN, 8, 8, 3), np.uint8),
        train_labels=rng.integers(0, CLASSES, TRAIN, np.int32),
        test_images=rng.integers(0, 256, (TEST, 8, 8, 3), np.uint8),
        test_labels=rng.integers(0, CLASSES, TEST, np.int32),
        image_spec=ImageSpec(8, 8, (0.5, 0.4, 0.6), (0.25, 0.2, 0.3), tuple("abcde")),
        flip=flip,
    )


class Bare(nnx.Module):
    """What a step needs of a network, its call excepted."""

    config = types.SimpleNamespace(scores=LOGITS)

    def training_scores(self, x):
        return self(x), jnp.zeros(())


class Perceptron(Bare):
    """A network with parameters and statistics that, unlike one with convolutions, compiles in no time."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.bn = BatchNorm(3)
        self.kernel = nnx.Param(jnp.asarray(rng.normal(size=(192, CLASSES)) / 14, jnp.float32))

    def __call__(self, x):
        return self.bn(x).reshape(len(x), -1) @ self.kernel[...]


def small_seanet():
    """With made values: the initial distributions take longer to compile than all the rest."""
    config = SEANetConfig(stage_sizes=(1,), widths=(4,), stem_width=4, reduction=2, num_classes=CLASSES)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: SEANet(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    values = {
        path: jnp.asarray(rng.uniform(0.5 if path[-1] in ("scale", "var") else -0.5, 1, leaf.shape), jnp.float32)
        for path, leaf in nnx.to_flat_state(state)
    }
    return nnx.merge(graphdef, nnx.from_flat_state(values))


def new_model(kind="perceptron"):
    return Perceptron() if kind == "perceptron" else small_seanet()


def train_images(data):
    return Images(jnp.asarray(data.train_images), jnp.asarray(data.train_labels))


@functools.cache
def recipe():
    # The rate changes in the run: after its first epoch.
    return optimizer(TrainConfig(decay_every=1, decay_factor=0.5, weight_decay=0.01), STEPS)


def train_step(kind="perceptron", use_augmentation=False, flip=True, *, model=None, data=None, **fields):
    model, data = model or new_model(kind), data or dataset(flip)
    of_step = Recipe(batch_size=BATCH, augment=use_augmentation, **fields)
    return jax.jit(make_train_step(model, recipe(), data, sharding.make_mesh(), of_step))


jitted_train_step = functools.cache(train_step)


# Metrics


def test_metrics_sum_losses_hits_and_images():
    logits = np.random.default_rng(0).normal(size=(6, CLASSES)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 4, 0], np.int32)
    batch = (cross_entropy(jnp.asarray(logits), jnp.asarray(labels)), jnp.asarray(logits), jnp.asarray(labels))
    metrics = Metrics.zero().add(*batch).add(*batch)
    losses = np.log(np.exp(logits.astype(np.float64)).sum(1)) - logits[np.arange(6), labels]
    np.testing.assert_allclose(metrics.loss_sum, 2 * losses.sum(), rtol=1e-5)
    assert metrics.num_correct == 2 * (logits.argmax(1) == labels).sum()
    assert metrics.num_images == 12
    chex.assert_type(list(metrics), [jnp.float32, jnp.int32, jnp.int32])
    chex.assert_shape(list(metrics), ())


def test_metrics_of_an_evaluation_count_each_class():
    logits = np.random.default_rng(0).normal(size=(40, CLASSES)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, CLASSES - 1, 40).astype(np.int32)  # the last class has no image
    metrics = EvalMetrics.zero(CLASSES)
    for half in (slice(None, 20), slice(20, None)):
        metrics = metrics.add(LOGITS, jnp.asarray(logits[half]), jnp.asarray(labels[half]))
    right = logits.argmax(1) == labels
    np.testing.assert_array_equal(metrics.images, [(labels == label).sum() for label in range(CLASSES)])
    np.testing.assert_array_equal(metrics.correct, [(right & (labels == label)).sum() for label in range(CLASSES)])
    assert metrics.total.num_correct == right.sum() > 0
    chex.assert_type([metrics.correct, metrics.images], jnp.int32)


def test_metrics_ignore_padding_whatever_its_logits():
    logits = np.random.default_rng(0).normal(size=(4, CLASSES)).astype(np.float32)
    labels = np.array([3, -1, 1, -1], np.int32)
    real = EvalMetrics.zero(CLASSES).add(LOGITS, jnp.asarray(logits[::2]), jnp.asarray(labels[::2]))
    logits[1], logits[3] = np.inf, [9, 0, 0, 0, 0]
    padded = EvalMetrics.zero(CLASSES).add(LOGITS, jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(padded.total.loss_sum, real.total.loss_sum, rtol=1e-6)
    chex.assert_trees_all_equal(padded[1:], real[1:])
    assert padded.total.num_correct == real.total.num_correct
    assert padded.total.num_images == 2


def test_metrics_of_padding_alone_are_zero():
    metrics = EvalMetrics.zero(CLASSES).add(LOGITS, jnp.ones((3, CLASSES)), jnp.full(3, -1))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(metrics))


# Order


def test_epoch_order_is_a_permutation_of_the_images():
    for epoch in range(3):
        order = epoch_order(jax.random.key(0), jnp.int32(epoch), num_images=50)
        chex.assert_type(order, jnp.int32)
        np.testing.assert_array_equal(np.sort(order), np.arange(50))


def test_epoch_order_depends_on_epoch_and_key_alone():
    order = functools.partial(epoch_order, num_images=50)
    first = order(jax.random.key(0), jnp.int32(0))
    np.testing.assert_array_equal(first, order(jax.random.key(0), jnp.int32(0)))
    assert (first != order(jax.random.key(0), jnp.int32(1))).any()
    assert (first != order(jax.random.key(1), jnp.int32(0))).any()
    jitted = jax.jit(epoch_order, static_argnames="num_images")(jax.random.key(0), jnp.int32(0), num_images=50)
    np.testing.assert_array_equal(first, jitted)


# Training


@functools.cache
def by_hand(kind="perceptron"):
    """Takes an optimizer step on images that are chosen and normalized already; returns the batch's metrics too."""
    graphdef, _, _ = split_model(new_model(kind))

    @jax.jit
    def step(state, images, labels):
        def loss_fn(params):
            network = nnx.merge(graphdef, params, state.batch_stats)
            logits = network(images)
            losses = cross_entropy(logits, labels)
            return losses.mean(), (losses, logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)))

        gradients, (losses, logits, stats) = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = recipe().update(gradients, state.opt_state, state.params)
        new_state = TrainState(
            state.step + 1, optax.apply_updates(state.params, updates), stats, opt_state, state.metrics
        )
        return new_state, Metrics.zero().add(losses, logits, labels)

    return step


@pytest.mark.parametrize(
    ("kind", "use_augmentation"),
    [pytest.param("seanet", False, marks=pytest.mark.slow), ("perceptron", False), ("perceptron", True)],
)
def test_steps_equal_hand_written_ones_over_more_than_an_epoch(kind, use_augmentation):
    data, key = dataset(), jax.random.key(7)
    train, step = train_images(data), jitted_train_step(kind, use_augmentation)
    state = expected = create_state(new_model(kind), recipe())
    sums = Metrics.zero()
    for number in range(STEPS + 2):
        epoch, position = divmod(number, STEPS)
        order = epoch_order(key, jnp.int32(epoch), num_images=TRAIN)
        state, metrics = step(state, train, order, key)

        chosen = np.asarray(order)[position * BATCH : (position + 1) * BATCH]
        images = train.images[chosen]
        if use_augmentation:
            images = augment(jax.random.fold_in(key, number), images, flip=True)
        images = data.image_spec.normalize(images)
        expected, batch_metrics = by_hand(kind)(expected, images, train.labels[chosen])
        sums = jax.tree.map(jnp.add, Metrics.zero() if position == 0 else sums, batch_metrics)

        assert state.step == number + 1
        for ours, theirs in ((metrics, sums), (state.metrics, sums), (state[:4], expected[:4])):
            chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert sums.num_images == 2 * BATCH


def test_without_flip_images_are_cropped_but_not_mirrored():
    data, key = dataset(flip=False), jax.random.key(7)
    order = jnp.arange(TRAIN)
    state = create_state(new_model(), recipe())
    images = augment(jax.random.fold_in(key, 0), train_images(data).images[:BATCH], flip=False)
    expected, _ = by_hand()(state, data.image_spec.normalize(images), train_images(data).labels[:BATCH])
    result, _ = jitted_train_step("perceptron", True, False)(state, train_images(data), order, key)
    chex.assert_trees_all_close(result.params, expected.params, rtol=1e-4, atol=1e-5)


def test_the_same_state_and_inputs_give_the_same_result():
    state, train = create_state(new_model(), recipe()), train_images(dataset())
    arguments = (state, train, jnp.arange(TRAIN), jax.random.key(0))
    first = jitted_train_step("perceptron", True)(*arguments)
    chex.assert_trees_all_equal(first, jitted_train_step("perceptron", True)(*arguments))
    other, _ = jitted_train_step("perceptron", True)(state, train, jnp.arange(TRAIN), jax.random.key(1))
    assert not np.array_equal(first[0].params["kernel"], other.params["kernel"])


def test_the_parameters_of_the_model_given_are_not_used():
    arguments = (train_images(dataset()), jnp.arange(TRAIN), jax.random.key(0))
    state = create_state(new_model(), recipe())
    model = new_model()
    model.kernel[...] = model.kernel[...] * 0
    result, _ = train_step(model=model)(state, *arguments)
    chex.assert_trees_all_close(result, jitted_train_step()(state, *arguments)[0], rtol=1e-6, atol=1e-7)


class Decayed(Perceptron):
    """A perceptron that adds the sum of its squared weights to its loss, as EncapNet++ adds its agreement."""

    def training_scores(self, x):
        return self(x), (self.kernel[...] ** 2).sum()


def test_the_term_of_a_network_is_in_the_gradient_and_not_in_the_loss_of_the_records():
    arguments = (create_state(new_model(), recipe()), train_images(dataset()), jnp.arange(TRAIN), jax.random.key(0))
    found, metrics = train_step(model=Decayed())(*arguments)
    without, expected = jitted_train_step()(*arguments)
    kernel, rate = arguments[0].params["kernel"], 0.1
    np.testing.assert_allclose(found.params["kernel"], without.params["kernel"] - rate * 2 * kernel, atol=1e-5)
    np.testing.assert_allclose(metrics.loss_sum, expected.loss_sum, rtol=1e-6)


class Recorder(Bare):
    """Counts in its statistics how often it saw which image; an image's pixels are its number."""

    def __init__(self):
        self.logits = nnx.Param(jnp.zeros(CLASSES))
        self.seen = nnx.BatchStat(jnp.zeros(TRAIN, jnp.int32))

    def __call__(self, x):
        numbers = jnp.round(x[:, 0, 0, 0] * 255).astype(jnp.int32)
        self.seen[...] = self.seen[...].at[numbers].add(1)
        return jnp.broadcast_to(self.logits[...], (len(x), CLASSES))


def test_an_epoch_visits_the_first_images_of_its_order_once_and_the_remainder_never():
    numbered = np.arange(TRAIN, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    spec = ImageSpec(2, 2, (0.0,) * 3, (1.0,) * 3, tuple("abcde"))
    data = dataclasses.replace(dataset(), train_images=numbered, test_images=numbered[:TEST], image_spec=spec)
    step = train_step(model=Recorder(), data=data)
    state, seen = create_state(Recorder(), recipe()), np.zeros(TRAIN, np.int32)
    for epoch in range(2):
        order = epoch_order(jax.random.key(0), jnp.int32(epoch), num_images=TRAIN)
        for _ in range(STEPS):
            state, metrics = step(state, train_images(data), order, jax.random.key(0))
        seen[np.asarray(order)[: STEPS * BATCH]] += 1
        np.testing.assert_array_equal(state.batch_stats["seen"], seen)
        assert metrics.num_images == STEPS * BATCH


def test_the_first_state():
    state = create_state(new_model("seanet"), recipe())
    assert state.step == 0
    assert [float(value) for value in state.metrics] == [0, 0, 0]
    momentum = jax.tree.leaves(optax.tree_utils.tree_get(state.opt_state, "trace"))
    assert len(momentum) == len(jax.tree.leaves(state.params))
    assert all((leaf == 0).all() for leaf in momentum)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((state.params, state.batch_stats))} == {"float32"}


# What other recipes change


def changed_step(state=None, **fields):
    """The state and the metrics after the first step of a recipe that differs in some fields, and its first batch."""
    data, key = dataset(), jax.random.key(7)
    average = "ema_decay" in fields
    state = state or create_state(new_model(), recipe(), average=average)
    after, metrics = train_step(**fields)(state, train_images(data), jnp.arange(TRAIN), key)
    return after, metrics, (data.image_spec.normalize(data.train_images[:BATCH]), data.train_labels[:BATCH])


def hand_made_step(images, loss, *, at=None):
    """The parameters after a step of plain gradient descent by the recipe, and the loss, of a loss of the logits."""
    graphdef, params, batch_stats = split_model(new_model())

    def loss_fn(params):
        return loss(nnx.merge(graphdef, params, batch_stats)(images))

    value, gradients = jax.value_and_grad(loss_fn)(params)
    if at is not None:
        norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))
        gradients = jax.grad(loss_fn)(jax.tree.map(lambda p, g: p + at * g / norm, params, gradients))
    updates, _ = recipe().update(gradients, recipe().init(params), params)
    return optax.apply_updates(params, updates), value


def test_smoothed_labels_are_spread_over_all_classes():
    after, metrics, (images, labels) = changed_step(label_smoothing=0.2)
    targets = np.full((BATCH, CLASSES), 0.04, np.float32)
    targets[np.arange(BATCH), labels] += 0.8
    expected, loss = hand_made_step(images, lambda logits: -(targets * jax.nn.log_softmax(logits)).sum(1).mean())
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.loss_sum / BATCH, loss, rtol=1e-5)
    np.testing.assert_allclose(smoothed(jnp.asarray(labels), CLASSES, 0.2), targets, rtol=1e-6)


def class_weights():
    counts = np.bincount(dataset().train_labels, minlength=CLASSES)
    return np.where(counts > 0, TRAIN / (CLASSES * np.maximum(counts, 1)), 0).astype(np.float32)


def test_balanced_classes_weigh_the_losses_of_their_images():
    after, metrics, (images, labels) = changed_step(class_weights="balanced")
    weights = class_weights()[labels]
    assert len(set(weights)) > 1
    expected, loss = hand_made_step(
        images, lambda logits: -(weights * jax.nn.log_softmax(logits)[np.arange(BATCH), labels]).mean()
    )
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.loss_sum / BATCH, loss, rtol=1e-5)


def test_mixed_images_have_mixed_labels_and_count_for_the_larger_share():
    after, metrics, (_, labels) = changed_step(
        use_augmentation=True, mixup=1.0, cutmix=1.0, label_smoothing=0.1, class_weights="balanced"
    )
    key = jax.random.fold_in(jax.random.key(7), 0)
    ours = Augmentation(flip=True, mixup=1.0, cutmix=1.0)
    spec, raw = dataset().image_spec, jnp.asarray(dataset().train_images[:BATCH])
    targets = smoothed(jnp.asarray(labels), CLASSES, 0.1)
    mixed, targets = ours.mixed(key, ours.pixels(key, raw, spec.mean_pixel), targets, spec.normalize)
    assert (np.sort(targets, axis=1)[:, -2] > 0.05).any()  # of two classes
    expected, loss = hand_made_step(
        mixed, lambda logits: -(class_weights() * targets * jax.nn.log_softmax(logits)).sum(1).mean()
    )
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.loss_sum / BATCH, loss, rtol=1e-5)
    model = new_model()
    model.train()
    assert metrics.num_correct == (model(mixed).argmax(1) == targets.argmax(1)).sum()


def test_the_sharpness_aware_step_has_the_gradient_at_the_worse_point_and_the_statistics_of_the_first():
    after, metrics, (images, labels) = changed_step(sam_rho=0.5)
    plain, plain_metrics, _ = changed_step()

    def loss(logits):
        return cross_entropy(logits, labels).mean()

    expected, _ = hand_made_step(images, loss, at=0.5)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(after.params["kernel"], plain.params["kernel"], atol=1e-6)
    chex.assert_trees_all_close((after.batch_stats, metrics), (plain.batch_stats, plain_metrics), rtol=1e-6)


def test_the_moving_average_starts_as_the_network_and_follows_it():
    start = create_state(new_model(), recipe(), average=True)
    chex.assert_trees_all_equal(tuple(start.ema), (start.params, start.batch_stats))
    after, _, _ = changed_step(ema_decay=0.9)
    plain, _, _ = changed_step()
    chex.assert_trees_all_close(after[:5], plain[:5], rtol=1e-6)
    # At the first step, the weight of what was before is 1 / 10, less than the decay.
    for average, old, new in zip(after.ema, start[1:3], plain[1:3], strict=True):
        expected = jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, old, new)
        chex.assert_trees_all_close(average, expected, rtol=1e-5, atol=1e-6)


# Evaluation


def padded(images, labels, multiple):
    """Appends images that would count if their labels did."""
    extra = -len(images) % multiple
    return Images(
        jnp.asarray(np.concatenate([images, np.full((extra, *images.shape[1:]), 200, np.uint8)])),
        jnp.asarray(np.concatenate([labels, np.full(extra, -1, np.int32)])),
    )


@functools.cache
def direct_evaluation():
    """Metrics of all test images in one pass, in NumPy from the logits on."""
    data, model = dataset(), new_model("seanet")
    model.eval()
    logits = nnx.jit(lambda model, x: model(x))(model, data.image_spec.normalize(data.test_images))
    logits = np.asarray(logits, np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(TEST), data.test_labels]
    return losses.sum(), (logits.argmax(1) == data.test_labels).sum()


@pytest.mark.parametrize("batch_size", [1, 4, 13, 16])
def test_evaluation_counts_every_image_once_whatever_the_batch_size(batch_size):
    data, model = dataset(), new_model("seanet")
    step = jax.jit(make_eval_step(model, data, sharding.make_mesh()))
    _, params, batch_stats = split_model(model)
    images = padded(data.test_images, data.test_labels, batch_size)
    metrics = EvalMetrics.zero(CLASSES)
    for start in range(0, len(images.labels), batch_size):
        batch = Images(*(part[start : start + batch_size] for part in images))
        metrics = step(metrics, params, batch_stats, batch)
    loss, correct = direct_evaluation()
    np.testing.assert_allclose(metrics.total.loss_sum, loss, rtol=1e-5)
    assert metrics.total.num_correct == metrics.correct.sum() == correct
    assert metrics.total.num_images == metrics.images.sum() == TEST


def test_evaluation_uses_the_parameters_given_and_their_running_statistics():
    data, model = dataset(), new_model("seanet")
    step = jax.jit(make_eval_step(model, data, sharding.make_mesh()))
    _, params, batch_stats = split_model(model)
    images = Images(jnp.asarray(data.test_images[:4]), jnp.asarray(data.test_labels[:4]))
    losses = [
        float(step(EvalMetrics.zero(CLASSES), p, s, images).total.loss_sum)
        for p, s in (
            (params, batch_stats),
            (jax.tree.map(lambda p: p * 1.1, params), batch_stats),
            (params, jax.tree.map(lambda s: s * 1.1, batch_stats)),
        )
    ]
    assert len(set(losses)) == 3


def test_an_abstract_state_has_the_shapes_of_the_real_one():
    config = SEANetConfig(stage_sizes=(1,), widths=(4,), stem_width=4, reduction=2, aggregate_placement="none")
    network, abstract = abstract_state(config, recipe())
    state = create_state(SEANet(config, rngs=nnx.Rngs(0)), recipe())
    described = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(abstract)]
    assert described == [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    assert isinstance(network, SEANet) and network.config == config


def test_the_order_of_an_epoch_does_not_depend_on_64_bits():
    key = jax.random.key(3)
    expected = epoch_order(key, jnp.int32(2), num_images=50)
    with jax.enable_x64(True):
        found = epoch_order(key, jnp.int32(2), num_images=50)
    assert found.dtype == expected.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected)
