"""Modules and networks of this package in other people's projects."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import seanet_jax
from seanet_jax import Aggregate, ImageSpec, SEANet, SEANetConfig, SqueezeExcite, TrainConfig, create_model
from seanet_jax.layers.functional import aggregate
from seanet_jax.layers.modules import BatchNorm
from seanet_jax.models import EncapNet, EncapNetConfig

pytestmark = pytest.mark.slow

SMALL = SEANetConfig(stage_sizes=(1, 1), widths=(8, 16), stem_width=4, reduction=4)


def images(count, size=8, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, size, size, 3))


def test_an_evaluation_view_of_flax_equals_eval():
    model, x = SEANet(SMALL, rngs=nnx.Rngs(0)), images(8)
    model(x)
    before = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    view = nnx.view(model, use_running_average=True)
    found = view(x)
    chex.assert_trees_all_close(view(x[:2]), found[:2], rtol=1e-5)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), before)
    model.eval()
    chex.assert_trees_all_equal(model(x), found)


def test_a_saved_backbone_gets_a_classifier_and_trains(tmp_path):
    SEANet(SMALL, rngs=nnx.Rngs(0)).save_pretrained(tmp_path / "trained")
    SEANet.from_pretrained(tmp_path / "trained", num_classes=0).save_pretrained(tmp_path / "backbone")
    backbone = SEANet.from_pretrained(tmp_path / "backbone")
    backbone.classifier = nnx.Linear(backbone.num_features, 5, rngs=nnx.Rngs(1))
    backbone.train()
    optimizer = nnx.Optimizer(backbone, optax.sgd(0.1), wrt=nnx.Param)
    labels = jnp.arange(8) % 5

    @nnx.jit
    def step(model, optimizer, x):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    before = np.asarray(backbone.classifier.kernel[...])
    losses = [float(step(backbone, optimizer, images(8))) for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0] and (backbone.classifier.kernel[...] != before).all()
    backbone.eval()
    expected = backbone(images(3))
    chex.assert_shape(expected, (3, 5))
    backbone.save_pretrained(tmp_path / "new")
    for again in (nnx.merge(*nnx.split(backbone)), nnx.clone(backbone), SEANet.from_pretrained(tmp_path / "new")):
        chex.assert_trees_all_equal(again(images(3)), expected)


@pytest.mark.parametrize(
    ("network", "config"),
    [(SEANet, SMALL), (EncapNet, EncapNetConfig(widths=(8, 8, 16, 16), stem_width=8, groups=4, image_size=8))],
    ids=["SEANet", "EncapNet"],
)
def test_the_two_largest_scores_of_a_bfloat16_network_do_not_tie(network, config):
    def changed(dtype):
        model = network(dataclasses.replace(config, num_classes=100, dtype=dtype), rngs=nnx.Rngs(0))
        model.eval()
        return model

    model, x = changed("bfloat16"), images(400)
    eager = model(x)
    assert eager.dtype == jnp.float32 and ties_of_the_largest(eager) <= ties_of_the_largest(changed("float32")(x))
    # The classifier adds no rounding of its own: on the same features, eager and jit agree on every image.
    graphdef, state = nnx.split(model.classifier)
    key = "pooled" if network is SEANet else "capsules"
    features = model.features(x)[key]
    compiled = jax.jit(lambda state, features: nnx.merge(graphdef, state)(features))(state, features)
    np.testing.assert_array_equal(compiled.argmax(-1), eager.argmax(-1))
    np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


def ties_of_the_largest(scores):
    """Returns the number of images whose two largest scores are equal."""
    largest = jnp.sort(scores, axis=-1)
    return int((largest[:, -1] == largest[:, -2]).sum())


def test_a_float64_batch_leaves_running_statistics_in_float32():
    with jax.enable_x64(True):
        norm = BatchNorm(4)
        assert norm(jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)))).dtype == jnp.float64
        chex.assert_type([norm.mean[...], norm.var[...]], jnp.float32)


def test_statistics_are_averaged_over_a_named_axis_as_flax_does():
    x = images(8).reshape(2, 4, 8, 8, 3)
    found = []
    for norm in (BatchNorm(3, axis_name="data"), nnx.BatchNorm(3, axis_name="data", rngs=nnx.Rngs(0))):
        graphdef, state = nnx.split(norm)
        apply = jax.vmap(lambda x, g=graphdef, s=state: nnx.merge(g, s, copy=True)(x), axis_name="data")
        found.append(apply(x))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)
    whole = BatchNorm(3)(x.reshape(8, 8, 8, 3)).reshape(x.shape)
    np.testing.assert_allclose(found[0], whole, rtol=1e-5, atol=1e-5)


def test_numpys_numbers_are_sizes_and_rates():
    model = create_model("resnet20", num_classes=np.int64(10), rngs=nnx.Rngs(0))
    assert type(model.config.num_classes) is int
    assert Aggregate(np.int64(4)).factor == 4 and aggregate(jnp.ones((1, 8)), np.int32(4)).shape == (1, 2)
    SqueezeExcite(np.int64(8), np.int64(2), rngs=nnx.Rngs(0))
    spec = ImageSpec(np.int64(8), np.int32(8), (np.float32(0.5),), (np.float64(0.25),), ("a",))
    assert [type(value) for value in (spec.height, spec.width, *spec.mean, *spec.std)] == [int, int, float, float]
    config = TrainConfig(learning_rate=np.float32(0.5), seed=np.int64(3), decay_every=None, decay_at=(np.int64(2),))
    plain = TrainConfig(learning_rate=0.5, seed=3, decay_every=None, decay_at=(2,))
    assert json.dumps(config.to_json()) == json.dumps(plain.to_json())


def test_the_saved_number_of_classes_keeps_a_trained_classifier(tmp_path):
    model = SEANet(SMALL, rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path)
    again = seanet_jax.models.from_pretrained(tmp_path, num_classes=SMALL.num_classes)
    chex.assert_trees_all_equal(again.classifier.kernel[...], model.classifier.kernel[...])
