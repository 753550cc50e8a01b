"""Operations and networks under transforms, flags and meshes of JAX."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cpu_devices import on_devices
from flax import nnx

from seanet_jax import SEANetConfig, SqueezeExcite, create_model
from seanet_jax.data.augment import augment
from seanet_jax.models import EncapNetConfig, build
from seanet_jax.models.network import split_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_two_devices():
    """How much operations and networks on two CPU devices differ from one device, relative, by name."""
    done = on_devices(2, "operations_on_two_devices.py")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_gradients_inside_shard_map_are_those_of_one_device(on_two_devices):
    found = on_two_devices["shard_map"]
    assert {"conv2d wide groups", "preactivated", "transport_divergence"} <= found.keys()
    assert max(found.values()) < 1e-4, found


def test_operations_and_networks_run_under_an_explicit_mesh(on_two_devices):
    found = on_two_devices["explicit"]
    assert {"conv2d wide groups", "preactivated", "train", "augment"} <= found.keys()
    # Gradients of biases before a normalization cancel, so that little more than rounding is left of them.
    assert found.pop("train") < 1e-3
    assert max(found.values()) < 1e-4, found


@pytest.mark.parametrize("name", ["seanet", "encapnet"])
def test_training_needs_no_promotion_of_ranks_or_dtypes(name):
    configs = {
        "seanet": SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, reduction=4),
        # Without an aide, which tests/test_transforms.py has in CapsuleBlock.
        "encapnet": EncapNetConfig(
            widths=(8, 8, 8, 8), stem_width=8, groups=4, image_size=8, agreement=True, conv_method="patches"
        ),
    }
    graphdef, params, stats = split_model(build(configs[name], rngs=nnx.Rngs(0)))
    key, labels = jax.random.key(0), jnp.arange(4)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        network = nnx.merge(graphdef, params, stats)
        pixels = augment(key, images, flip=True).astype(jnp.float32) / 255
        scores, agreement = network.training_scores(pixels)
        return network.config.scores.loss(scores, labels).mean() + agreement

    expected = loss(params)
    loss.clear_cache()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        found = loss(params)
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_an_exported_network_is_that_of_the_platform_asked_for(platform):
    model = create_model("seanet20", stage_sizes=(1,), widths=(16,), stem_width=16, reduction=4, rngs=nnx.Rngs(0))
    model.eval()
    artifact = jax.export.export(jax.jit(lambda x: model(x)), platforms=[platform])(jnp.ones((4, 16, 16, 3)))
    text = artifact.mlir_module()
    # The stem's and, on CUDA, the block's two, which are of one shape and lowered once. On a CPU they are Winograd's.
    assert text.count("stablehlo.convolution") == {"cpu": 1, "cuda": 2}[platform]


def test_a_network_is_exported_for_images_of_any_size():
    model = create_model("seanet20", stage_sizes=(1, 1), widths=(16, 32), stem_width=16, reduction=4, rngs=nnx.Rngs(0))
    model.eval()
    batch, height, width = jax.export.symbolic_shape("batch, height, width")
    shape = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    artifact = jax.export.export(jax.jit(lambda x: model(x)))(shape)
    for size in ((2, 16, 16, 3), (1, 9, 14, 3)):
        x = jax.random.normal(jax.random.key(0), size)
        np.testing.assert_allclose(artifact.call(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_network_evaluates_outside_jit_without_transfers_to_the_device():
    model = create_model("seanet20", stage_sizes=(1, 1), widths=(8, 8), stem_width=4, reduction=2, rngs=nnx.Rngs(0))
    model.eval()
    x = jnp.ones((2, 8, 8, 3))
    with jax.transfer_guard("disallow"):
        scores = jax.block_until_ready(model(x))
    np.testing.assert_allclose(scores, jax.jit(lambda x: model(x))(x), rtol=1e-4, atol=1e-4)


def test_squeeze_excitation_of_one_map_is_that_of_a_batch():
    module = SqueezeExcite(8, 4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (3, 5, 4, 8))
    batched = module(x)
    np.testing.assert_allclose(module(x[0]), batched[0], rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(module)(x), batched, rtol=1e-5)
